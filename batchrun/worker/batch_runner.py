"""One submitted batch from opening to rest: opened, run, closed; its errors stay its own."""

import random
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import anyio
import structlog

from batchrun.account.account import Account
from batchrun.batch.open_batch import open_batch
from batchrun.batch.running_batch import Batch
from batchrun.config import Config
from batchrun.config.worker_config import WorkerConfig
from batchrun.errors import (
    AnotherBatch,
    ApiError,
    BatchRefused,
    BatchrunError,
    ConfigError,
    JobFileError,
    LogUnreachable,
    OutputError,
    Superseded,
    TransportError,
)
from batchrun.model import JsonObject, Record, Summary
from batchrun.notify.delivery import BatchNotifier, Notifier
from batchrun.notify.notification import Notification
from batchrun.policy.retry import Backoff
from batchrun.runtime.children import open_children
from batchrun.runtime.resizable_semaphore import ResizableSemaphore
from batchrun.words.notice_words import notice_words
from batchrun.words.progress_words import Speed
from batchrun.worker.batch_ending import command_for, counts_at_end, reason_of_unexpected, rest_after, resting_state
from batchrun.worker.data_directory import DataDirectory, has_begun
from batchrun.worker.fleet.fleet import Fleet
from batchrun.worker.spool_taken_files import beginning_of
from batchrun.worker.submission import PAUSABLE, BatchCounts, BatchState, StopCause, Submission
from batchrun.worker.submission_config import config_of
from batchrun.worker.submission_store import Decide, SubmissionStore

#: Waits between attempts to open a batch while the platform cannot be reached, or refuses token or credit.
OUTAGE_BACKOFF = Backoff(first_s=1.0, max_s=60.0)
#: How often a batch is opened again after an error on this machine, such as a lack of file descriptors; then it stops.
MAX_MACHINE_RETRIES = 3
#: An error's advice to a person who has started the batch by a command.
_COMMAND_AGAIN = "run the same command again"
#: Max notices that are kept per batch, the newest ones.
MAX_NOTICES = 20

_log = structlog.get_logger()

#: Traces a batch while it is open; yields a function that takes each record, or None if nothing is traced.
Trace = Callable[[Submission], AbstractContextManager[Callable[[Record], None] | None]]


def no_trace(_submission: Submission) -> AbstractContextManager[None]:
    """Trace nothing."""
    return nullcontext()


class BatchRunner:
    """Runs one submitted batch until it rests, and stores its state meanwhile; a resumed batch gets a new runner."""

    def __init__(
        self,
        submission_id: str,
        store: SubmissionStore,
        directory: DataDirectory,
        worker_config: Callable[[], WorkerConfig],
        environ: Mapping[str, str],
        account: Account,
        trace: Trace,
        notifier: Notifier,
        fleet: Fleet | None = None,
    ) -> None:
        self.id = submission_id
        self._store = store
        self._directory = directory
        self._worker_config = worker_config
        self._environ = environ
        self._account = account
        self._trace = trace
        self._notifier = notifier
        self._fleet = fleet
        #: The batch while it is open.
        self.batch: Batch | None = None
        #: Of the batch when it was open last: they are stored once it is closed.
        self._last_counts: BatchCounts | None = None
        self.speed = Speed()
        #: The newest notices, in words.
        self.notices: deque[str] = deque(maxlen=MAX_NOTICES)
        self._scope = anyio.CancelScope()
        #: From opening the batch to closing it, once.
        self._open_scope = anyio.CancelScope()
        #: True if the batch has ended and is being closed.
        self._is_closing = False
        #: True if limits were changed while the batch was being opened.
        self._is_outdated = False
        #: Set if the batch is to be closed and opened once more.
        self._reopening = anyio.Event()
        self._is_let_go = False
        self._is_draining = False
        #: Whether the batch started or settled something when it was open last.
        self._has_moved = False
        #: For how long the open batch waited for final costs at its end, which is no part of what it took.
        self._costs_waited = timedelta(0)
        #: Why the platform refuses the account, while the batch waits for that to end; else empty.
        self.refusal = ""

    @property
    def submission(self) -> Submission:
        """The stored submission."""
        return self._store[self.id]

    def counts(self) -> BatchCounts:
        """Return the current counts of the batch."""
        batch = self.batch
        if batch is None:
            return self._last_counts or self.submission.counts
        opening, progress = batch.opening, batch.progress
        outcomes = dict(opening.outcomes_before)
        for outcome, count in progress.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        return BatchCounts.model_construct(
            jobs=opening.job_count,
            outcomes=outcomes,
            items=opening.items_before + progress.items,
            cost_usd=opening.cost_before_usd + progress.cost_usd,
            used_usd=batch.budget.used_usd,
            live_runs=batch.live_runs,
            postponed=progress.postponed,
            in_doubt=progress.in_doubt,
        )

    def sample(self) -> None:
        """Measure the speed and take the batch's notices; called once a second."""
        if self.batch is None:
            return
        self.speed.note(anyio.current_time(), self.batch.progress.settled)
        for notice in self.batch.progress.notices.take():
            words = notice_words(notice)
            if words not in self.notices:  # a batch that is opened again may say the same again
                self.notices.append(words)
            _log.info("notice", batch=self.id, text=words)

    def apply_state(self, state: BatchState) -> None:
        """Pause or cancel the batch, as its new state demands; a batch that is being closed ends anyway."""
        if self.batch is None:
            self._scope.cancel() if not self._is_closing else None
        elif state is BatchState.CANCELLING:
            self.batch.cancel()
        else:
            self.batch.stop_starting()

    def reopen(self) -> None:
        """Close the batch and open it at once with its stored settings; its Runs go on and keep their permits.

        Starts without an answer are waited for: they would be in doubt.
        """
        if (self.batch is not None or self._is_closing) and not self._is_draining:
            self._reopening.set()

    async def _reopen_when_asked(self, batch: Batch) -> None:
        await self._reopening.wait()
        await batch.hold_starts()
        batch.keep_permits()
        self._open_scope.cancel()

    def drain(self) -> None:
        """Stop new starts; the batch stays under way, and the next start of the worker resumes it."""
        self._is_draining = True
        if self.batch is None:
            self._scope.cancel()
        else:
            self.batch.stop_starting()

    def let_go(self) -> None:
        """End at once; live Runs keep running, with their ids in the ledger."""
        self._is_let_go = True
        self._scope.cancel()

    async def apply_limits(self) -> None:
        """Apply the stored limits and priority to the open batch; an invalid configuration changes nothing."""
        if self.batch is None:
            self._is_outdated = True
            self.reopen()
            return
        try:
            config = await self._read_config()
        except BatchrunError as error:
            self.notices.append(f"limits unchanged: {error}")
            _log.warning("limits_not_changed", batch=self.id, reason=str(error))
            return
        if self.batch is None:  # it has begun to close meanwhile, by the limits from before
            self._is_outdated = True
            self.reopen()
            return
        needs_prices = config.limits.budget_usd is not None and not self.batch.has_budget
        if needs_prices or self.batch.is_out_of_budget:
            self.reopen()
        else:
            self.batch.change_limits(config.limits, self.submission.batch_priority)

    async def run(self, open_batches: ResizableSemaphore) -> None:
        """Run the batch once `open_batches` has a place for it, and store how it ended; raise no error of the batch."""
        with structlog.contextvars.bound_contextvars(batch=self.id):
            with self._scope:
                await open_batches.acquire()
                try:
                    await self._run_until_it_rests()
                finally:
                    open_batches.release()
            if self._scope.cancelled_caught and not self._is_let_go and not self._is_draining:
                await self._store_rest_of_unopened()

    async def _run_until_it_rests(self) -> None:
        failures = machine_failures = 0
        while True:
            self._is_closing = False
            try:
                with anyio.CancelScope() as self._open_scope:
                    await self._run_opened()
                    return
            except (TransportError, BatchRefused, ApiError) as error:
                if isinstance(error, BatchRefused) and not error.is_of_account:
                    await self._stop(StopCause.PLATFORM, str(error))
                    return
                self.refusal = "" if isinstance(error, TransportError) else str(error)
                failures = 1 if self._has_moved else failures + 1
                await self._wait_to_reopen("waits for the platform", error, failures)
            except (ConfigError, JobFileError) as error:
                await self._fail(error)
                return
            except (OutputError, OSError) as error:
                machine_failures = 1 if self._has_moved else machine_failures + 1
                if await self._ends_for(error, machine_failures):
                    return
            except BatchrunError as error:
                await self._stop_for_machine(str(error))
                return
            except Exception as error:  # noqa: BLE001 - a bug must not end the other batches
                _log.exception("batch_broken")
                await self._stop_for_machine(reason_of_unexpected(error))
                return

    async def _fail(self, error: ConfigError | JobFileError) -> None:
        if isinstance(error, AnotherBatch) and self.submission.is_to_adopt_results:
            await self._update(lambda _: {"begun_at": None})
        if not await self._is_given_back(str(error)):
            await self._end(BatchState.FAILED, str(error))

    async def _ends_for(self, error: OutputError | OSError, failures: int) -> bool:
        """Return True if the batch ends here for an error of this machine or its store; False: it is tried again."""
        if self._fleet is not None and isinstance(error, Superseded):
            return True  # another worker has the batch, and keeps its state
        is_store = self._fleet is not None and isinstance(error, LogUnreachable)
        if not is_store and (isinstance(error, Superseded) or failures > MAX_MACHINE_RETRIES):
            await self._stop_for_machine(str(error))
            return True
        where = "the fleet's store" if is_store else "this machine"
        await self._wait_to_reopen(f"waits for {where}", error, min(failures, MAX_MACHINE_RETRIES))
        return False

    async def _stop_for_machine(self, reason: str) -> None:
        if not await self._is_given_back(reason):
            await self._stop(StopCause.MACHINE, reason)

    async def _is_given_back(self, reason: str) -> bool:
        """Leave the batch to other workers if its Runs may be live, and this one has not been able to open it."""
        if self._fleet is None or self.id not in self._fleet.member.unsettled:
            return False
        words = f"a worker cannot open it, and has left it to the others: {reason}"
        await self._fleet.give_back(await self._update(lambda _: {"reason": words}), reason)
        return True

    async def _wait_to_reopen(self, what: str, error: Exception, failures: int) -> None:
        self._is_closing = False
        wait_s = OUTAGE_BACKOFF.wait_s(failures, random.random())  # noqa: S311 - spread
        reason = f"{what}, tried again by itself: {self._advised(str(error))}"
        await self._update(lambda _: {"reason": reason})
        _log.warning("batch_waits", words=reason, next_try_s=round(wait_s, 1))
        await anyio.sleep(wait_s)

    def _advised(self, reason: str) -> str:
        """Return an error with the worker's command in place of one that runs the batch alone."""
        return reason.replace(_COMMAND_AGAIN, f"`{self._resume_command}`")

    @property
    def _resume_command(self) -> str:
        return command_for("resume", self.submission)

    async def _run_opened(self) -> None:
        self._is_outdated = self._has_moved = False
        self._costs_waited = timedelta(0)
        self._reopening = anyio.Event()
        if self._fleet is None:  # in a fleet, the log has what is not here
            await anyio.to_thread.run_sync(self._directory.refuse_moved_results, self.submission)
        config = await self._read_config()
        async with open_batch(
            config,
            environ=self._environ,
            account=self._account,
            priority=self.submission.batch_priority,
            notifier=self._batch_notifier(),
            membership=self._fleet.member if self._fleet is not None else None,
        ) as batch:
            self.batch = batch
            self._obey_fleet(batch)
            try:
                self.refusal = ""
                await self._update(partial(_opened, beginning=await self._beginning()))
                await self._retry_jobs(batch)
                self._apply_state_of_opening(batch)
                if self._is_outdated:
                    await self.apply_limits()
                with self._trace(self.submission) as on_record:
                    async with open_children(cancels_on_leaving=True) as children:
                        children.start_soon(self._reopen_when_asked, batch)
                        summary = await batch.run(on_record)
            except BaseException:
                counts = self.counts()
                await self._update(lambda _: {"counts": counts})  # shown while the batch is closed
                raise
            finally:
                self.sample()
                self._last_counts = self.counts()
                self._costs_waited = timedelta(seconds=batch.costs_waited_s)
                self._has_moved = batch.progress.started + batch.progress.settled > 0
                self.batch = None
                self._is_closing = True
        await self._store_ending(summary, counts_at_end(batch, summary))

    def _obey_fleet(self, batch: Batch) -> None:
        """Begin a part of a batch in shards: it has no share of the budget until the page of the fleet gives it one."""
        if self._fleet is None or self.submission.part_of is None:
            return
        batch.budget.share_usd = None if batch.budget.limit_usd is None else 0.0
        if reason := self._fleet.trip_of(self.submission):
            batch.trip(reason)

    async def _retry_jobs(self, batch: Batch) -> None:
        """Reopen the jobs of an ordered retry; killed before that is stored, the batch's ledger knows it."""
        order = self.submission.retry
        if order is None:
            return
        carried_out = {"retry": None, "retried": order.id}
        try:
            await batch.reopen(order.selection, order.id)
        except JobFileError:
            await self._update(lambda _: carried_out)  # it would fail again
            raise
        await self._update(lambda _: carried_out)

    async def _read_config(self) -> Config:
        config = await anyio.to_thread.run_sync(
            config_of, self.submission, self._directory, self._worker_config(), self._environ
        )
        return config if self._fleet is None else self._fleet.with_log(config, self.id)

    def _apply_state_of_opening(self, batch: Batch) -> None:
        """Pause or cancel the batch if that was asked for while it was being opened."""
        state = self.submission.state
        if state is BatchState.CANCELLING:
            batch.cancel()
        elif state is BatchState.PAUSING or self._is_draining:
            batch.stop_starting()

    async def _store_ending(self, summary: Summary, counts: BatchCounts) -> None:
        rest = rest_after(summary.ending, self.submission)
        if rest.cause is not None:
            await self._stop(rest.cause, rest.reason, counts)
        else:
            await self._end(rest.state, rest.reason, counts)

    async def _store_rest_of_unopened(self) -> None:
        """Store that a batch rests which was paused or cancelled before it was opened.

        Runs of a batch that has begun may be live: it stays under way, and is opened to abort or to follow them.
        """
        if self.submission.state.is_stopping and not await self._has_begun():
            await self._end(BatchState.PAUSED, "")

    async def _stop(self, cause: StopCause, reason: str, counts: BatchCounts | None = None) -> None:
        reason = self._advised(reason)
        if self._resume_command not in reason:
            reason += f"; resume it with `{self._resume_command}`"
        await self._end(BatchState.STOPPED, reason, counts, cause)

    async def _end(
        self, state: BatchState, reason: str, counts: BatchCounts | None = None, cause: StopCause | None = None
    ) -> None:
        is_begun = await self._has_begun()

        used_usd = self._account.money_of(self._directory.out_dir(self.submission)) if self._last_counts else None

        def rest(now: Submission) -> dict[str, Any]:
            known = {} if counts is None else {"counts": counts}
            if used_usd is not None:  # as the ledger has it, with starts that were interrupted
                known = {"counts": (counts or now.counts).model_copy(update={"used_usd": used_usd})}
            rests_as = resting_state(now.state, state, is_begun=is_begun, is_draining=self._is_draining)
            if rests_as is None or (now.state in PAUSABLE and self._reopening.is_set()):
                return known
            ended_at = datetime.now(UTC) - self._costs_waited if rests_as.is_over else None
            # A retry that could not be carried out is ordered again by a person, not by the next `resume`.
            retry = None if rests_as is BatchState.FAILED else now.retry
            fields = {"state": rests_as, "reason": reason, "cause": cause, "ended_at": ended_at, "retry": retry}
            return {**known, **fields}

        stored = await self._update(rest)
        if not stored.state.is_under_way:
            _log.info("batch_rests", state=stored.state, reason=reason)
            await self._notify_of_stop(stored)

    def _batch_notifier(self) -> BatchNotifier:
        now = self.submission
        batch: JsonObject = {"name": now.name, "id": now.id, "dir": str(self._directory.out_dir(now).absolute())}
        return BatchNotifier(notifier=self._notifier, batch=batch, is_supervised=True)

    async def _notify_of_stop(self, stored: Submission) -> None:
        """Notify people of a batch that only a person can resume; other endings are notified while it is open."""
        if stored.state not in (BatchState.STOPPED, BatchState.FAILED):
            return
        notification = Notification(
            id=f"{secrets.token_hex(8)}-stopped",
            event="stopped",
            text=f"Batch {stored.name}: {stored.state.capitalize()}: {stored.reason}",
            batch=self._batch_notifier().batch,
            data={"reason": stored.reason, "cause": stored.cause},
        )
        await self._notifier.send(notification)

    async def _has_begun(self) -> bool:
        is_begun = True
        with anyio.CancelScope(shield=True):
            is_begun = await may_have_begun(self.submission, self._directory, self._fleet)
        return is_begun  # noqa: RET504 - mypy: a scope may swallow an exception, so the return cannot stand within

    async def _beginning(self) -> str | None:
        """Return what its file in the spool holds, which may have been exchanged while the batch waited."""
        spooled = self.submission.spooled
        return (
            None if spooled is None else await anyio.to_thread.run_sync(beginning_of, self._directory.spool / spooled)
        )

    async def _update(self, decide: Decide) -> Submission:
        stored = self.submission
        with anyio.CancelScope(shield=True):
            stored = await self._store.update(self.id, decide)
        return stored  # noqa: RET504 - mypy: a scope may swallow an exception, so the return cannot stand within


async def may_have_begun(submission: Submission, directory: DataDirectory, fleet: Fleet | None) -> bool:
    """Return whether Runs of a batch that is not open may be live."""
    if fleet is not None:
        if submission.id in fleet.member.unsettled:
            return True  # its log, which was not read here yet, may have Runs of a worker that is gone
    elif await anyio.to_thread.run_sync(directory.has_moved_results, submission):
        return True
    return await anyio.to_thread.run_sync(has_begun, directory.out_dir(submission))


def _opened(now: Submission, beginning: str | None) -> dict[str, Any]:
    """Note that a batch is open, which is stored before the first start: from now on it must have a ledger."""
    begun_at = None if now.is_to_adopt_results else now.begun_at
    begun = {"begun_at": begun_at or datetime.now(UTC), "beginning": beginning or now.beginning}
    return begun if now.state.is_stopping else {**begun, "state": BatchState.ACTIVE, "reason": ""}
