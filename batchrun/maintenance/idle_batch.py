"""A batch that no process runs: its output directory under lock, its platform, and what it left open there."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import anyio

from batchrun.account.connect import open_platform, read_account
from batchrun.account.connected_task import refuse_other_account
from batchrun.apify.client import ApifyClient
from batchrun.config import Config
from batchrun.engine.doubt.candidates import Candidates, Listing
from batchrun.engine.doubt.seen_user_agents import SeenUserAgents
from batchrun.ledger.facts import ACCOUNT
from batchrun.ledger.shared_commits import CommitLog
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.maintenance.noted_config import read_own_config
from batchrun.model import RunId, TaskId
from batchrun.output.layout import SERVER_STATE
from batchrun.output.lock import enter_lock
from batchrun.report.batch_status import Doubt, doubts_of
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleBatch:
    """A batch whose output directory this process alone holds; made by `open_idle_batch`."""

    config: Config
    task_id: TaskId
    client: ApifyClient
    #: Where its ledger's commits go first; None: it has no shared log.
    log: CommitLog | None

    async def runs_for(self, doubts: Collection[Doubt]) -> Listing:
        """List the task's Runs since the earliest attempt in doubt, except those that the ledger knows."""
        earliest_start = min(doubt.attempt.earliest_start for doubt in doubts)
        return await unknown_runs(self.config.out_dir, self.client, self.task_id, earliest_start)


async def unknown_runs(
    directory: Path, client: ApifyClient, task_id: TaskId, since: datetime, max_runs: int | None = None
) -> Listing:
    """List the Runs of a batch's task since a time, without those that its ledger knows; see `Candidates.since`."""

    async def known(run_ids: Collection[RunId]) -> set[RunId]:
        return await anyio.to_thread.run_sync(_known_runs, directory, run_ids)

    return await Candidates(client, task_id, SeenUserAgents()).since(since, known, max_runs)


def _known_runs(directory: Path, run_ids: Collection[RunId]) -> set[RunId]:
    with open_for_reading(directory) as ledger:
        return ledger.known_runs(run_ids)


@asynccontextmanager
async def open_idle_batch(
    directory: Path, environ: Mapping[str, str], client: ApifyClient | None = None
) -> AsyncIterator[IdleBatch]:
    """Lock an output directory, own its shared log, and connect to the platform that its batch was last opened with.

    A worker gives its own `client` of that platform, which is used instead.

    Raises:
        OutputError: the directory holds no batch, or a process runs it, here or on another machine.
        ConfigError: only a shared log has the batch's configuration, or it may be another one's: see `read_own_config`.
        BatchRefused: the platform does not accept the token, or it is of another account.
    """
    read = partial(read_own_config, directory, has_platform=client is not None)
    config, task_id = await anyio.to_thread.run_sync(read)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(enter_lock(directory))
        log = None
        if config.replica.url is not None:
            from batchrun.ledger.shared_log.claim import claimed_log  # noqa: PLC0415 - most batches have none

            claim = claimed_log(config.replica.url, config.replica.lease_s, directory, may_wait=False)
            log = await stack.enter_async_context(claim)
        if client is None:
            platform = open_platform(
                config.api,
                environ=environ,
                request_rate_per_s=config.limits.request_rate,
                server=config.server,
                server_dir=directory / SERVER_STATE,
                inline_actors={},
            )
            opened, _ = await stack.enter_async_context(platform)
        else:
            opened = client
        begun_in = await anyio.to_thread.run_sync(_begun_in, directory)
        refuse_other_account(begun_in, await read_account(opened))
        yield IdleBatch(config=config, task_id=task_id, client=opened, log=log)


def _begun_in(directory: Path) -> str | None:
    with open_for_reading(directory) as ledger:
        return ledger.fact(ACCOUNT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """What a batch left open at the platform."""

    #: Runs without a noted end.
    bound: list[RunId]
    doubts: list[Doubt]


def read_unfinished(directory: Path) -> Unfinished:
    """Return the Runs of a batch that may be live, and its attempts in doubt."""
    with open_for_reading(directory) as ledger:
        # Also Runs that were given up: their jobs are settled.
        return Unfinished(bound=ledger.bound_runs(), doubts=doubts_of(ledger.begun_jobs()))
