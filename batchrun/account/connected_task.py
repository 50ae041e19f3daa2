"""The first phase of opening a batch: connect to its account and find its task."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from batchrun.account.account import STARTS_PER_TASK_PER_S, Account, open_account
from batchrun.account.task import Task, find_task
from batchrun.apify.wire import AccountInfo
from batchrun.config import Config
from batchrun.errors import BatchRefused
from batchrun.ledger.facts import ACCOUNT, TASK_ID
from batchrun.ledger.sqlite.reader import LedgerReader
from batchrun.model import TaskId
from batchrun.output.layout import SERVER_STATE
from batchrun.runtime.fast_dataclasses import dataclass

if TYPE_CHECKING:
    from batchrun.server import InlineActor


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectedTask:
    """A batch's task, in the account that its Runs are started in."""

    account: Account
    task: Task


async def connect(
    stack: AsyncExitStack,
    config: Config,
    environ: Mapping[str, str],
    inline_actors: "Mapping[str, InlineActor]",
    account: Account | None,
    ledger: LedgerReader,
) -> ConnectedTask:
    """Connect to the account and find the task. In another account than the batch's, nothing is created.

    Args:
        stack: closes an account that is opened here.
        config: names the platform and the task.
        environ: holds the token.
        inline_actors: coroutines that the embedded server runs as Actors.
        account: an open account with other batches; None: one is opened for this batch alone.
        ledger: of the batch.

    Raises:
        BatchRefused: the platform does not accept the token or knows no such task, or the token is of another account.
        ConfigError: a task of the described name exists and differs.
    """
    if account is not None:
        await account.read_again()
    else:
        account = await stack.enter_async_context(
            open_account(
                config.api,
                config.limits,
                environ=environ,
                server=config.server,
                server_dir=config.out_dir / SERVER_STATE,
                inline_actors=inline_actors,
                # A configured rate above the documented limit is tried; the platform announces its own.
                starts_per_task_per_s=max(config.limits.start_rate, STARTS_PER_TASK_PER_S),
            )
        )
    begun_in, begun_with = await anyio.to_thread.run_sync(_begun, ledger)
    if begun_in is not None:
        refuse_other_account(begun_in, account.info)
    task = await find_task(account.client, config.task, begun_with=begun_with)
    if task.gone and not (begun_in and account.info.id):
        # Another account's token knows neither the task nor the Runs, which would be taken for lost.
        raise BatchRefused(
            f"{task.gone}. Its Runs are not followed: this token does not show whose account it is, or the batch was"
            " begun by a version that did not note the account"
        )
    return ConnectedTask(account=account, task=task)


def _begun(ledger: LedgerReader) -> tuple[str | None, TaskId | None]:
    """Return the account and the task of a batch that has begun."""
    return (None, None) if ledger.is_empty else (ledger.fact(ACCOUNT), ledger.fact(TASK_ID))


def refuse_other_account(begun_in: str, account: AccountInfo) -> None:
    """Refuse a token of another account than that in which the batch was begun.

    Raises:
        BatchRefused: it is of another account; nothing was asked for, and nothing was created.
    """
    if account.id and account.id != begun_in:
        raise BatchRefused(
            f"this batch was begun in the account with the id {begun_in}, and the token is of {account.username}"
            f" ({account.id}). Use the token of the account in which it was begun, or another --out for a new batch"
        )
