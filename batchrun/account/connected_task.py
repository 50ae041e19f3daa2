"""The first phase of opening a batch: connect to its account and find its task."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from batchrun.account.open_account import open_account
from batchrun.account.task import Task, find_task
from batchrun.apify.wire import AccountInfo
from batchrun.config import Config
from batchrun.errors import AnotherBatch, BatchRefused
from batchrun.ledger.facts import ACCOUNT, CONFIG, TASK_ID
from batchrun.ledger.sqlite.reader import LedgerReader
from batchrun.model import TaskId
from batchrun.policy.platform_rates import STARTS_PER_TASK_PER_S
from batchrun.runtime.fast_dataclasses import dataclass

if TYPE_CHECKING:
    from batchrun.account.account import Account
    from batchrun.server import InlineActor


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectedTask:
    """A batch's task, in the account that its Runs are started in."""

    account: "Account"
    task: Task


async def connect(
    stack: AsyncExitStack,
    config: Config,
    environ: Mapping[str, str],
    inline_actors: "Mapping[str, InlineActor]",
    account: "Account | None",
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
        ConfigError: a task of the described name exists and differs; or the batch was begun with another task.
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
                work_dir=config.out_dir,
                inline_actors=inline_actors,
                # A configured rate above the documented limit is tried; the platform announces its own.
                starts_per_task_per_s=max(config.limits.start_rate, STARTS_PER_TASK_PER_S),
                is_for_one=True,
            )
        )
    begun_in, begun_with, begun_as = await anyio.to_thread.run_sync(_begun, ledger)
    refuse_other_account(begun_in, account.info)
    task = await find_task(account.client, config.task, begun_with=begun_with)
    named = _name(config.task.id, config.task.name)
    if task.gone and named is not None and begun_as not in (None, named):
        raise AnotherBatch(
            f"{config.out_dir}: holds another batch: its task is named {begun_as!r}, that of this file {named!r}."
            " Restore the name to resume that batch, or choose another --out for a new one",
            key="task",
        )
    if task.gone and not (begun_in and account.info.id):
        # Another account's token knows neither the task nor the Runs, which would be taken for lost.
        raise BatchRefused(
            f"{task.gone}. Its Runs are not followed: this token does not show whose account it is, or the batch was"
            " begun by a version that did not note the account"
        )
    return ConnectedTask(account=account, task=task)


def _begun(ledger: LedgerReader) -> tuple[str | None, TaskId | None, str | None]:
    """Return the account of a batch that has begun, its task, and the name by which its configuration knew the task."""
    if ledger.is_empty:
        return None, None, None
    noted = (ledger.fact(CONFIG) or {}).get("task")
    return ledger.fact(ACCOUNT), ledger.fact(TASK_ID), _name(noted.get("id"), noted.get("name")) if noted else None


def _name(task_id: str | None, name: str | None) -> str | None:
    """Return the name of a configured task: `shop` of user~shop and of a description; None: it is given by its id."""
    if task_id is None:
        return name
    return task_id.replace("/", "~").partition("~")[2] or None


def refuse_other_account(begun_in: str | None, account: AccountInfo) -> None:
    """Refuse a token of another account than that in which the batch was begun; None: that one is unknown.

    Raises:
        BatchRefused: it is of another account; nothing was asked for, and nothing was created.
    """
    if begun_in is not None and account.id and account.id != begun_in:
        raise BatchRefused(
            f"this batch was begun in the account with the id {begun_in}, and the token is of {account.username}"
            f" ({account.id}). Use the token of the account in which it was begun, or another --out for a new batch"
        )
