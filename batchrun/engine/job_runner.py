"""One job to its record: `run_job` (tries again) -> `run_attempt` (notes intent and Run) -> start, follow, collect.

The start protocol, step by step: intend, POST once, bind, follow, collect, settle. Each step is noted before the
next one can happen, so that a process killed between any two of them can be followed by another.
"""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import anyio
import structlog

from batchrun.engine.collect import Collected, Collector
from batchrun.engine.doubt.reconcile import Reconciler, StillInDoubt
from batchrun.engine.follow.deadline_watch import Watch
from batchrun.engine.follow.live_run import LiveRun
from batchrun.engine.follow.polls import Follower
from batchrun.engine.limits.purse import Purse
from batchrun.engine.limits.slots import Demand, Slot
from batchrun.engine.limits.start_gate import StartGate, Turn
from batchrun.engine.notices import StartUnanswered
from batchrun.engine.ports import RunClient
from batchrun.engine.progress import Progress
from batchrun.engine.verdict import MAX_JOB_S, outcome_of, refusal, run_lost, took_too_long, with_end
from batchrun.engine.work import Marks, Postponed, Terms, Work
from batchrun.errors import (
    ApiError,
    ConnectFailed,
    NotFound,
    RateLimited,
    ResourcesBusy,
    ServerFailed,
    TransportError,
)
from batchrun.ledger.protocol import Ledger
from batchrun.model import (
    Attempt,
    AttemptState,
    Cause,
    CostSource,
    Intent,
    Outcome,
    Problem,
    Record,
    Run,
    RunOptions,
    TaskId,
)
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.fast_dataclasses import dataclass, replace

#: Items that were pushed last may be seen so much later. Source: the API reference, counters of a dataset.
ITEMS_LAG_S = 5.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """How an attempt ended; without an outcome it started nothing, and the job is simply tried again."""

    work: Work
    outcome: Outcome | None
    run: Run | None = None
    error: Problem | None = None
    #: True if the ledger does not have the end of the job's last attempt yet.
    is_news: bool = False
    #: Whether no further attempt can be made, whatever the retries say.
    is_final: bool = False

    @property
    def attempt(self) -> Attempt | None:
        """The attempt whose end the ledger is to note with what follows from it."""
        return self.work.attempts[-1] if self.is_news else None


class JobRunner:
    """Carries one job after another to its record; what all jobs of a batch share stands here."""

    def __init__(
        self,
        *,
        client: RunClient,
        ledger: Ledger,
        gate: StartGate,
        follower: Follower,
        reconciler: Reconciler,
        collector: Collector,
        progress: Progress,
        purse: Purse,
        task_id: TaskId,
        terms: Terms,
    ) -> None:
        self._marks = Marks()
        self._client = client
        self._ledger = ledger
        self._gate = gate
        self._follower = follower
        self._reconciler = reconciler
        self._collector = collector
        self._progress = progress
        self._purse = purse
        self._task_id = task_id
        self._terms = terms
        #: Memory of a Run for which neither job nor batch nor task say any; 0 until one was started.
        self._usual_memory_mb = 0
        self._has_told_of_doubt = False
        #: Jobs whose Run has ended and that only let some time pass before it is judged.
        self.paused = 0
        #: Called when one more of them begins to.
        self.on_pause: Callable[[], None] = lambda: None

    def demand(self, work: Work) -> Demand:
        """Return what the job's next Run takes beside a slot."""
        memory_mb, most_mb = self._memory_mb(work), self._terms.most_memory_mb
        if most_mb is not None and memory_mb > most_mb and work.starts_anew:
            memory_mb = 0  # it is too large, and not going to be started
        return Demand(memory_mb, work.job.group)

    def quote_usd(self, work: Work) -> float | None:
        """Return what to set aside for the job's next start; None when nothing bounds it and that is not allowed."""
        return self._purse.quote(self._options_of(work))

    def with_money(self, work: Work) -> Work:
        """Set money aside for a live Run that was started when there was no budget."""
        last = work.attempts[-1]
        if not self._purse.is_limited or last.reserved_usd is not None or not (usd := self.quote_usd(work)):
            return work
        self._purse.budget.reserve(usd)
        self._ledger.note_reservation(work.id, last.attempt_no, usd)
        return work.with_attempt(replace(last, reserved_usd=usd))

    async def run_job(self, work: Work, slot: Slot) -> Record | Postponed | LiveRun | None:
        """Carry a job one attempt further.

        Returns:
            The record of the settled job; or that it is to be tried again; or its live Run, that the sweep is to keep
            until `take_up`; or None when it is left open, because no more starts are wanted or because its start stays
            in doubt.

        Raises:
            BatchRefused: the platform refuses the whole batch; the job is left open.
            OutputError: the ledger cannot note it any more.
        """
        ended = await self.run_attempt(work, slot)
        return await self._conclude(ended) if isinstance(ended, _Ended) else ended

    async def take_up(self, live: LiveRun) -> Record | Postponed | LiveRun:
        """Go on with a job whose Run the sweep has kept; returns and raises what `run_job` does."""
        try:
            ended = await self._follow(live)
        finally:
            live.over()
        return await self._conclude(ended) if isinstance(ended, _Ended) else ended

    async def _conclude(self, ended: _Ended) -> Record | Postponed:
        """Judge an attempt that has ended, and settle its job, or have it tried again."""
        ended = await self._judge(ended)
        wait_s = self._wait_before_next(ended)
        if wait_s is not None:
            self._ledger.postpone(ended.work.id, ended.attempt, wait_s)
            crash_point("postponed")
            return Postponed(ended.work, wait_s)
        collected = await self._collect(ended)
        ended = self._priced(ended, collected)
        record = _record(ended, collected)
        crash_point("collected")
        await self._ledger.settle(ended.work.id, ended.attempt, record, collected.item_lines)
        crash_point("settled")
        return record

    async def run_attempt(self, work: Work, slot: Slot) -> _Ended | LiveRun | None:
        """Start a Run, or take up the one of an earlier process, and follow it to its end; free the slot then.

        A Run that there is no poll for is returned while it is live, with turn and slot.
        """
        if work.starts_anew:
            return await self._start(work, slot)
        last = work.attempts[-1]
        turn = self._gate.adopt()
        try:
            if last.state is AttemptState.BOUND:
                return await self._follow(self._live(work, last, turn, slot))
            return await self._reconcile(work, last, turn, slot)
        finally:
            turn.over()

    async def _start(self, work: Work, slot: Slot) -> _Ended | LiveRun | None:
        """Take turns until one start is answered for good."""
        if (problem := self._why_not_started(work)) is not None:
            self._purse.give_back(work.reserved_usd)
            return await self._as_it_stands(work, problem)
        attempt_no = len(work.attempts) + 1
        while (turn := await self._gate.turn()) is not None:
            try:
                intent = Intent(
                    attempt_no=attempt_no,
                    round=work.open.round,
                    mark=self._marks.next(),
                    platform_time=self._client.platform_time,
                    reserved_usd=work.reserved_usd,
                )
                attempt = await self._ledger.intend(work.id, intent)
                crash_point("intended")
                answer = await self._post(work, attempt, turn)
                match answer:
                    case Attempt():
                        return await self._follow(self._live(work, answer, turn, slot))
                    case _InDoubt():
                        return await self._reconcile(work, attempt, turn, slot)
                    case Problem():
                        self._purse.give_back(work.reserved_usd)
                        return _Ended(work=work, outcome=Outcome.REJECTED, error=answer)
            finally:
                turn.over()
        self._purse.give_back(work.reserved_usd)
        return None

    def _why_not_started(self, work: Work) -> Problem | None:
        """Say why we do not even ask the platform to start this job's Run."""
        most_mb = self._terms.most_memory_mb
        if most_mb is not None and (memory_mb := self._memory_mb(work)) > most_mb:
            message = f"asks for {memory_mb:,} MB, and {most_mb:,} MB are all there is"
            return Problem(type="memory-never-available", message=message)
        if self._purse.is_limited and work.reserved_usd is None:
            message = "nothing bounds what its Run may cost, and there is a budget: see its @options"
            return Problem(type="cost-not-bounded", message=message)
        if work.this_round and (left_s := self._left_s(work, work.this_round[0])) is not None and left_s <= 0:
            return took_too_long(self._terms.deadlines.max_job_s)
        return None

    async def _as_it_stands(self, work: Work, problem: Problem) -> _Ended:
        """Settle a job that gets no further attempt: by its last Run, which was paid for, if it had one."""
        with_runs = [attempt for attempt in work.this_round if attempt.run_id is not None]
        if not with_runs:
            outcome = Outcome.TIMED_OUT if problem.type == MAX_JOB_S else Outcome.REJECTED
            return _Ended(work=work, outcome=outcome, error=problem, is_final=True)
        last = with_runs[-1]
        assert last.run_id is not None
        try:
            run = await self._client.get_run(last.run_id)
        except NotFound:
            return _Ended(work=work, outcome=Outcome.LOST, error=problem, is_final=True)
        outcome, error = outcome_of(run, last.aborted_for)
        return _Ended(work=work, outcome=outcome, run=run, error=error or problem, is_final=True)

    async def _post(self, work: Work, attempt: Attempt, turn: Turn) -> "Attempt | _InDoubt | Problem | None":
        """Send the start request, once.

        Returns:
            The attempt, bound to its Run; or that its answer was lost; or why the platform refuses this job; or None
            when nothing was started and the job may try again at its next turn. The Run itself is not returned: its
            description would be held in memory for as long as it lives.
        """
        turn.sending()
        try:
            run = await self._client.start_run(self._task_id, work.job.body, self._options_of(work), attempt.mark)
        except (RateLimited, ResourcesBusy, ConnectFailed) as error:
            self._ledger.withdraw(work.id, attempt.attempt_no)
            _give_way(turn, error)
            return None
        except (TransportError, ServerFailed) as error:
            _log.warning("answer_lost", job_key=work.job.key, mark=attempt.mark, error=str(error))
            turn.unanswered()
            return _InDoubt()
        except ApiError as error:
            self._ledger.withdraw(work.id, attempt.attempt_no)
            return refusal(error, work.job)
        crash_point("answered")
        turn.started()
        self._reconciler.note_start(run, attempt.mark)
        return self._bind(work, attempt, run)

    def _options_of(self, work: Work) -> RunOptions:
        """Return what the next start asks for: what a retry raises, over the job's own, over the batch's."""
        own = work.job.options.over(self._terms.options) if work.job.options else self._terms.options
        if self._purse.is_limited:
            # Asked for by ourselves, so that no edit of the task makes a Run cost more than was set aside for it.
            own = own.over(self._terms.task_options)
        return self._terms.retry.escalation.next_options(work.this_round).over(own) if work.attempts else own

    def _memory_mb(self, work: Work) -> int:
        asked_mb = self._options_of(work).memory_mb
        return self._terms.task_options.memory_mb or self._usual_memory_mb if asked_mb is None else asked_mb

    def _bind(self, work: Work, attempt: Attempt, run: Run) -> Attempt:
        """Note the Run's id; nobody waits for it, since until then the attempt is in doubt, which is safe."""
        self._ledger.bind(work.id, attempt.attempt_no, run)
        _log.debug("run_started", job_key=work.job.key, run_id=run.id, attempt_no=attempt.attempt_no)
        crash_point("bound")
        self._progress.started += 1
        self._usual_memory_mb = run.memory_mb or self._usual_memory_mb
        return replace(
            attempt,
            state=AttemptState.BOUND,
            run_id=run.id,
            started_at=run.started_at,
            memory_mb=run.memory_mb,
            timeout_s=run.timeout_s,
        )

    async def _reconcile(self, work: Work, attempt: Attempt, turn: Turn, slot: Slot) -> _Ended | LiveRun | None:
        """Find out what became of a start whose answer was lost; the slot is kept, for a Run may be live."""
        self._progress.in_doubt += 1
        self._tell_of_doubt()
        try:
            run = await self._reconciler.resolve(attempt.mark, work.job.key, attempt.earliest_start)
        except StillInDoubt:
            self._purse.settle(attempt.reserved_usd or 0.0, None)  # a Run may live, and nobody knows its cost
            return None
        finally:
            self._progress.in_doubt -= 1
        if run is not None:
            return await self._follow(self._live(work, self._bind(work, attempt, run), turn, slot))
        self._purse.give_back(attempt.reserved_usd)
        nothing = replace(attempt, state=AttemptState.ENDED)
        return _Ended(work=work.with_attempt(nothing), outcome=None, is_news=True)

    def _tell_of_doubt(self) -> None:
        if not self._has_told_of_doubt:
            self._has_told_of_doubt = True
            self._progress.notices.add(StartUnanswered())

    def _live(self, work: Work, attempt: Attempt, turn: Turn, slot: Slot) -> LiveRun:
        watch = Watch(
            self._client,
            self._terms.deadlines,
            work.job.key,
            job_left_s=self._left_s(work, attempt),
            timeout_s=attempt.timeout_s,
            aborted_for=attempt.aborted_for,
            note_abort=partial(self._ledger.note_abort, work.id, attempt.attempt_no),
            tell=self._progress.notices.add,
        )
        return LiveRun(work, attempt, turn, slot, watch)

    async def _follow(self, live: LiveRun) -> _Ended | LiveRun:
        """Wait for the Run's end, then free turn and slot before anything else is done."""
        is_over, run = await self._follower.follow(live)
        if not is_over:
            return live.handed_over()
        live.over()
        crash_point("terminal")
        return self._ended(live, run)

    def _ended(self, live: LiveRun, run: Run | None) -> _Ended:
        """Return how an attempt ended; without a Run, the platform does not know it any more."""
        work, attempt = live.work, live.attempt
        if run is None:
            _log.warning("run_lost", job_key=work.job.key, run_id=attempt.run_id)
            self._purse.settle(attempt.reserved_usd or 0.0, None)
            lost = replace(attempt, state=AttemptState.ENDED, cause=Cause.LOST, cost_is_final=True)
            return _Ended(work=work.with_attempt(lost), outcome=Outcome.LOST, error=run_lost(attempt), is_news=True)
        aborted_for = live.watch.problem
        outcome, problem = outcome_of(run, aborted_for)
        ended = with_end(attempt, run, outcome, aborted_for, self._client.platform_now)
        return _Ended(work=work.with_attempt(ended), outcome=outcome, run=run, error=problem, is_news=True)

    def _left_s(self, work: Work, attempt: Attempt) -> float | None:
        """Return what is left of the job's own time, counted from its first start in this round."""
        if self._terms.deadlines.max_job_s is None:
            return None
        first = work.this_round[0] if work.this_round else attempt
        began_at, now = first.platform_time, self._client.platform_now
        if began_at is None or now is None:
            began_at, now = first.intended_at, datetime.now(UTC)
        return self._terms.deadlines.max_job_s - (now - began_at).total_seconds()

    async def _judge(self, ended: _Ended) -> _Ended:
        """See whether a Run that succeeded has left what was expected of it."""
        if self._terms.expectation is None or ended.run is None or ended.outcome is not Outcome.SUCCEEDED:
            return ended
        verdict = await self._collector.judge(ended.run, self._terms.expectation)
        if verdict is not None and verdict.outcome is Outcome.EMPTY:
            await self._pause(ITEMS_LAG_S)
            verdict = await self._collector.judge(ended.run, self._terms.expectation)
        if verdict is None:
            return ended
        attempt = replace(ended.work.attempts[-1], cause=Cause(verdict.outcome))
        work = ended.work.with_attempt(attempt)
        return replace(ended, work=work, outcome=verdict.outcome, error=verdict.problem)

    async def _pause(self, for_s: float) -> None:
        self.paused += 1
        self.on_pause()
        try:
            await anyio.sleep(for_s)
        finally:
            self.paused -= 1

    def _priced(self, ended: _Ended, collected: Collected) -> _Ended:
        """Work out what a pay-per-result Run costs where the platform does not tell, from what it has left."""
        per_item_usd = self._purse.prices.per_item_usd
        if per_item_usd is None or collected.items is None or not ended.work.attempts:
            return ended
        last = ended.work.attempts[-1]
        if last.cost_usd is not None or last.run_id is None:
            return ended
        cost_usd = per_item_usd * collected.items.count
        priced = replace(last, cost_usd=cost_usd, cost_source=CostSource.DERIVED)
        return replace(ended, work=ended.work.with_attempt(priced))

    def _wait_before_next(self, ended: _Ended) -> float | None:
        if ended.outcome is None:
            return 0.0  # it has waited out the horizon already
        if ended.is_final or ended.outcome is Outcome.REJECTED:
            return None  # what was refused would be refused again
        attempts = ended.work.this_round
        wait_s = self._terms.retry.wait_before_next(attempts, random.random)
        if wait_s is None:
            return None
        left_s = self._left_s(ended.work, attempts[-1])
        return None if left_s is not None and left_s <= wait_s else wait_s

    async def _collect(self, ended: _Ended) -> Collected:
        if ended.run is None or ended.outcome is None:
            return Collected()
        work = ended.work
        return await self._collector.collect(work.job, work.id, work.attempts[-1], ended.run, ended.outcome)


@dataclass(frozen=True, slots=True)
class _InDoubt:
    """The answer to a start was lost."""


def _give_way(turn: Turn, error: ApiError | ConnectFailed) -> None:
    if isinstance(error, ResourcesBusy):
        turn.account_is_full()
    else:
        turn.not_now(error.retry_after_s if isinstance(error, ApiError) else None)


def _record(ended: _Ended, collected: Collected) -> Record:
    work, run = ended.work, ended.run
    assert ended.outcome is not None, "a job is settled with an outcome"
    return Record(
        key=work.job.key,
        line=work.job.position.line,
        round=work.open.round,
        group=work.job.group,
        meta=work.job.meta,
        outcome=ended.outcome,
        attempts=work.this_round,
        run=run.fields if run is not None else None,
        output=collected.output,
        items=collected.items,
        error=ended.error,
        admitted_at=work.open.admitted_at,
        started_at=run.started_at if run is not None else None,
        finished_at=run.finished_at if run is not None else None,
    )
