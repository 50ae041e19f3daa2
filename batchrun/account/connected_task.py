"""The first phase of opening a batch: connect to its account and find its task."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchrun.account.account import STARTS_PER_TASK_PER_S, Account, open_account
from batchrun.account.task import Task, find_task
from batchrun.config import Config
from batchrun.output.layout import SERVER_STATE

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
) -> ConnectedTask:
    """Connect to the account and find the task.

    Args:
        stack: closes an account that is opened here.
        config: names the platform and the task.
        environ: holds the token.
        inline_actors: coroutines that the embedded server runs as Actors.
        account: an open account with other batches; None: one is opened for this batch alone.

    Raises:
        BatchRefused: the platform does not accept the token or knows no such task.
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
    return ConnectedTask(account=account, task=await find_task(account.client, config.task))
