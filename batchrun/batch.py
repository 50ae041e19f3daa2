"""A batch, composed: configuration -> platform, job file, ledger and engine -> records and a summary."""

import os
import types
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import anyio
import structlog
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import Account
from batchrun.children import open_children, plain_errors
from batchrun.config import Config, OutputConfig
from batchrun.engine.attempt import JobRunner, Postponed, Work
from batchrun.engine.collect import Collector, OutputPlan
from batchrun.engine.follow import Follower
from batchrun.engine.progress import Progress
from batchrun.engine.reconcile import Reconciler
from batchrun.engine.scheduler import Scheduler
from batchrun.engine.slots import Slots
from batchrun.engine.start_gate import StartGate
from batchrun.errors import BatchrunError, first_error
from batchrun.files.sink import explain, sync_directory
from batchrun.job_source import FileSource, check_before_start, open_source
from batchrun.ledger.commit import ECHO, GroupCommit, Journal, open_commit, open_journal
from batchrun.ledger.lock import enter_lock
from batchrun.logs import FILE_NAME, logging_to
from batchrun.model import Ending, Outcome, Record, Summary
from batchrun.platform import SERVER_DIR, Task, find_task, open_platform, read_account
from batchrun.policy.retry import Backoff, RetryPolicy
from batchrun.policy.token_bucket import BURST_SHARE, TokenBucket
from batchrun.report.summary import read_summary
from batchrun.resume import check_all_came, check_identity, take_up
from batchrun.server import InlineActor

#: Records that wait for a slow consumer before starts slow down.
RECORD_BUFFER = 100
#: Slots where the account does not tell its limit.
SLOTS_IF_UNKNOWN = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is known before the first start."""

    account: Account
    task: Task
    max_concurrent_runs: int
    #: Jobs of the file, about; None where that cannot be told cheaply.
    job_count: int | None
    #: Jobs that earlier processes settled, those of them that succeeded, and those left open.
    settled_before: int
    succeeded_before: int
    open_before: int
    #: Known costs of the jobs settled before, in US dollars.
    cost_before_usd: float
    #: Properties of the task's input whose nested fields a shallow merge erases.
    lost_fields: tuple[str, ...]


class Batch:
    """An open batch, made by `open_batch`: `run` it, or iterate over its records, once.

    Leaving the context early leaves Runs running and noted; the same batch opened again goes on with them.
    """

    def __init__(
        self,
        *,
        opening: Opening,
        out_dir: Path,
        engine: "_Engine",
        records: MemoryObjectReceiveStream[Record],
        children: TaskGroup,
    ) -> None:
        self.opening = opening
        self.out_dir = out_dir
        self.progress = engine.progress
        self._engine = engine
        self._children = children
        self._records = records
        self._is_begun = False
        self._is_stopped = False
        self._failure: BatchrunError | None = None

    @property
    def live_runs(self) -> int:
        """Runs that are live or being started, as far as this process knows."""
        return self._engine.gate.live

    @property
    def outage(self) -> str:
        """Why the platform cannot be reached; empty while it can."""
        return self._engine.client.outage

    def stop_starting(self) -> None:
        """Start nothing more; the batch ends when the live Runs have ended and are settled."""
        self._is_stopped = True
        self._engine.scheduler.stop_starting()

    async def run(self) -> Summary:
        """Carry the batch out to its end.

        Raises:
            BatchRefused: the platform refused the batch; it can be resumed.
            OutputError: this machine got in the way; it can be resumed.
        """
        async for _ in self:
            pass
        return await self.summary()

    def __aiter__(self) -> Self:
        """Carry the batch out, yielding each record once it is durable; a slow consumer slows starts."""
        if not self._is_begun:
            self._is_begun = True
            self._children.start_soon(self._carry_out)
        return self

    async def __anext__(self) -> Record:
        try:
            return await self._records.receive()
        except anyio.EndOfStream:
            if self._failure is not None:
                raise self._failure from None
            raise StopAsyncIteration from None

    async def _carry_out(self) -> None:
        try:
            await self._engine.run()
        except* BatchrunError as group:
            self._failure = first_error(group)

    async def summary(self) -> Summary:
        """Return what the batch has come to, its earlier processes included."""
        summary = await anyio.to_thread.run_sync(read_summary, self.out_dir, self._ending())
        if self._is_stopped and self._engine.scheduler.has_read_all and not summary.open_jobs:
            return replace(summary, ending=Ending.FINISHED)  # stopped when there was nothing left to stop
        return summary

    def _ending(self) -> Ending:
        if self._is_stopped:
            return Ending.INTERRUPTED
        return Ending.IN_DOUBT if self._engine.scheduler.left_open else Ending.FINISHED


@dataclass(frozen=True, slots=True, kw_only=True)
class _Engine:
    """The engine's parts, put together for one batch."""

    client: ApifyClient
    scheduler: Scheduler
    reconciler: Reconciler
    gate: StartGate
    progress: Progress
    resumed: Sequence[Work | Postponed]
    check_all_came: Callable[[], None]
    sending: MemoryObjectSendStream[Record]

    async def run(self) -> None:
        async with self.sending, anyio.create_task_group() as children:
            children.start_soon(self.reconciler.run)
            await self.scheduler.run(self.resumed)
            children.cancel_scope.cancel()
        if not self.scheduler.is_stopped:
            self.check_all_came()


@asynccontextmanager
async def open_batch(
    config: Config,
    *,
    environ: Mapping[str, str] | None = None,
    inline_actors: Mapping[str, InlineActor] = types.MappingProxyType({}),
) -> AsyncIterator[Batch]:
    """Open a batch, new or begun earlier; nothing is started before it is run or iterated over.

    Args:
        config: what `load_config` returned.
        environ: holds the token (APIFY_TOKEN); default: the process's environment.
        inline_actors: coroutines that the embedded server carries out as Actors, by full name.

    Raises:
        ConfigError: the configuration does not fit the batch that was begun, or the existing task.
        JobFileError: the job file cannot be read, or has bad lines and nothing was started yet.
        BatchRefused: the platform does not accept the token or knows no such task.
        OutputError: the output directory is in use, cannot be written, or is damaged.
    """
    out_dir = config.out_dir
    async with plain_errors(), AsyncExitStack() as stack:
        await check_before_start(config)
        await anyio.to_thread.run_sync(_make_directory, out_dir)
        await stack.enter_async_context(enter_lock(out_dir))
        await stack.enter_async_context(_log_beside(out_dir))
        journal = await stack.enter_async_context(open_journal(out_dir))
        client = await stack.enter_async_context(
            open_platform(
                config.api,
                environ=os.environ if environ is None else environ,
                request_rate_per_s=config.limits.request_rate,
                server=config.server,
                server_dir=out_dir / SERVER_DIR,
                inline_actors=inline_actors,
            )
        )
        account = await read_account(client)
        task = await find_task(client, config.task)
        await anyio.to_thread.run_sync(check_identity, journal.ledger, config, task)
        source = await stack.enter_async_context(open_source(config, task.input, journal))
        resumed = await anyio.to_thread.run_sync(take_up, journal, source.job_file, config.retry.max_backoff_s)
        commit = await stack.enter_async_context(open_commit(journal))
        sending, records = anyio.create_memory_object_stream[Record](RECORD_BUFFER)
        stack.callback(sending.close)
        stack.callback(records.close)
        children = await stack.enter_async_context(open_children())
        stack.callback(children.cancel_scope.cancel)
        opening = await anyio.to_thread.run_sync(_opening, config, account, task, journal, source)
        echoes = await anyio.to_thread.run_sync(journal.ledger.fact, ECHO)
        engine = _compose(config, opening, client, commit, journal, source, resumed, sending, echoes)
        yield Batch(opening=opening, out_dir=out_dir, engine=engine, records=records, children=children)


@asynccontextmanager
async def _log_beside(out_dir: Path) -> AsyncIterator[None]:
    """Log into the output directory, unless the program that we are part of has its own place for logs."""
    if structlog.is_configured():
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(logging_to(out_dir / FILE_NAME))
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(stack.close)


def _make_directory(directory: Path) -> None:
    try:
        new = [each for each in (directory, *directory.parents) if not each.exists()]
        directory.mkdir(parents=True, exist_ok=True)
        for each in new:
            sync_directory(each.parent)
    except OSError as error:
        raise explain(error, directory) from error


def _opening(config: Config, account: Account, task: Task, journal: Journal, source: FileSource) -> Opening:
    outcomes, totals = journal.ledger.count_outcomes(), journal.ledger.totals()
    return Opening(
        account=account,
        task=task,
        max_concurrent_runs=_slot_count(config, account, totals.live_runs),
        job_count=source.count_estimate(),
        settled_before=sum(outcomes.values()),
        succeeded_before=outcomes.get(Outcome.SUCCEEDED, 0),
        open_before=totals.open_jobs,
        cost_before_usd=totals.cost_usd,
        lost_fields=source.job_file.lost_fields,
    )


def _slot_count(config: Config, account: Account, ours: int) -> int:
    """Return how many Runs may be live: what was asked for, or what the account has free; one is always ours."""
    wanted = config.limits.max_concurrent_runs
    if wanted != "auto":
        return wanted
    if account.max_concurrent_runs is None:
        return SLOTS_IF_UNKNOWN
    others = max(0, (account.live_runs or 0) - ours)
    return max(1, account.max_concurrent_runs - others - config.limits.leave_free_runs)


def _compose(
    config: Config,
    opening: Opening,
    client: ApifyClient,
    commit: GroupCommit,
    journal: Journal,
    source: FileSource,
    resumed: Sequence[Work | Postponed],
    sending: MemoryObjectSendStream[Record],
    echoes: bool | None,
) -> _Engine:
    gate = StartGate(_start_bucket(config.limits.start_rate))
    progress = Progress()
    reconciler = Reconciler(
        client,
        commit,
        task_id=opening.task.id,
        start_horizon_s=config.limits.start_horizon_s,
        listing_lag_s=config.limits.listing_lag_s,
        echoes=echoes,
    )
    runner = JobRunner(
        client=client,
        ledger=commit,
        gate=gate,
        follower=Follower(client, max_open_polls=config.limits.max_open_polls),
        reconciler=reconciler,
        collector=Collector(client, commit, output_plan(config.output)),
        progress=progress,
        task_id=opening.task.id,
        options=config.run.as_options(),
        retry=_retry_policy(config),
    )
    scheduler = Scheduler(
        source=source,
        ledger=commit,
        runner=runner,
        slots=Slots(opening.max_concurrent_runs),
        gate=gate,
        progress=progress,
        on_record=sending.send,
    )
    return _Engine(
        client=client,
        scheduler=scheduler,
        reconciler=reconciler,
        gate=gate,
        progress=progress,
        resumed=resumed,
        check_all_came=lambda: check_all_came(journal, config.jobs.file),
        sending=sending,
    )


def _start_bucket(rate_per_s: float) -> TokenBucket:
    return TokenBucket(rate_per_s=rate_per_s, burst=max(1, int(rate_per_s * BURST_SHARE)))


def _retry_policy(config: Config) -> RetryPolicy:
    retry = config.retry
    return RetryPolicy(
        max_attempts=retry.max_attempts,
        on=frozenset(Outcome(outcome) for outcome in retry.on),
        backoff=Backoff(first_s=retry.backoff_s, max_s=retry.max_backoff_s),
    )


def output_plan(output: OutputConfig) -> OutputPlan:
    """Return what is collected of every Run."""
    lists = {name: getattr(output, name) for name in ("fields", "omit", "unwind", "flatten")}
    query = {name: ",".join(value) for name, value in lists.items() if value}
    if output.clean:
        query["clean"] = "true"
    return OutputPlan(
        items=output.items,
        max_inline_items=output.max_inline_items,
        page_size=output.page_size,
        is_value_wanted=output.value,
        query=query,
    )


async def run_batch(
    config: Config,
    *,
    environ: Mapping[str, str] | None = None,
    inline_actors: Mapping[str, InlineActor] = types.MappingProxyType({}),
) -> Summary:
    """Carry a batch out to its end, or go on with one that was begun; see `open_batch` for errors."""
    async with open_batch(config, environ=environ, inline_actors=inline_actors) as batch:
        return await batch.run()
