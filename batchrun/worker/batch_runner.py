"""One submission on its way: opened, carried out, closed; and whatever goes wrong with it, kept to itself."""

import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import anyio
import structlog

from batchrun.account.account import Account
from batchrun.batch.open_batch import Batch, open_batch
from batchrun.config import Config
from batchrun.config.worker_config import WorkerConfig
from batchrun.errors import ApiError, BatchRefused, BatchrunError, ConfigError, JobFileError, TransportError
from batchrun.model import Ending, Record, Summary
from batchrun.policy.retry import Backoff
from batchrun.report.notice_words import notice_words
from batchrun.report.progress_words import Speed
from batchrun.worker.submission import Cause, Counts, State, Submission
from batchrun.worker.submission_config import config_of
from batchrun.worker.submission_store import Layout, has_begun

#: Waits while the platform cannot be reached.
OUTAGE_BACKOFF = Backoff(first_s=1.0, max_s=60.0)
#: What people are to be told of a batch: so many of the last words are kept.
MAX_NOTICES = 20

_log = structlog.get_logger()

#: Says what is to be changed of a submission as it is noted in that moment: somebody may have changed it just before.
Decide = Callable[[Submission], Mapping[str, Any]]
#: How the worker takes note of a change; it returns the submission as it is then.
Change = Callable[[str, Decide], Awaitable[Submission]]

#: Wraps a batch's way through this process, and is told of its records; None: there is nobody to be told.
Trace = Callable[[Submission], AbstractContextManager[Callable[[Record], None] | None]]


def no_trace(_submission: Submission) -> AbstractContextManager[None]:
    """Trace nothing."""
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all carriers of a worker have in common."""

    layout: Layout
    #: The worker's configuration as it is now.
    config: Callable[[], WorkerConfig]
    environ: Mapping[str, str]
    account: Account
    #: Takes note of a change.
    change: Change
    trace: Trace


class Carrier:
    """Carries one submission out; made anew each time that it is taken up.

    Args:
        submission_id: which.
        read: returns the submission as it is noted.
        around: what all carriers have in common.
    """

    def __init__(self, submission_id: str, read: Callable[[], Submission], around: Surroundings) -> None:
        self.id = submission_id
        self._read = read
        self._around = around
        #: While it is open.
        self.batch: Batch | None = None
        self.speed = Speed()
        self.notices: deque[str] = deque(maxlen=MAX_NOTICES)
        self._scope = anyio.CancelScope()
        #: From one opening of the batch to its closing.
        self._passage = anyio.CancelScope()
        #: Whether the batch has ended, and is being closed.
        self._is_closing = False
        #: Whether limits have changed while the batch was being opened.
        self._is_outdated = False
        self._is_let_go = False
        self._is_draining = False

    @property
    def submission(self) -> Submission:
        """As it is noted."""
        return self._read()

    def counts(self) -> Counts:
        """Return what the batch has come to by now."""
        batch = self.batch
        if batch is None:
            return self.submission.counts
        opening, progress = batch.opening, batch.progress
        outcomes = dict(opening.outcomes_before)
        for outcome, count in progress.outcomes.items():
            outcomes[outcome] = outcomes.get(outcome, 0) + count
        return Counts.model_construct(
            jobs=opening.job_count,
            outcomes=outcomes,
            items=opening.items_before + progress.items,
            cost_usd=opening.cost_before_usd + progress.cost_usd,
            live_runs=batch.live_runs,
            postponed=progress.postponed,
            in_doubt=progress.in_doubt,
        )

    def tick(self) -> None:
        """Note how far it is, and pass on what people are to be told; once a second."""
        if self.batch is None:
            return
        self.speed.note(anyio.current_time(), self.batch.progress.settled)
        for notice in self.batch.progress.notices.take():
            words = notice_words(notice)
            self.notices.append(words)
            _log.info("notice", batch=self.id, text=words)

    def obey(self, state: State) -> None:
        """Do what the submission's new state asks for: pause or cancel an open batch; one that closes ends anyway."""
        if self.batch is None:
            self._scope.cancel() if not self._is_closing else None
        elif state is State.CANCELLING:
            self.batch.cancel()
        else:
            self.batch.stop_starting()

    def reopen(self) -> None:
        """Close the batch and open it again at once, as it is noted now; its Runs go on, and keep their places."""
        if self.batch is not None and not self._is_draining:
            self.batch.keep_permits()
            self._passage.cancel()

    def drain(self) -> None:
        """Start nothing more; the submission stays under way, for the next start of the worker."""
        self._is_draining = True
        if self.batch is None:
            self._scope.cancel()
        else:
            self.batch.stop_starting()

    def let_go(self) -> None:
        """Leave live Runs running and noted, and end at once."""
        self._is_let_go = True
        self._scope.cancel()

    async def adapt(self) -> None:
        """Keep the limits and the standing that are noted now; what cannot be read changes nothing."""
        if self.batch is None:
            self._is_outdated = True
            return
        try:
            config = await self._read_config()
        except BatchrunError as error:
            self.notices.append(f"its limits stay as they were: {error}")
            _log.warning("limits_not_changed", batch=self.id, reason=str(error))
            return
        if self.batch is None:
            return
        if config.limits.budget_usd is not None and not self.batch.has_budget:
            self.reopen()
        else:
            self.batch.change_limits(config.limits, self.submission.batch_priority)

    async def run(self, places: anyio.Semaphore) -> None:
        """Carry the submission out once there is a place for it, and note what came of it; nothing of it is raised."""
        with structlog.contextvars.bound_contextvars(batch=self.id):
            with self._scope:
                async with places:
                    await self._run_to_a_note()
            if self._scope.cancelled_caught and not self._is_let_go and not self._is_draining:
                await self._note_rest()

    async def _run_to_a_note(self) -> None:
        failures = 0
        while True:
            self._is_closing = False
            try:
                with anyio.CancelScope() as self._passage:
                    await self._carry_out()
                    return
            except TransportError as error:
                failures += 1
                self._is_closing = False
                await self._note_reason(f"waits for the platform: {error}")  # logged by the client, once for all
                await anyio.sleep(OUTAGE_BACKOFF.wait_s(failures, random.random()))  # noqa: S311 - spread
            except (ConfigError, JobFileError) as error:
                await self._end(State.FAILED, str(error))
                return
            except BatchrunError as error:  # a refusal of the platform, or this machine
                is_refusal = isinstance(error, BatchRefused | ApiError)
                await self._stop(Cause.PLATFORM if is_refusal else Cause.MACHINE, str(error))
                return
            except Exception as error:  # noqa: BLE001 - a bug of ours must not touch the other batches
                _log.exception("batch_broken")
                reason = f"a bug in batchrun: {type(error).__name__}: {error}; see its log"
                await self._stop(Cause.MACHINE, reason)
                return

    async def _note_reason(self, reason: str) -> None:
        await self._change(lambda _: {"reason": reason})

    async def _carry_out(self) -> None:
        around = self._around
        self._is_outdated = False
        config = await self._read_config()
        await self._change(lambda now: {"begun_at": now.begun_at or datetime.now(UTC)})
        async with open_batch(
            config, environ=around.environ, account=around.account, priority=self.submission.batch_priority
        ) as batch:
            self.batch = batch
            try:
                await self._change(_opened)
                self._catch_up(batch)
                if self._is_outdated:
                    await self.adapt()
                with around.trace(self.submission) as on_record:
                    summary = await batch.run(on_record)
            except BaseException:
                counts = self.counts()
                await self._change(lambda _: {"counts": counts})  # what is shown of it while nobody works on it
                raise
            finally:
                self.tick()
                self.batch = None
                self._is_closing = True
        await self._close(summary, _counts_of(batch, summary), config)

    async def _read_config(self) -> Config:
        around = self._around
        return await anyio.to_thread.run_sync(
            config_of, self.submission, around.layout, around.config(), around.environ
        )

    def _catch_up(self, batch: Batch) -> None:
        """Do what was asked for while the batch was being opened."""
        state = self.submission.state
        if state is State.CANCELLING:
            batch.cancel()
        elif state is State.PAUSING or self._is_draining:
            batch.stop_starting()

    async def _close(self, summary: Summary, counts: Counts, config: Config) -> None:
        match summary.ending:
            case Ending.FINISHED:
                await self._end(State.FINISHED, "", counts)
            case Ending.INTERRUPTED:
                await self._end(State.PAUSED, "", counts)
            case Ending.TRIPPED:
                reason = "the breaker has stopped it: too much of what is paid for fails"
                await self._end(State.TRIPPED, reason, counts)
            case Ending.OUT_OF_BUDGET:
                await self._end(State.OUT_OF_BUDGET, "the budget does not allow the next start", counts)
            case Ending.OUT_OF_TIME:
                await self._stop(Cause.DEADLINE, "deadlines.max_batch_s is over", counts)
            case Ending.IN_DOUBT:
                reason = f"starts stay in doubt; `batchrun resolve {config.out_dir}` asks what became of them"
                await self._stop(Cause.DOUBT, reason, counts)

    async def _note_rest(self) -> None:
        """Note what a submission rests as that was told to while nobody had opened it.

        Of one that was begun, Runs may be live: it is taken up again, to abort them or to follow them to their end.
        """
        if self.submission.state in (State.PAUSING, State.CANCELLING) and not await self._is_begun():
            await self._end(State.PAUSED, "")

    async def _stop(self, cause: Cause, reason: str, counts: Counts | None = None) -> None:
        await self._end(State.STOPPED, reason, counts, cause)

    async def _end(self, state: State, reason: str, counts: Counts | None = None, cause: Cause | None = None) -> None:
        is_begun = await self._is_begun()

        def rest(now: Submission) -> dict[str, Any]:
            known = {} if counts is None else {"counts": counts}
            rests_as = _rests_as(now.state, state, is_begun=is_begun, is_draining=self._is_draining)
            if rests_as is None:
                return known
            ended_at = datetime.now(UTC) if rests_as.is_over else None
            return {**known, "state": rests_as, "reason": reason, "cause": cause, "ended_at": ended_at}

        noted = await self._change(rest)
        if not noted.state.is_under_way:
            _log.info("batch_rests", state=noted.state, reason=reason)

    async def _is_begun(self) -> bool:
        is_begun = True
        with anyio.CancelScope(shield=True):
            is_begun = await anyio.to_thread.run_sync(has_begun, self._around.layout.out_dir(self.submission))
        return is_begun  # noqa: RET504 - to mypy, a scope may swallow what is raised in it, and a return

    async def _change(self, decide: Decide) -> Submission:
        noted = self.submission
        with anyio.CancelScope(shield=True):
            noted = await self._around.change(self.id, decide)
        return noted  # noqa: RET504 - likewise


def _opened(now: Submission) -> dict[str, Any]:
    return {} if now.state in (State.PAUSING, State.CANCELLING) else {"state": State.ACTIVE, "reason": ""}


def _rests_as(told: State, came_to: State, *, is_begun: bool, is_draining: bool) -> State | None:
    """Return as what a batch rests that came to something, by what was told to it last; None: it goes on."""
    if told is State.CANCELLING:
        # What was begun and cannot be opened may have live Runs: that is to be seen, not covered up.
        is_hidden = came_to in (State.FAILED, State.STOPPED) and is_begun
        return came_to if is_hidden else State.CANCELLED
    if came_to is State.PAUSED and told is not State.PAUSING:
        assert is_draining or told is State.QUEUED, "what stops without being told to says why"
        return None  # with the next start of the worker, or at once
    return came_to


def _counts_of(batch: Batch, summary: Summary) -> Counts:
    jobs = batch.opening.job_count
    return Counts(
        jobs=summary.settled if summary.ending is Ending.FINISHED else jobs,
        outcomes=summary.outcomes,
        items=summary.items,
        cost_usd=summary.cost_usd,
        live_runs=summary.live_runs,
        postponed=0,
        in_doubt=summary.in_doubt,
    )
