"""A batch, composed: configuration -> platform, job file, ledger and engine -> records and a summary."""

import os
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import anyio
import structlog
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from batchrun.account.connect import find_task, open_platform, read_account
from batchrun.account.shared_account import EQUAL, SharedAccount, Standing
from batchrun.account.task_watch import note_task
from batchrun.apify.client import ApifyClient
from batchrun.batch.assembly import Engine, Materials, assemble
from batchrun.batch.job_source import open_source
from batchrun.batch.opening import Opening, read_opening
from batchrun.batch.resume import check_identity, check_limit, open_backlog, reopen, take_up
from batchrun.config import Config, LimitsConfig
from batchrun.config.policy_builders import expectation
from batchrun.engine.instruments import Instruments
from batchrun.engine.notices import ReportNotWritten
from batchrun.errors import BatchrunError, LedgerError, OutputError, first_error
from batchrun.ledger.facts import ECHO
from batchrun.ledger.protocol import Money
from batchrun.ledger.sqlite.group_commit import open_commit, open_journal
from batchrun.ledger.sqlite.reader import LedgerReader
from batchrun.model import Command, Ending, Outcome, Record, Selection, Summary
from batchrun.output.layout import BATCH_LOG, REPORT, SERVER_STATE
from batchrun.output.lock import enter_lock
from batchrun.output.replacement import replace_text
from batchrun.output.sink import explain, sync_directory
from batchrun.policy.budget import Budget
from batchrun.preflight.job_file_head import check_before_start, look_at_head
from batchrun.preflight.preparation import prepare, refuse_head
from batchrun.preflight.recent_runs import Effort, Forecast, read_forecast
from batchrun.preflight.spending import fill_purse, read_terms, refuse_unbounded
from batchrun.report.batch_summary import read_summary
from batchrun.report.report_file import make_report
from batchrun.runtime.children import open_children, plain_errors
from batchrun.runtime.logs import logging_to

if TYPE_CHECKING:
    from batchrun.server import InlineActor

#: Records that wait for a slow consumer before starts slow down.
RECORD_BUFFER = 100


class Batch:
    """An open batch, made by `open_batch`: `run` it, or iterate over its records, once.

    Leaving the context early leaves Runs running and noted; the same batch opened again goes on with them.
    """

    def __init__(
        self,
        *,
        opening: Opening,
        out_dir: Path,
        engine: Engine,
        records: MemoryObjectReceiveStream[Record],
        children: TaskGroup,
        reopen: Callable[[Selection], dict[Outcome, int]],
    ) -> None:
        self.opening = opening
        self.out_dir = out_dir
        self.progress = engine.progress
        self._engine = engine
        self._children = children
        #: Opens settled jobs for another round; returns how many are settled then.
        self._reopen = reopen
        self._records = records
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
        return self._engine.place.gate.live

    @property
    def max_concurrent_runs(self) -> int:
        """How many Runs of this batch may be live now."""
        return self._engine.place.slots.limit

    @property
    def start_rate(self) -> float:
        """Most starts per second: as they were set, or what the platform allows where that is less."""
        return round(self._engine.place.bucket.rate_per_s, 6)

    @property
    def budget_usd(self) -> float | None:
        """What the batch may cost in all; None: as much as it takes."""
        return self._engine.purse.budget.limit_usd

    @property
    def has_budget(self) -> bool:
        """Whether money is set aside for starts; a batch that was opened without a budget is opened anew to get one."""
        return self._engine.purse.is_limited

    @property
    def outage(self) -> str:
        """Why the platform cannot be reached; empty while it can."""
        return self._engine.client.outage

    @property
    def task_edits(self) -> Sequence[tuple[str, ...]]:
        """What edits of the task have changed (input, options, Actor) while this process was at work."""
        return self._engine.task_watch.edits

    async def forecast(self, anew: int = 0) -> Forecast | None:
        """Reckon how long the rest takes and what it costs; None where nobody knows how many jobs there are.

        Of settled jobs, `anew` are to be reopened.

        Asks the platform for the task's recent Runs.
        """
        opening = self.opening
        if opening.job_count is None:
            return None
        effort = Effort(
            runs=max(0, opening.job_count - opening.settled_before + anew),
            slots=opening.max_concurrent_runs,
            run_memory_mb=opening.run_memory_mb,
            start_rate_per_s=opening.start_rate_per_s,
        )
        return await read_forecast(self._engine.client, opening.account, opening.task, effort)

    def stop_starting(self) -> None:
        """Start nothing more; the batch ends when the live Runs have ended and are settled."""
        self._engine.scheduler.stop_starting()

    def cancel(self) -> None:
        """Start nothing more and abort what is live: its jobs settle as aborted, and the batch ends soon."""
        self.stop_starting()
        self._engine.aborter.begin()

    def change_limits(self, limits: LimitsConfig, standing: Standing) -> None:
        """Keep another number of Runs, rate of starts, budget and standing from now on.

        Args:
            limits: `max_concurrent_runs`, `start_rate` and `budget_usd` of it; the rest stays as it is. The number
                concerns batches that share an account.
            standing: among those.
        """
        self._engine.change_limits(limits, standing)

    def keep_places(self) -> None:
        """Keep the places of live Runs from the account's other batches until this one is opened again, soon."""
        self._engine.keep_places()

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

    async def run(self, on_record: Callable[[Record], None] | None = None) -> Summary:
        """Carry the batch out to its end.

        Args:
            on_record: called with each record once it is durable; None: nobody looks at them.

        Raises:
            BatchRefused: the platform refused the batch; it can be resumed.
            OutputError: this machine got in the way; it can be resumed.
        """
        self._engine.scheduler.on_record = None if on_record is None else _handing_to(on_record)
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
        summary = self._with_slots(await anyio.to_thread.run_sync(read_summary, self.out_dir, self._ending()))
        if self._engine.scheduler.has_read_all and not summary.open_jobs:
            return replace(summary, ending=Ending.FINISHED)  # stopped when there was nothing left to stop
        return summary

    def _with_slots(self, summary: Summary) -> Summary:
        meter = self._engine.meter
        return replace(
            summary,
            slot_use=meter.use.share,
            refill_p50_s=meter.refill.quantile(0.5),
            refill_p99_s=meter.refill.quantile(0.99),
        )

    def _ending(self) -> Ending:
        scheduler = self._engine.scheduler
        if scheduler.stopped_for is not None:
            return scheduler.stopped_for
        if scheduler.has_tripped:
            return Ending.TRIPPED
        if scheduler.is_out_of_budget:
            return Ending.OUT_OF_BUDGET
        return Ending.IN_DOUBT if scheduler.left_open else Ending.FINISHED


def _handing_to(on_record: Callable[[Record], None]) -> Callable[[Record], Awaitable[None]]:
    async def hand_over(record: Record) -> None:
        on_record(record)

    return hand_over


@asynccontextmanager
async def open_batch(
    config: Config,
    *,
    environ: Mapping[str, str] | None = None,
    inline_actors: "Mapping[str, InlineActor]" = types.MappingProxyType({}),
    command: Command | None = None,
    shared: SharedAccount | None = None,
    standing: Standing = EQUAL,
) -> AsyncIterator[Batch]:
    """Open a batch, new or begun earlier; nothing is started before it is run or iterated over.

    Args:
        config: what `load_config` returned.
        environ: holds the token (APIFY_TOKEN); default: the process's environment.
        inline_actors: coroutines that the embedded server carries out as Actors, by full name.
        command: what a person types to go on with the batch; noted, so that other commands can name it.
        shared: the account, when other batches run in it beside this one; it comes before `config.api`.
        standing: among those.

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
            given = _Given(config, environ, inline_actors, command, shared, standing)
            async with _open(given) as batch:
                yield batch
            if config.output.report and batch.is_begun:
                # After everything is closed: what was noted on the way out is in it.
                await _write_report(batch, config)


async def _write_report(batch: Batch, config: Config) -> None:
    """Write report.html; that this fails changes nothing of what the batch has come to."""
    file = config.out_dir / REPORT
    try:
        page = await anyio.to_thread.run_sync(make_report, config.out_dir, config, await batch.summary())
        await anyio.to_thread.run_sync(replace_text, file, page)
    except OutputError as error:
        batch.progress.notices.add(ReportNotWritten(reason=str(error), out_dir=config.out_dir))
    else:
        batch.report = file


@dataclass(frozen=True, slots=True)
class _Given:
    """What `open_batch` was given."""

    config: Config
    environ: Mapping[str, str]
    inline_actors: "Mapping[str, InlineActor]"
    command: Command | None
    shared: SharedAccount | None
    standing: Standing

    @asynccontextmanager
    async def open_client(self) -> AsyncIterator[ApifyClient]:
        """Open the platform, or take the account that is shared."""
        if self.shared is not None:
            yield self.shared.client
            return
        async with open_platform(
            self.config.api,
            environ=self.environ,
            request_rate_per_s=self.config.limits.request_rate,
            server=self.config.server,
            server_dir=self.config.out_dir / SERVER_STATE,
            inline_actors=self.inline_actors,
        ) as client:
            yield client


@asynccontextmanager
async def _open(given: _Given) -> AsyncIterator[Batch]:
    """Open a batch in an output directory that this process holds; see `open_batch`."""
    config, shared = given.config, given.shared
    out_dir = config.out_dir
    instruments = shared.instruments if shared is not None else Instruments()
    async with AsyncExitStack() as stack:
        journal = await stack.enter_async_context(open_journal(out_dir))
        client = await stack.enter_async_context(given.open_client())
        account = await read_account(client)
        task = await find_task(client, config.task)
        task_terms = await read_terms(client, config, account, task)
        await refuse_unbounded(config, task_terms, partial(look_at_head, config))
        await anyio.to_thread.run_sync(check_identity, journal.ledger, config, task, given.command)
        await anyio.to_thread.run_sync(check_limit, journal.ledger, config)
        edits = await anyio.to_thread.run_sync(note_task, journal.ledger, task)
        prepared = await prepare(client, config, account, task, journal.ledger)
        look_at = prepared.head.look_at if prepared.head is not None else None
        source = await stack.enter_async_context(open_source(config, task.input, journal.ledger, look_at))
        if prepared.head is not None:
            refuse_head(prepared.head.problems, config)
        backlog = await stack.enter_async_context(open_backlog(out_dir, source.job_file, source))
        resumed = await anyio.to_thread.run_sync(take_up, journal.ledger, source.job_file, config.retry.max_backoff_s)
        money = await anyio.to_thread.run_sync(journal.ledger.money)
        purse = fill_purse(config, task_terms, money, shared.budget if shared is not None else None)
        stack.push_async_callback(_leave_budget, purse.budget, journal.ledger)
        commit = await stack.enter_async_context(open_commit(journal, meter=instruments.commits))
        sending, records = anyio.create_memory_object_stream[Record](RECORD_BUFFER)
        stack.callback(sending.close)
        stack.callback(records.close)
        shared_slots = shared.slots_for(config.limits) if shared is not None else None
        opening = await anyio.to_thread.run_sync(
            read_opening, config, account, task, journal.ledger, source, prepared, edits, shared_slots
        )
        echoes = await anyio.to_thread.run_sync(journal.ledger.fact, ECHO)
        materials = Materials(
            opening=opening,
            client=client,
            commit=commit,
            source=backlog,
            resumed=resumed,
            check_all_came=backlog.check_all_came,
            sending=sending,
            echoes=echoes,
            options=prepared.options,
            task_options=task_terms.options,
            purse=purse,
            shared=shared,
            standing=given.standing,
            instruments=instruments,
            expectation=await anyio.to_thread.run_sync(expectation, config.output),
        )
        engine = assemble(config, materials)
        stack.callback(engine.leave)
        # Entered last: what the engine's children hold of the account is given back before it leaves that.
        children = await stack.enter_async_context(open_children(cancels_on_leaving=True))

        def reopen_jobs(selection: Selection) -> dict[Outcome, int]:
            resumed[:] = reopen(journal.ledger, source.job_file, config.retry.max_backoff_s, selection)
            return journal.ledger.count_outcomes()

        yield Batch(
            opening=opening, out_dir=out_dir, engine=engine, records=records, children=children, reopen=reopen_jobs
        )


async def _leave_budget(budget: Budget, ledger: LedgerReader) -> None:
    """Leave a shared budget with what the ledger says: a start that was cut off has noted its intent, or has not."""
    money = Money(spent_usd=budget.spent_usd, reserved_usd=budget.reserved_usd)
    with anyio.CancelScope(shield=True), suppress(LedgerError):
        money = await anyio.to_thread.run_sync(ledger.money)
    budget.leave(spent_usd=money.spent_usd, reserved_usd=money.reserved_usd)


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
