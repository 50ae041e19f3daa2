"""Carries one job through an attempt: `run_job` (settles) -> `run_attempt` (intends, follows) -> `_start_run` (POSTs).

The steps are: intend, POST once, bind, follow, collect, settle. Each is noted before the next one can happen, so that
another process can resume wherever this one is killed.
"""

import random
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import anyio
import structlog

from batchrun.engine.collect import Collected, Collector
from batchrun.engine.doubt.reconcile import Reconciler, StillInDoubt
from batchrun.engine.follow.deadline_watch import DeadlineWatch
from batchrun.engine.follow.elapsed_time import elapsed_s
from batchrun.engine.follow.live_run import LiveRun
from batchrun.engine.follow.lost_run import Sight
from batchrun.engine.follow.polls import Follower
from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.limits.permits import Permit, Permits
from batchrun.engine.limits.start_gate import Start, StartGate
from batchrun.engine.marks import Marks
from batchrun.engine.notices import StartUnanswered
from batchrun.engine.ports import RunClient
from batchrun.engine.progress import Progress
from batchrun.engine.run_outcome import (
    MAX_JOB_S,
    has_messages,
    outcome_of,
    priced_by_items,
    record_of,
    run_lost,
    run_unreadable,
    with_end,
    with_output_problem,
    with_storages,
    without_secrets,
)
from batchrun.engine.start_refusals import (
    NO_EFFECT_BACKOFF,
    START_BLOCKED,
    refusal,
    start_blocked,
    starts_without_effect,
)
from batchrun.engine.start_terms import StartTerms
from batchrun.engine.work import EndedAttempt, Postponed, Terms, Work
from batchrun.errors import (
    ApiError,
    BatchRefused,
    BatchrunError,
    ConnectFailed,
    NotFound,
    RateLimited,
    ResourcesBusy,
    ServerFailed,
    TokenUnconfirmed,
    TransportError,
)
from batchrun.ledger.protocol import Ledger
from batchrun.model import Attempt, AttemptState, Cause, Intent, JobId, Outcome, Problem, Record, Run, RunId, TaskId
from batchrun.policy.too_large_job import RefusedAlone, never_fits
from batchrun.runtime.byte_budget import Room
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.fast_dataclasses import dataclass, replace
from batchrun.runtime.steady_time import steady_time

#: Seconds after which the last pushed items are visible. Source: the API reference, counters of a dataset.
ITEMS_LAG_S = 5.0

#: Why a start is put off: the process was stopped, or its log out of reach, for longer than a lease.
NOT_OWNER = "the shared log has not confirmed for a while that this process owns the batch"

#: What one attempt at a job leads to: its record; another attempt later; its live Run, for the sweep to follow; or
#: None: the job is left open, since no more starts are wanted or its start stays in doubt.
Result = Record | Postponed | LiveRun | None

#: Outcomes of jobs that get no start and have no Run, by error type; `rejected` for all others.
_OUTCOME_WITHOUT_RUN = {MAX_JOB_S: Outcome.TIMED_OUT, START_BLOCKED: Outcome.FAILED}

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _InDoubt:
    """The answer to a start was lost, or is not from the API."""

    error: TransportError | ServerFailed


class JobRunner:
    """Carries jobs to their records, one attempt at a time.

    Args:
        client: the platform.
        ledger: notes each step before the next one.
        permits: give a permit to each Run that is live already.
        gate: notes what becomes of each start.
        follower: follows Runs to their end.
        reconciler: resolves starts whose answer was lost.
        collector: reads the output of Runs.
        progress: counters to update.
        reservations: the batch's money.
        task_id: whose Runs are started.
        terms: of the batch.
        start_terms: what each start needs.
        pausing: a context in which the calling child does not count as busy.
        keep_log: called with each record and the secrets of its job, to keep the end of its Run's log; None: no logs
            are kept.
    """

    def __init__(
        self,
        *,
        client: RunClient,
        ledger: Ledger,
        permits: Permits,
        gate: StartGate,
        follower: Follower,
        reconciler: Reconciler,
        collector: Collector,
        progress: Progress,
        reservations: CostReservations,
        task_id: TaskId,
        terms: Terms,
        start_terms: StartTerms,
        pausing: Callable[[], AbstractContextManager[None]],
        keep_log: Callable[[Record, Collection[str]], None] | None,
    ) -> None:
        self._marks = Marks()
        self._log = _log.bind()  # once: else each line of each job binds a logger
        self._client = client
        self._ledger = ledger
        self._permits = permits
        self._gate = gate
        self._follower = follower
        self._reconciler = reconciler
        self._collector = collector
        self._progress = progress
        self._reservations = reservations
        self._task_id = task_id
        self._terms = terms
        self._start_terms = start_terms
        self._pausing = pausing
        self._keep_log = keep_log
        self._has_noted_doubt = False
        #: By job: how many Runs had started when its start first went unanswered; removed once a start takes effect.
        self._started_before: dict[JobId, int] = {}
        #: Of each live Run, its job's override.
        self._overrides: dict[RunId, bytes] = {}

    async def run_job(self, work: Work, permit: Permit) -> Result:
        """Carry a job through one attempt.

        Raises:
            BatchRefused: the platform refuses the whole batch; the job stays open.
            OutputError: the ledger can note no more steps.
        """
        return await self._settle_or_postpone(await self.run_attempt(work, permit))

    async def run_attempt(self, work: Work, permit: Permit) -> EndedAttempt | LiveRun | None:
        """Intend, start, bind and follow one Run. The permit is released as soon as no Run can be live.

        A Run that gets no poll is returned while it is live, with its permit.

        Raises:
            BatchRefused: the platform refuses the whole batch; no money stays reserved, unless a Run may be live.
            OutputError: the attempt cannot be noted, and nothing was started.
        """
        if self._terms.no_starts:
            self._reservations.give_back(work.reserved_usd)
            raise BatchRefused(self._terms.no_starts)
        problem = self._start_terms.why_not(work, self._left_s(work, work.this_round[0]) if work.this_round else None)
        if problem is not None:
            permit.release()
            self._reservations.give_back(work.reserved_usd)
            return await self._as_it_stands(work, problem)
        refused_alone = RefusedAlone()
        while (start := await permit.next_start()) is not None:
            intended_at = steady_time()
            self._reconciler.second_runs.expect(intended_at)
            attempt = await self._intend(work, intended_at)
            crash_point("intended")
            match await self._start_run(work, attempt, start):
                case Attempt() as bound:
                    return await self._follow(self._live(work, bound, permit, is_new=True))
                case _InDoubt(error):
                    return await self._reconcile(work, attempt, permit, error, intended_at)
                case ResourcesBusy() as full:
                    is_alone = start.nth_live <= 1 and not self._gate.is_limit_known
                    alone_s = refused_alone.note(intended_at, is_alone=is_alone)
                    memory_mb = self._start_terms.memory_mb(work)
                    refused = never_fits(full, memory_mb, self._start_terms.largest_mb, alone_s)
                    if refused is not None:
                        return self._rejected(work, permit, refused)
                case Problem() as refused:
                    return self._rejected(work, permit, refused)
        self._reservations.give_back(work.reserved_usd)
        return None

    def _rejected(self, work: Work, permit: Permit, refused: Problem) -> EndedAttempt:
        permit.release()
        self._reservations.give_back(work.reserved_usd)
        return EndedAttempt(work=work, outcome=Outcome.REJECTED, error=refused)

    async def _intend(self, work: Work, intended_at: float) -> Attempt:
        """Note the next attempt. If that fails, nothing is sent, and the start's money is given back."""
        intent = Intent(
            attempt_no=len(work.attempts) + 1,
            round=work.open.round,
            mark=self._marks.next(),
            platform_time=self._client.clock.date,
            not_before=self._client.clock.at(intended_at).earliest,
            reserved_usd=work.reserved_usd,
        )
        try:
            return await self._ledger.intend(work.id, intent)
        except BatchrunError:
            self._reservations.give_back(work.reserved_usd)
            raise

    async def _start_run(
        self, work: Work, attempt: Attempt, start: Start
    ) -> Attempt | _InDoubt | Problem | ResourcesBusy | None:
        """Send the start request, once.

        Returns:
            Attempt: bound to its Run. The Run is not returned: it would stay in memory as long as it is live.
            _InDoubt: the answer was lost.
            Problem: the platform refuses this job.
            ResourcesBusy, None: nothing was started, and the job may try again; the former if the account is full.

        Raises:
            BatchRefused: the platform refuses the whole batch; nothing was started.
        """
        self._gate.sending(start)
        options = self._start_terms.options_of(work)
        if not self._ledger.may_start():
            self._ledger.withdraw(work.id, attempt.attempt_no)
            self._gate.try_later(start, None, NOT_OWNER)
            return None
        try:
            run = await self._client.start_run(
                self._task_id, work.job.body, options, attempt.mark, self._ledger.may_start
            )
        except ResourcesBusy as full:
            self._ledger.withdraw(work.id, attempt.attempt_no)
            self._gate.account_is_full(start)
            return full
        except (RateLimited, ConnectFailed, TokenUnconfirmed) as error:
            self._ledger.withdraw(work.id, attempt.attempt_no)
            if isinstance(error, ApiError):
                self._gate.try_later(start, error.retry_after_s, f"{error.status} {error.type}: {error.message}")
            else:
                self._gate.try_later(start, None, str(error))
            return None
        except (TransportError, ServerFailed) as error:
            self._log.warning("answer_lost", job_key=work.job.key, mark=attempt.mark, error=str(error))
            self._gate.unanswered(start)
            return _InDoubt(error)
        except ApiError as error:
            return self._refused(work, attempt, error)
        crash_point("answered")
        self._gate.started(start)
        self._reconciler.note_start(run, attempt.mark)
        return self._bind(work, attempt, run)

    def _refused(self, work: Work, attempt: Attempt, error: ApiError) -> Problem:
        """Withdraw a start that the platform refused; if it refuses the whole batch, give back the start's money."""
        self._ledger.withdraw(work.id, attempt.attempt_no)
        try:
            return refusal(error, work.job)
        except BatchRefused:
            self._reservations.give_back(work.reserved_usd)
            raise

    def _bind(self, work: Work, attempt: Attempt, run: Run) -> Attempt:
        """Note the Run's id. Nothing waits for this commit: until then the attempt is in doubt, which is safe."""
        if run.started_at is None:
            run = replace(run, started_at=self._client.clock.now.middle)
        self._ledger.bind(work.id, attempt.attempt_no, run)
        self._log.debug("run_started", job_key=work.job.key, run_id=run.id, attempt_no=attempt.attempt_no)
        crash_point("bound")
        self._progress.started += 1
        if self._started_before:
            self._started_before.pop(work.id, None)
        self._start_terms.note_run(run)
        return replace(
            attempt,
            state=AttemptState.BOUND,
            run_id=run.id,
            started_at=run.started_at,
            memory_mb=run.memory_mb,
            timeout_s=run.timeout_s,
        )

    async def _reconcile(
        self,
        work: Work,
        attempt: Attempt,
        permit: Permit,
        error: TransportError | ServerFailed | None = None,
        intended_at: float | None = None,
    ) -> EndedAttempt | LiveRun | None:
        """Find out if a start whose answer was lost has started a Run.

        While no such Run is seen, other starts may use the permit.

        Args:
            work: the job.
            attempt: its last one.
            permit: of the start.
            error: why there is no answer; None for a start of an earlier process.
            intended_at: when the attempt was intended (steady); None: by an earlier process.
        """
        started_before = self._started_before.setdefault(work.id, self._progress.started)
        self._progress.in_doubt += 1
        permit.note_doubt(True)
        self._note_doubt(error)
        try:
            # A child that resumes an attempt of an earlier process does not count as busy anyway.
            with self._pausing() if error is not None else nullcontext():
                run = await self._reconciler.resolve(attempt, work.job.key, permit, intended_at)
        except StillInDoubt:
            self._reservations.settle(attempt.reserved_usd or 0.0, None)  # a Run may live, at an unknown cost
            return None
        finally:
            self._progress.in_doubt -= 1
        if run is not None:
            permit.note_doubt(False)
            return await self._follow(self._live(work, self._bind(work, attempt, run), permit))
        permit.release()
        self._reservations.give_back(attempt.reserved_usd)
        work = work.with_attempt(replace(attempt, state=AttemptState.ENDED))
        blocked = start_blocked(work, error, have_others_started=self._progress.started > started_before)
        if blocked is None:
            return EndedAttempt(work=work, outcome=None, is_news=True)
        del self._started_before[work.id]
        return replace(await self._as_it_stands(work, blocked), is_news=True)

    def _note_doubt(self, error: BatchrunError | None) -> None:
        if not self._has_noted_doubt:
            self._has_noted_doubt = True
            self._progress.notices.add(StartUnanswered(reason=str(error) if error is not None else ""))

    def secrets_of(self, run_id: RunId) -> tuple[str, ...] | None:
        """Return the secret texts of a live Run's input, longest first; None: they are unknown, since it has ended."""
        if self._terms.secrets.are_none:
            return ()
        override = self._overrides.get(run_id)
        return None if override is None else self._terms.secrets.of(override)

    def _live(self, work: Work, attempt: Attempt, permit: Permit, *, is_new: bool = False) -> LiveRun:
        watch = DeadlineWatch(
            self._client,
            self._terms.deadlines,
            work.job.key,
            job_left_s=self._left_s(work, attempt),
            ran_s=0.0 if is_new else elapsed_s(attempt, self._client.clock),
            timeout_s=attempt.timeout_s,
            aborted_for=attempt.aborted_for,
            note_abort=partial(self._ledger.note_abort, work.id, attempt.attempt_no),
            report=self._progress.notices.add,
        )
        live = LiveRun(work, attempt, permit, watch)
        self._overrides[live.run_id] = work.job.body
        return live

    async def _follow(self, live: LiveRun) -> EndedAttempt | LiveRun:
        """Wait for the Run's end, then release its permit before anything else is done."""
        sight = await self._follower.follow(live)
        if not sight.is_over:
            return live.transferred()
        self._overrides.pop(live.run_id, None)
        live.permit.release()
        crash_point("terminal")
        if sight.unreadable is None:
            return self._ended(live, sight)
        # Its end stays unknown to the ledger, so that another command can look for it or abort it.
        problem = run_unreadable(live.attempt, sight.unreadable)
        self._log.warning("run_given_up", job_key=live.work.job.key, run_id=live.run_id, reason=problem.message)
        self._reservations.settle(live.attempt.reserved_usd or 0.0, None)
        work = live.work.with_attempt(live.attempt)
        return EndedAttempt(work=work, outcome=Outcome.TIMED_OUT, error=problem, is_final=True)

    def _ended(self, live: LiveRun, sight: Sight) -> EndedAttempt:
        """Return how an attempt ended; without a Run, it is lost."""
        work, attempt, run = live.work, live.attempt, sight.run
        if run is None:
            self._log.warning("run_lost", job_key=work.job.key, run_id=attempt.run_id)
            self._reservations.settle(attempt.reserved_usd or 0.0, None)
            lost = replace(attempt, state=AttemptState.ENDED, cause=Cause.LOST, cost_is_final=True)
            work = work.with_attempt(lost)
            why = run_lost(attempt, is_foreign=sight.is_foreign)
            # Final for a foreign one: whatever a wrong entry or answer says, nothing is started again for it.
            return EndedAttempt(work=work, outcome=Outcome.LOST, error=why, is_news=True, is_final=sight.is_foreign)
        self._reservations.note_so_far(attempt, run.cost_usd)
        aborted_for = live.watch.problem
        outcome, problem = outcome_of(run, aborted_for)
        # A terminal Run without an end time has ended by now.
        ended = with_end(attempt, run, outcome, aborted_for, run.finished_at or self._client.clock.now.middle)
        return EndedAttempt(work=work.with_attempt(ended), outcome=outcome, run=run, error=problem, is_news=True)

    async def _as_it_stands(self, work: Work, problem: Problem) -> EndedAttempt:
        """End a job that gets no further attempt: with its last Run, which was paid for, if it had one.

        Raises:
            BatchRefused: the platform refuses to describe the Run; the job stays open.
        """
        with_runs = [attempt for attempt in work.this_round if attempt.run_id is not None]
        if not with_runs:
            outcome = _OUTCOME_WITHOUT_RUN.get(problem.type, Outcome.REJECTED)
            return EndedAttempt(work=work, outcome=outcome, error=problem, is_final=True)
        last = with_runs[-1]
        assert last.run_id is not None
        try:
            run = await self._client.get_run(last.run_id, gives_up=True)
        except (NotFound, ServerFailed, TransportError):
            return EndedAttempt(work=work, outcome=Outcome.LOST, error=problem, is_final=True)
        except ApiError as refused:
            raise BatchRefused(f"Run {last.run_id} cannot be read: {refused}", refused) from refused
        if run.is_of_another(self._task_id):
            return EndedAttempt(work=work, outcome=Outcome.LOST, error=problem, is_final=True)
        outcome, error = outcome_of(run, last.aborted_for)
        return EndedAttempt(work=work, outcome=outcome, run=run, error=error or problem, is_final=True)

    async def _settle_or_postpone(self, ended: EndedAttempt | LiveRun | None) -> Result:
        """Settle the job of an ended attempt, or postpone it for another attempt."""
        if not isinstance(ended, EndedAttempt):
            return ended
        ended = await self._judge(ended)
        wait_s = self._wait_before_next(ended)
        if wait_s is None:
            return await self._settle(ended)
        ended = with_storages(ended)
        self._ledger.postpone(ended.work.id, ended.attempt, wait_s)
        crash_point("postponed")
        return Postponed(ended.work, wait_s)

    async def _settle(self, ended: EndedAttempt) -> Record:
        """Collect the output of a job's last Run, and settle the job with it."""
        with self._collector.room() as room:
            with self._progress.collecting:
                collected = await self._collect(ended, room)
            ended = priced_by_items(ended, collected.items, self._reservations.prices.per_item_usd)
            ended = with_output_problem(ended, collected.problem)
            record = record_of(ended, collected.output, collected.output_error, collected.items)
            secrets = self._terms.secrets.of(ended.work.job.body) if has_messages(record) else ()
            record = without_secrets(record, secrets)
            crash_point("collected")
            with self._progress.settling:
                await self._ledger.settle(ended.work.id, ended.attempt, record, collected.item_lines)
            crash_point("settled")
        if self._keep_log is not None:
            self._keep_log(record, secrets)
        return record

    async def _judge(self, ended: EndedAttempt) -> EndedAttempt:
        """Check whether the output of a succeeded Run meets the expectation."""
        if self._terms.expectation is None or ended.run is None or ended.outcome is not Outcome.SUCCEEDED:
            return ended
        with self._progress.collecting:
            verdict = await self._collector.judge(ended.run, self._terms.expectation)
            if verdict is not None and verdict.outcome is Outcome.EMPTY:
                with self._pausing():
                    await anyio.sleep(ITEMS_LAG_S)
                verdict = await self._collector.judge(ended.run, self._terms.expectation)
        if verdict is None:
            return ended
        attempt = replace(ended.work.attempts[-1], cause=Cause(verdict.outcome))
        work = ended.work.with_attempt(attempt)
        return replace(ended, work=work, outcome=verdict.outcome, error=verdict.problem)

    def _wait_before_next(self, ended: EndedAttempt) -> float | None:
        """Return how long to wait before the next attempt, in seconds; None: there is none."""
        if ended.outcome is None:
            return NO_EFFECT_BACKOFF.wait_s(starts_without_effect(ended.work), random.random())  # noqa: S311 - spread
        if ended.is_final or ended.outcome is Outcome.REJECTED:
            return None  # what was refused would be refused again
        attempts = ended.work.this_round
        wait_s = self._terms.retry.wait_before_next(attempts, random.random)
        if wait_s is None:
            return None
        left_s = self._left_s(ended.work, attempts[-1])
        return None if left_s is not None and left_s <= wait_s else wait_s

    async def _collect(self, ended: EndedAttempt, room: Room) -> Collected:
        if ended.run is None or ended.outcome is None:
            return Collected()
        work = ended.work
        return await self._collector.collect(work.job, work.id, work.attempts[-1], ended.run, ended.outcome, room)

    def _left_s(self, work: Work, attempt: Attempt) -> float | None:
        """Return what is left of the job's own time, counted from its first start in this round; None: unlimited."""
        if self._terms.deadlines.max_job_s is None:
            return None
        first = work.this_round[0] if work.this_round else attempt
        return self._terms.deadlines.max_job_s - elapsed_s(first, self._client.clock)

    def adopt(self, work: Work) -> tuple[Work, Permit]:
        """Reserve a permit and money for an attempt of an earlier process, whose Run may be live."""
        permit = self._permits.adopt(self._start_terms.demand(work))
        last = work.attempts[-1]
        if not self._reservations.is_limited or last.reserved_usd is not None:
            return work, permit
        usd = self._start_terms.quote_usd(work) or 0.0
        self._reservations.reserve(usd)
        self._ledger.note_reservation(work.id, last.attempt_no, usd)
        return work.with_attempt(replace(last, reserved_usd=usd)), permit

    async def resume_job(self, work: Work, permit: Permit) -> Result:
        """Continue an attempt of an earlier process. Returns and raises what `run_job` does."""
        last = work.attempts[-1]
        if last.round != work.open.round:  # its Run was given up in an earlier round, and is looked for again
            last = replace(last, round=work.open.round)
            work = work.with_attempt(last)
        if last.state is AttemptState.BOUND:
            return await self.take_up(self._live(work, last, permit))
        return await self._settle_or_postpone(await self._reconcile(work, last, permit))

    async def take_up(self, live: LiveRun) -> Result:
        """Continue with a job whose Run the sweep has let go. Returns and raises what `run_job` does."""
        return await self._settle_or_postpone(await self._follow(live))
