"""An open batch: run it, watch it, change its limits, stop it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from batchrun.account.connected_task import ConnectedTask
from batchrun.account.task_watch import TaskWatch
from batchrun.batch.ending import (
    summarize,
    wait_for_final_costs,
    write_batch_costs,
    write_batch_duplicates,
    write_batch_report,
)
from batchrun.batch.notify_conditions import NotifyConditions
from batchrun.batch.resume import Resumed
from batchrun.batch.resumed_jobs import reopen
from batchrun.batch.time_limit import stop_in_time
from batchrun.batch.wait_watch import WaitWatch
from batchrun.config import Config, LimitsConfig
from batchrun.config.breaker_settings import breaker_limits
from batchrun.engine.build_engine import Engine
from batchrun.engine.limits.batch_priorities import BatchPriority
from batchrun.engine.notices import DiskLow, UsageUnbounded
from batchrun.errors import BatchrunError, first_error
from batchrun.ledger.facts import NOTIFIED, has_retried
from batchrun.ledger.sqlite.journal import Journal
from batchrun.model import Ending, Outcome, Record, RunId, Selection, Summary
from batchrun.notify.delivery import BatchNotifier
from batchrun.policy.breaker import BreakerLimits
from batchrun.policy.budget import Budget
from batchrun.preflight.batch_forecast import Effort, Forecast, read_forecast

#: Seconds between two looks at the batch's files.
WATCH_INTERVAL_S = 1.0


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
        notifier: BatchNotifier | None,
    ) -> None:
        self.out_dir = config.out_dir
        self.opening = resumed.opening
        self.progress = engine.progress
        self._config = config
        self._client = connected.account.client
        #: Opens the page of the embedded server while the batch is open; None: the platform is another one.
        self.page_link = connected.account.page_link
        self._disk = connected.account.disk
        self._resumed = resumed
        self._journal = journal
        self._engine = engine
        self._children = children
        self._task_watch = TaskWatch(self._client, connected.task, engine.secrets.add)
        self._log = journal.ledger.log
        self._wait_watch = WaitWatch(engine, self._client, resumed.ledger, connected.task.id, self._log)
        self._jobs = resumed.jobs
        self._sending, self._records = stream
        self._on_record: Callable[[Record], Awaitable[None]] = self._sending.send
        #: None: the batch sends no notifications.
        self._notifier = notifier
        #: What was not delivered to people when the batch was closed, in words; empty: nothing.
        self.undelivered = ""
        #: The report's file, once it is written.
        self.report: Path | None = None
        self._is_begun = False
        if (excess := engine.reservations.excess) is not None:
            notice = UsageUnbounded(
                excess_usd=excess.most_usd, known_runs=excess.known, max_open_runs=excess.max_open_runs
            )
            self.progress.notices.add(notice)
        self._failure: BatchrunError | None = None

    @property
    def is_begun(self) -> bool:
        """True once this process runs the batch."""
        return self._is_begun

    @property
    def is_interrupted(self) -> bool:
        """True if the batch was stopped from outside."""
        return self._engine.scheduler.is_interrupted.is_set()

    @property
    def is_stopping(self) -> bool:
        """True if nothing more is started: live Runs are followed to their end."""
        return self._engine.scheduler.stopped_for is not None

    @property
    def live_runs(self) -> int:
        """Runs that are live or being started, as this process knows them."""
        return self._engine.gate.live

    @property
    def costs_waited_s(self) -> float:
        """Seconds for which the batch has waited for final costs after its last job."""
        return self._engine.costs.waited_s

    @property
    def could_start_more(self) -> bool:
        """True if a job waits, or may come, that only the account's limit keeps from its start."""
        scheduler, permits = self._engine.scheduler, self._engine.permits
        is_wanted = scheduler.stopped_for is None and (scheduler.has_work or not scheduler.has_read_all)
        return self._is_begun and is_wanted and permits.is_below_own_limit

    @property
    def held_permits(self) -> tuple[int, int]:
        """The Runs that hold its permits, and their memory in megabytes."""
        permits = self._engine.permits
        return permits.reserved + permits.kept, permits.reserved_mb

    @property
    def has_adopted_all(self) -> bool:
        """True once all live Runs of earlier processes count as its own."""
        return self._is_begun and self._engine.permits.kept == 0

    @property
    def max_concurrent_runs(self) -> int:
        """Runs of this batch that may be live now."""
        return self._engine.permits.limit

    @property
    def start_rate(self) -> float:
        """Starts per second, at most: the rate that was asked for, or what the platform allows if that is less."""
        return round(self._engine.gate.rate_per_s, 6)

    @property
    def budget_usd(self) -> float | None:
        """The batch's budget in US dollars; None: unlimited."""
        return self._engine.reservations.budget.limit_usd

    @property
    def budget(self) -> Budget:
        """The batch's own money, beside which an account may have one for all batches."""
        return self._engine.reservations.budget

    @property
    def breaker_limits(self) -> BreakerLimits:
        """What trips the breaker."""
        return breaker_limits(self._config.breaker)

    def trip(self, reason: str) -> None:
        """Start nothing more, as if the breaker had tripped: the jobs of all parts of a batch were counted."""
        self._engine.scheduler.trip(reason)

    @property
    def has_tripped_whole(self) -> bool:
        """True if the breaker has tripped for the whole batch, not only for some of its groups."""
        return self._engine.scheduler.stopped_for is Ending.TRIPPED

    @property
    def has_budget(self) -> bool:
        """True if starts reserve money. A batch that was opened without a budget must be reopened to get one."""
        return self._engine.reservations.is_limited

    @property
    def outage(self) -> str:
        """The reason why the platform cannot be reached; empty: it can."""
        return self._client.outage

    @property
    def waits(self) -> str:
        """What the batch waits for, in words, once nothing has started or ended for ten seconds; empty: it goes on."""
        return self._wait_watch.words()

    @property
    def task_edits(self) -> Sequence[tuple[str, ...]]:
        """The parts of the task (input, options, Actor) that each edit during this process has changed."""
        return self._task_watch.edits

    def secrets_of(self, run_id: RunId) -> tuple[str, ...] | None:
        """Return the secret texts of a live Run's input, longest first; None: they are unknown, since it has ended."""
        return self._engine.secrets_of(run_id)

    async def forecast(self, reopened: int = 0) -> Forecast | None:
        """Forecast time and cost of the open jobs; None: the number of jobs is unknown.

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
        return await read_forecast(self._client, opening.account, opening.task, effort)

    def stop_starting(self) -> None:
        """Start nothing more; the batch ends when the live Runs have ended and are settled."""
        self._engine.scheduler.stop_starting()

    def cancel(self) -> None:
        """Start nothing more and abort the live Runs: their jobs settle as aborted, and the batch ends soon."""
        self.stop_starting()
        self._engine.batch_abort.begin()

    def change_limits(self, limits: LimitsConfig, priority: BatchPriority) -> None:
        """Replace the number of Runs, the rate of starts, the budget and the priority.

        Args:
            limits: its `max_concurrent_runs`, `start_rate` and `budget_usd` are used.
            priority: among the batches of the account.
        """
        engine = self._engine
        engine.permits.resize(limits.wanted_runs)
        engine.permits.priority = priority
        engine.bucket.change_rate(limits.start_rate, anyio.current_time())
        engine.gate.wake()
        engine.reservations.budget.limit_usd = limits.budget_usd
        engine.reservations.budget.notify()

    @property
    def is_out_of_budget(self) -> bool:
        """True if the budget could not pay for a job, which stays open until the batch is opened again."""
        return self._engine.scheduler.is_out_of_budget

    async def hold_starts(self) -> None:
        """Start nothing more, and wait until all starts are answered: closed before, they would be in doubt."""
        self._engine.gate.hold()
        await self._engine.gate.until_answered()

    def keep_permits(self) -> None:
        """Keep the permits of the live Runs for this batch, which is about to be reopened."""
        self._engine.permits.keep_for_live_runs()

    async def reopen(self, selection: Selection, retry_id: str | None = None) -> None:
        """Reopen all selected jobs for another round, before the batch is run.

        With a `retry_id` they are reopened once: a repeated call does nothing, in a later process either.

        Raises:
            JobFileError: a line of the job file has changed since its job was admitted; no job was reopened.
        """
        assert not self._is_begun, "jobs are reopened before the batch is run"
        outcomes = await anyio.to_thread.run_sync(self._reopen, selection, retry_id)
        settled = sum(outcomes.values())
        self.opening = replace(
            self.opening,
            open_before=self.opening.open_before + self.opening.settled_before - settled,
            settled_before=settled,
            succeeded_before=outcomes.get(Outcome.SUCCEEDED, 0),
            outcomes_before=outcomes,
        )

    def _reopen(self, selection: Selection, retry_id: str | None) -> dict[Outcome, int]:
        ledger = self._journal.ledger
        if retry_id is None or not has_retried(ledger, retry_id):
            job_file, max_wait_s = self._resumed.source.job_file, self._config.retry.max_backoff_s
            self._jobs = reopen(ledger, job_file, max_wait_s, selection, retry_id)
        return ledger.count_outcomes()

    async def run(self, on_record: Callable[[Record], None] | None = None) -> Summary:
        """Run the batch to its end.

        Args:
            on_record: called with each record once it is durable.

        Raises:
            BatchRefused: the platform refused the batch; it can be resumed.
            OutputError: the disk or the ledger failed; the batch can be resumed.
            JobFileError: the job file cannot be read to its end; the batch can be resumed.
        """

        async def hand_over(record: Record) -> None:
            if on_record is not None:
                on_record(record)

        self._on_record = hand_over
        async for _ in self:
            pass
        return await self.summary()

    def __aiter__(self) -> Self:
        """Run the batch, yielding each record once it is durable; a slow consumer slows starts."""
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
            conditions = await self._open_conditions()
            await self._run_jobs(conditions)
            if conditions is not None and not self._engine.batch_abort.has_begun:  # else a person has cancelled it
                await conditions.end(await self._summary_if_readable(), self._failure)
        finally:
            self._sending.close()  # the consumer takes this for the end, so the failure is known by now

    async def _run_jobs(self, conditions: NotifyConditions | None) -> None:
        try:
            async with anyio.create_task_group() as children:
                if conditions is not None:
                    children.start_soon(conditions.run)
                children.start_soon(self._task_watch.run)
                children.start_soon(self._wait_watch.run)
                children.start_soon(stop_in_time, self._engine, self._config.deadlines.max_batch_s)
                children.start_soon(self._watch_files)
                await self._engine.run(self._jobs, self._on_record, partial(wait_for_final_costs, self._engine))
                children.cancel_scope.cancel()
            if (lost := await anyio.to_thread.run_sync(self._journal.check_files)) is not None:
                raise lost
            if (unended := self._resumed.lines.unended) is not None:
                self.progress.notices.add(unended)
            if self._engine.scheduler.stopped_for is None:
                self._resumed.source.check_all_came()
        except* BatchrunError as group:
            self._failure = first_error(group)

    async def _open_conditions(self) -> NotifyConditions | None:
        """Return what watches the batch for notifications; None: it sends none."""
        if self._notifier is None:
            return None
        limits, ledger = self._config.limits, self._journal.ledger
        return NotifyConditions(
            self.progress,
            self._engine.reservations.budget,
            lambda: self.outage,
            self._resumed.ledger,
            await anyio.to_thread.run_sync(ledger.fact, NOTIFIED),
            self._notifier,
            counts=self._settled_and_succeeded,
            doubts_end_s=limits.start_horizon_s + limits.listing_lag_s,
        )

    def _settled_and_succeeded(self) -> tuple[int, int]:
        opening, progress = self.opening, self.progress
        succeeded = progress.outcomes.get(Outcome.SUCCEEDED, 0)
        return opening.settled_before + progress.settled, opening.succeeded_before + succeeded

    async def _summary_if_readable(self) -> Summary | None:
        try:
            return await self.summary()
        except BatchrunError:
            return None

    async def _watch_files(self) -> None:
        """Notice files that were moved or removed, another owner, and a full disk, also while nothing is committed."""
        while True:
            if self._log is not None and self._log.refused is not None:
                raise self._log.refused
            if (lost := await anyio.to_thread.run_sync(self._journal.check_files)) is not None:
                self._engine.scheduler.fail(lost)
                return
            if (low := self._disk.low) is not None and DiskLow not in self.progress.notices.first_of:
                self.progress.notices.add(low)
            await anyio.sleep(WATCH_INTERVAL_S)

    async def summary(self) -> Summary:
        """Return the results of the batch, those of earlier processes included."""
        return await summarize(self.out_dir, self._engine)

    async def write_lists(self) -> None:
        """Write costs.jsonl and duplicates.jsonl; a failure is said and changes no result."""
        await write_batch_costs(self.out_dir, self._engine)
        await write_batch_duplicates(self.out_dir)

    async def write_report(self) -> None:
        """Write report.html; a failure adds a notice and changes no result."""
        self.report = await write_batch_report(self._config, self._engine)
