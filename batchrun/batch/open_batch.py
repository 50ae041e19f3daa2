"""A batch, composed: configuration -> platform, job file, ledger and engine -> records and a summary."""

import os
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import anyio
import structlog
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from batchrun.account.account import Account
from batchrun.account.task_watch import TaskWatch
from batchrun.batch.backlog import reopen
from batchrun.batch.batch_engine import batch_terms, build_batch_engine, number
from batchrun.batch.ending import summarize, wait_for_final_costs, write_batch_report
from batchrun.batch.resume import ConnectedTask, Resumed, connect, preflight, resume
from batchrun.config import Config, LimitsConfig
from batchrun.engine.build import Engine
from batchrun.engine.limits.account_pool import EQUAL, BatchPriority
from batchrun.engine.notices import BatchOutOfTime
from batchrun.errors import BatchrunError, first_error
from batchrun.ledger.sqlite.journal import Journal, open_journal
from batchrun.model import Command, Ending, Outcome, Record, Selection, Summary
from batchrun.output.layout import BATCH_LOG
from batchrun.output.lock import enter_lock
from batchrun.output.sink import explain, sync_directory
from batchrun.preflight.job_file_head import check_before_start
from batchrun.preflight.recent_runs import Effort, Forecast, read_forecast
from batchrun.runtime.changed import Changed
from batchrun.runtime.children import open_children, plain_errors
from batchrun.runtime.logs import logging_to

if TYPE_CHECKING:
    from batchrun.server import InlineActor

#: Records that wait for a slow consumer before starts slow down.
RECORD_BUFFER = 100


class Batch:
    """An open batch, made by `open_batch`: `run` it, or iterate over its records, once.

    Leaving the context early leaves Runs running and noted; the same batch opened again resumes them.
    """

    def __init__(
        self,
        config: Config,
        connected: ConnectedTask,
        resumed: Resumed,
        journal: Journal,
        engine: Engine,
        children: TaskGroup,
        stream: tuple[MemoryObjectSendStream[Record], MemoryObjectReceiveStream[Record]],
    ) -> None:
        self.out_dir = config.out_dir
        self.opening = resumed.opening
        self.progress = engine.progress
        self._config = config
        self._connection = connected
        self._resumed = resumed
        self._journal = journal
        self._engine = engine
        self._children = children
        self._task_watch = TaskWatch(connected.account.client, connected.task)
        self._jobs = resumed.jobs
        self._sending, self._records = stream
        self._on_record: Callable[[Record], Awaitable[None]] = self._sending.send
        #: Where the report was written, once the batch is closed and if it was asked for.
        self.report: Path | None = None
        self._is_begun = False
        self._failure: BatchrunError | None = None

    @property
    def is_begun(self) -> bool:
        """Whether this process has begun to carry the batch out."""
        return self._is_begun

    @property
    def live_runs(self) -> int:
        """Runs that are live or being started, as far as this process knows."""
        return self._engine.gate.live

    @property
    def max_concurrent_runs(self) -> int:
        """How many Runs of this batch may be live now."""
        return self._engine.permits.limit

    @property
    def start_rate(self) -> float:
        """Starts per second, at most: the rate that was asked for, or what the platform allows if that is less."""
        return round(self._engine.gate.rate_per_s, 6)

    @property
    def budget_usd(self) -> float | None:
        """What the batch may cost in all; None: as much as it takes."""
        return self._engine.purse.budget.limit_usd

    @property
    def has_budget(self) -> bool:
        """Whether starts reserve money; a batch that was opened without a budget is opened again to get one."""
        return self._engine.purse.is_limited

    @property
    def outage(self) -> str:
        """Why the platform cannot be reached; empty while it can."""
        return self._connection.account.client.outage

    @property
    def task_edits(self) -> Sequence[tuple[str, ...]]:
        """What edits of the task have changed (input, options, Actor) while this process was at work."""
        return self._task_watch.edits

    async def forecast(self, reopened: int = 0) -> Forecast | None:
        """Forecast how long the rest takes and what it costs; None where the number of jobs is not known.

        Asks the platform for the task's recent Runs.

        Args:
            reopened: settled jobs that are to be reopened.
        """
        opening = self.opening
        if opening.job_count is None:
            return None
        effort = Effort(
            runs=max(0, opening.job_count - opening.settled_before + reopened),
            slots=opening.max_concurrent_runs,
            run_memory_mb=opening.run_memory_mb,
            start_rate_per_s=opening.start_rate_per_s,
        )
        return await read_forecast(self._connection.account.client, opening.account, opening.task, effort)

    def stop_starting(self) -> None:
        """Start nothing more; the batch ends when the live Runs have ended and are settled."""
        self._engine.scheduler.stop_starting()

    def cancel(self) -> None:
        """Start nothing more and abort what is live: its jobs settle as aborted, and the batch ends soon."""
        self.stop_starting()
        self._engine.aborter.begin()

    def change_limits(self, limits: LimitsConfig, priority: BatchPriority) -> None:
        """Keep another number of Runs, rate of starts, budget and priority from now on.

        Args:
            limits: `max_concurrent_runs`, `start_rate` and `budget_usd` of it; the rest stays as it is.
            priority: among the batches of the account.
        """
        engine = self._engine
        engine.permits.resize(number(limits.max_concurrent_runs))
        engine.permits.priority = priority
        engine.bucket.change_rate(limits.start_rate)
        engine.gate.wake()
        engine.purse.budget.limit_usd = limits.budget_usd
        engine.purse.budget.on_change()

    def keep_permits(self) -> None:
        """Keep the permits of live Runs from the account's other batches until this one is opened again, soon."""
        self._engine.permits.keep_for_live_runs()

    async def reopen(self, selection: Selection) -> None:
        """Open settled jobs for another round, all that are selected or none; to be called before the batch is run.

        Raises:
            JobFileError: a line of the job file is another now than the job that was made of it.
        """
        assert not self._is_begun, "a batch that runs takes no jobs but its source's"
        outcomes = await anyio.to_thread.run_sync(self._reopen, selection)
        settled = sum(outcomes.values())
        self.opening = replace(
            self.opening,
            open_before=self.opening.open_before + self.opening.settled_before - settled,
            settled_before=settled,
            succeeded_before=outcomes.get(Outcome.SUCCEEDED, 0),
            outcomes_before=outcomes,
        )

    def _reopen(self, selection: Selection) -> dict[Outcome, int]:
        job_file, max_wait_s = self._resumed.file_source.job_file, self._config.retry.max_backoff_s
        self._jobs = reopen(self._journal.ledger, job_file, max_wait_s, selection)
        return self._journal.ledger.count_outcomes()

    async def run(self, on_record: Callable[[Record], None] | None = None) -> Summary:
        """Carry the batch out to its end.

        Args:
            on_record: called with each record once it is durable; None: nobody looks at them.

        Raises:
            BatchRefused: the platform refused the batch; it can be resumed.
            OutputError: this machine got in the way; it can be resumed.
        """

        async def hand_over(record: Record) -> None:
            if on_record is not None:
                on_record(record)

        self._on_record = hand_over
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
        wants_final_costs = self.has_budget or not self._config.api.is_loopback
        at_the_end = partial(wait_for_final_costs, self._engine) if wants_final_costs else None
        try:
            async with self._sending, anyio.create_task_group() as children:
                children.start_soon(self._task_watch.run)
                children.start_soon(self._stop_in_time)
                await self._engine.run(self._jobs, self._on_record, at_the_end)
                children.cancel_scope.cancel()
            if self._engine.scheduler.stopped_for is None:
                self._resumed.source.check_all_came()
        except* BatchrunError as group:
            self._failure = first_error(group)

    async def _stop_in_time(self) -> None:
        max_batch_s = self._config.deadlines.max_batch_s
        if max_batch_s is None:
            return
        await anyio.sleep(max_batch_s)
        self.progress.notices.add(BatchOutOfTime())
        self._engine.scheduler.stop_starting(Ending.OUT_OF_TIME)

    async def summary(self) -> Summary:
        """Return what the batch has come to, its earlier processes included."""
        return await summarize(self.out_dir, self._engine)

    async def write_report(self) -> None:
        """Write report.html; a failure is only noted, since it changes nothing of what the batch has come to."""
        self.report = await write_batch_report(self._config, self._engine)


@asynccontextmanager
async def open_batch(
    config: Config,
    *,
    environ: Mapping[str, str] | None = None,
    inline_actors: "Mapping[str, InlineActor]" = types.MappingProxyType({}),
    command: Command | None = None,
    account: Account | None = None,
    priority: BatchPriority = EQUAL,
) -> AsyncIterator[Batch]:
    """Open a batch, new or begun earlier; nothing is started before it is run or iterated over.

    Args:
        config: what `load_config` returned.
        environ: holds the token (APIFY_TOKEN); default: the process's environment.
        inline_actors: coroutines that the embedded server carries out as Actors, by full name.
        command: what a person types to go on with the batch; noted, so that other commands can name it.
        account: where the batch runs, beside others; it comes before `config.api`. None: the batch opens its own.
        priority: among the batches of the account.

    Raises:
        ConfigError: the configuration does not fit the batch that was begun, or the existing task.
        JobFileError: the job file cannot be read; or has bad lines, or inputs that the platform would refuse, and
            nothing was started yet.
        BatchRefused: the platform does not accept the token or knows no such task.
        OutputError: the output directory is in use, cannot be written, or is damaged.
    """
    out_dir = config.out_dir
    async with plain_errors():
        await check_before_start(config)
        await anyio.to_thread.run_sync(_make_directory, out_dir)
        async with enter_lock(out_dir), _log_beside(out_dir):
            environ = os.environ if environ is None else environ
            async with _open(config, environ, inline_actors, command, account, priority) as batch:
                yield batch
            if config.output.report and batch.is_begun:
                await batch.write_report()  # after all is closed: it shows what was noted on the way out


@asynccontextmanager
async def _open(
    config: Config,
    environ: Mapping[str, str],
    inline_actors: "Mapping[str, InlineActor]",
    command: Command | None,
    account: Account | None,
    priority: BatchPriority,
) -> AsyncIterator[Batch]:
    """Open a batch in an output directory that this process holds; see `open_batch`."""
    changed = Changed()
    async with AsyncExitStack() as stack:
        journal = await stack.enter_async_context(open_journal(config.out_dir))
        connected = await connect(stack, config, environ, inline_actors, account)
        prepared, edits = await preflight(config, connected, journal, command)
        resumed = await resume(stack, config, connected, prepared, journal, task_edits=edits, changed=changed)
        terms = await anyio.to_thread.run_sync(batch_terms, config, connected, prepared.options)
        engine = build_batch_engine(config, connected, resumed, terms, changed, priority)
        stack.callback(engine.leave)
        stream = anyio.create_memory_object_stream[Record](RECORD_BUFFER)
        for end in stream:
            stack.callback(end.close)
        # Entered last: what the engine's children hold of the account is given back before the engine leaves it.
        children = await stack.enter_async_context(open_children(cancels_on_leaving=True))
        yield Batch(config, connected, resumed, journal, engine, children, stream)


@asynccontextmanager
async def _log_beside(out_dir: Path) -> AsyncIterator[None]:
    """Log into the output directory, unless the program that we are part of has its own place for logs."""
    if structlog.is_configured():
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(logging_to(out_dir / BATCH_LOG))
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


async def run_batch(
    config: Config,
    *,
    environ: Mapping[str, str] | None = None,
    inline_actors: "Mapping[str, InlineActor]" = types.MappingProxyType({}),
) -> Summary:
    """Carry a batch out to its end, or go on with one that was begun; see `open_batch` for errors."""
    async with open_batch(config, environ=environ, inline_actors=inline_actors) as batch:
        return await batch.run()
