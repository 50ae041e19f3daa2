"""Open an account that batches run in: connect to its platform, read it, and watch its limits."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from batchrun.account.connect import open_platform, read_account
from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import AccountInfo
from batchrun.config import AccountLimitsConfig, ApiConfig, ServerConfig
from batchrun.errors import ConnectFailed
from batchrun.output.layout import SERVER_STATE
from batchrun.policy.budget import Budget
from batchrun.policy.platform_rates import STARTS_PER_TASK_PER_S
from batchrun.runtime.children import open_children
from batchrun.runtime.late_imports import need_module

if TYPE_CHECKING:
    from batchrun.account.account import Account
    from batchrun.server import InlineActor

#: Between two tries to read the account, in seconds.
RETRY_INTERVAL_S = 5.0


@asynccontextmanager
async def open_account(
    api: ApiConfig,
    limits: AccountLimitsConfig,
    *,
    environ: Mapping[str, str],
    server: ServerConfig,
    work_dir: Path,
    budget: Budget | None = None,
    inline_actors: "Mapping[str, InlineActor] | None" = None,
    starts_per_task_per_s: float = STARTS_PER_TASK_PER_S,
    note_outage: Callable[[str], None] | None = None,
    is_for_one: bool = False,
) -> "AsyncIterator[Account]":
    """Open an account; its limits are watched while the context lasts.

    Args:
        api: which platform.
        limits: the part of the account that is ours.
        environ: holds the token.
        server: settings of the embedded server, if that is the platform.
        work_dir: where batches are written; an embedded server's state is in it.
        budget: of all batches together; None: unlimited.
        inline_actors: coroutines that the embedded server runs as Actors, by full name.
        starts_per_task_per_s: starts of one task, at most; fewer where the platform announces fewer.
        note_outage: called with the reason after each try while the platform cannot be reached; None: that is an error.
        is_for_one: whether there is never more than one batch.

    Raises:
        BatchRefused: the platform does not accept the token.
        ConnectFailed: the platform does not answer, and `note_outage` is None.
        ConfigError: the token's file, an Actor's directory or the file of faults cannot be used.
    """
    async with open_platform(
        api,
        environ=environ,
        request_rate_per_s=limits.request_rate,
        server=server,
        server_dir=work_dir / SERVER_STATE,
        inline_actors=inline_actors or {},
    ) as (client, page_link):
        info = await read_account(client) if note_outage is None else await _wait_for_account(client, note_outage)
        await need_module("batchrun.account.account")
        from batchrun.account.account import Account  # noqa: PLC0415 - it imports most of the engine

        budget = Budget(None) if budget is None else budget
        account = Account(
            client, info, limits, budget, work_dir, starts_per_task_per_s, page_link, is_for_one=is_for_one
        )
        async with open_children(cancels_on_leaving=True) as children:
            children.start_soon(account.watch.run)
            await account.disk.look()  # before the first start
            children.start_soon(account.disk.run)
            yield account


async def _wait_for_account(client: ApifyClient, note_outage: Callable[[str], None]) -> AccountInfo:
    """Read the account, as soon as the platform can be reached."""
    while True:
        try:
            return await read_account(client)
        except ConnectFailed as error:
            note_outage(error.reason)  # without the advice that is for one command
            await anyio.sleep(RETRY_INTERVAL_S)  # a failure that lasts is raised at once
