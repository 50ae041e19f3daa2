"""One job to its record: `run_job` (tries again) -> `run_attempt` (notes intent and Run) -> start, follow, collect.

The start protocol, step by step: intend, POST once, bind, follow, collect, settle. Each step is noted before the
next one can happen, so that a process killed between any two of them can be followed by another.
"""

import math
import random
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from batchrun.engine.collect import Collected, Collector
from batchrun.engine.follow import Follower
from batchrun.engine.ports import Ledger, RunClient
from batchrun.engine.progress import Progress
from batchrun.engine.reconcile import Reconciler, StillInDoubt
from batchrun.engine.slots import Slot
from batchrun.engine.start_gate import StartGate, Turn
from batchrun.errors import (
    ApiError,
    BatchRefused,
    ConnectFailed,
    NotFound,
    OutOfCredit,
    RateLimited,
    ResourcesBusy,
    ServerFailed,
    TransportError,
    Unauthorized,
)
from batchrun.kill_points import reach
from batchrun.ledger.rows import OpenJob
from batchrun.model import (
    Attempt,
    AttemptState,
    Job,
    JobId,
    Mark,
    Outcome,
    Problem,
    Record,
    Run,
    RunOptions,
    TaskId,
)
from batchrun.policy.retry import OUTCOME_OF_STATUS, RetryPolicy

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A job in the engine's hands: what it is, and what was tried so far."""

    job: Job
    open: OpenJob
    attempts: tuple[Attempt, ...] = ()

    @property
    def id(self) -> JobId:
        """The job's row in the ledger."""
        return self.open.id

    def with_attempt(self, attempt: Attempt) -> "Work":
        """Return this work with its latest attempt added, or replaced by what is known of it now."""
        before = tuple(each for each in self.attempts if each.attempt_no != attempt.attempt_no)
        return replace(self, attempts=(*before, attempt))


@dataclass(frozen=True, slots=True)
class Postponed:
    """The job is to be tried again after a wait."""

    work: Work
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """How an attempt ended; without an outcome it started nothing, and the job is simply tried again."""

    work: Work
    outcome: Outcome | None
    run: Run | None = None
    error: Problem | None = None


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
        task_id: TaskId,
        options: RunOptions,
        retry: RetryPolicy,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._gate = gate
        self._follower = follower
        self._reconciler = reconciler
        self._collector = collector
        self._progress = progress
        self._task_id = task_id
        self._options = options
        self._retry = retry

    async def run_job(self, work: Work, slot: Slot) -> Record | Postponed | None:
        """Carry a job one attempt further.

        Returns:
            The record of the settled job; or that it is to be tried again; or None when it is left open, because no
            more starts are wanted or because its start stays in doubt.

        Raises:
            BatchRefused: the platform refuses the whole batch; the job is left open.
            OutputError: the ledger cannot note it any more.
        """
        ended = await self.run_attempt(work, slot)
        if ended is None:
            return None
        wait_s = self._wait_before_next(ended)
        if wait_s is not None:
            self._note_end(ended)
            self._ledger.postpone(work.id, wait_s)
            reach("postponed")
            return Postponed(ended.work, wait_s)
        collected = await self._collect(ended)
        record = _record(ended, collected)
        reach("collected")
        self._note_end(ended)
        await self._ledger.settle(work.id, record, collected.item_lines)
        reach("settled")
        return record

    async def run_attempt(self, work: Work, slot: Slot) -> _Ended | None:
        """Start a Run, or take up the one of an earlier process, and follow it to its end; free the slot then."""
        last = work.attempts[-1] if work.attempts else None
        if last is None or last.state is AttemptState.ENDED:
            return await self._start(work, slot)
        turn = self._gate.adopt()
        try:
            if last.state is AttemptState.BOUND:
                return await self._follow(work, last, turn, slot)
            return await self._reconcile(work, last, turn, slot)
        finally:
            turn.over()

    async def _start(self, work: Work, slot: Slot) -> _Ended | None:
        """Take turns until one start is answered for good."""
        attempt_no = len(work.attempts) + 1
        while (turn := await self._gate.turn()) is not None:
            try:
                mark = Mark(secrets.token_hex(12))
                attempt = await self._ledger.intend(work.id, attempt_no, mark, self._client.platform_time)
                reach("intended")
                answer = await self._post(work, attempt, turn)
                match answer:
                    case Run():
                        return await self._follow(work, self._bind(work, attempt, answer), turn, slot)
                    case _InDoubt():
                        return await self._reconcile(work, attempt, turn, slot)
                    case Problem():
                        return _Ended(work=work, outcome=Outcome.REJECTED, error=answer)
            finally:
                turn.over()
        return None

    async def _post(self, work: Work, attempt: Attempt, turn: Turn) -> "Run | _InDoubt | Problem | None":
        """Send the start request, once.

        Returns:
            The Run; or that its answer was lost; or why the platform refuses this job; or None when nothing was
            started and the job may try again at its next turn.
        """
        options = work.job.options.over(self._options) if work.job.options else self._options
        try:
            run = await self._client.start_run(self._task_id, work.job.body, options, attempt.mark)
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
            return _refusal(error, work.job)
        reach("answered")
        turn.started()
        self._reconciler.note_start(run, attempt.mark)
        return run

    def _bind(self, work: Work, attempt: Attempt, run: Run) -> Attempt:
        """Note the Run's id; nobody waits for it, since until then the attempt is in doubt, which is safe."""
        self._ledger.bind(work.id, attempt.attempt_no, run)
        reach("bound")
        self._progress.started += 1
        return replace(attempt, state=AttemptState.BOUND, run_id=run.id, started_at=run.started_at)

    async def _reconcile(self, work: Work, attempt: Attempt, turn: Turn, slot: Slot) -> _Ended | None:
        """Find out what became of a start whose answer was lost; the slot is kept, for a Run may be live."""
        self._progress.in_doubt += 1
        try:
            run = await self._reconciler.resolve(attempt.mark, work.job.key, attempt.earliest_start)
        except StillInDoubt:
            return None
        finally:
            self._progress.in_doubt -= 1
        if run is not None:
            return await self._follow(work, self._bind(work, attempt, run), turn, slot)
        return _Ended(work=_with_end(work, attempt, None), outcome=None)

    async def _follow(self, work: Work, attempt: Attempt, turn: Turn, slot: Slot) -> _Ended:
        """Wait for the Run's end, then free turn and slot before anything else is done."""
        assert attempt.run_id is not None, "a bound attempt has a Run"
        run = await self._follower.wait_for_finish(attempt.run_id)
        turn.over()
        slot.release()
        reach("terminal")
        work = _with_end(work, attempt, run)
        if run is None:
            return _Ended(work=work, outcome=Outcome.LOST, error=_lost(attempt))
        return _Ended(work=work, outcome=OUTCOME_OF_STATUS[run.status], run=run, error=_run_problem(run))

    def _note_end(self, ended: _Ended) -> None:
        """Note how the attempt ended, in one commit with what follows from it and never before.

        An attempt that is noted as ended is not followed again: alone, the note would have the job started anew.
        """
        if ended.work.attempts and ended.outcome is not Outcome.REJECTED:
            self._ledger.end(ended.work.id, ended.work.attempts[-1].attempt_no, ended.run)

    def _wait_before_next(self, ended: _Ended) -> float | None:
        if ended.outcome is None:
            return 0.0  # it has waited out the horizon already
        runs = sum(1 for attempt in ended.work.attempts if attempt.run_id is not None)
        return self._retry.wait_before_next(ended.outcome, runs, random.random)

    async def _collect(self, ended: _Ended) -> Collected:
        if ended.run is None or ended.outcome is None:
            return Collected()
        work = ended.work
        return await self._collector.collect(work.job, work.id, work.attempts[-1], ended.run, ended.outcome)


def _with_end(work: Work, attempt: Attempt, run: Run | None) -> Work:
    ended = replace(attempt, state=AttemptState.ENDED)
    if run is not None:
        ended = replace(ended, status=run.status, finished_at=run.finished_at, cost_usd=run.cost_usd)
    return work.with_attempt(ended)


@dataclass(frozen=True, slots=True)
class _InDoubt:
    """The answer to a start was lost."""


def _give_way(turn: Turn, error: ApiError | ConnectFailed) -> None:
    if isinstance(error, ResourcesBusy):
        turn.account_is_full()
    else:
        turn.not_now(error.retry_after_s if isinstance(error, ApiError) else None)


def _refusal(error: ApiError, job: Job) -> Problem:
    """Tell a refusal of this job, returned, from one of the whole batch, raised."""
    is_own_build = error.type == "unknown-build-tag" and job.options is not None and job.options.build is not None
    # A redirect, a wrong method or a proxy that wants a password is no answer to this job's input.
    is_misdirected = error.status < 400 or error.status in (405, 407)
    concerns_batch = is_misdirected or isinstance(error, Unauthorized | OutOfCredit | NotFound)
    if concerns_batch and not is_own_build:
        raise BatchRefused(f"the platform refuses to start Runs: {error}") from error
    return Problem(type=error.type or f"http-{error.status}", message=error.message)


def _run_problem(run: Run) -> Problem | None:
    outcome = OUTCOME_OF_STATUS[run.status]
    if outcome is Outcome.SUCCEEDED:
        return None
    exit_code = run.fields.get("exitCode")
    said = run.fields.get("statusMessage") or "the Actor gave no status message"
    message = said if exit_code is None else f"{said} (exit code {exit_code})"
    return Problem(type=f"run-{outcome.replace('_', '-')}", message=message)


def _lost(attempt: Attempt) -> Problem:
    return Problem(type="run-lost", message=f"the platform does not know Run {attempt.run_id} any more")


def _record(ended: _Ended, collected: Collected) -> Record:
    work, run = ended.work, ended.run
    assert ended.outcome is not None, "a job is settled with an outcome"
    return Record(
        key=work.job.key,
        line=work.job.place.line,
        round=work.open.round,
        group=work.job.group,
        meta=work.job.meta,
        outcome=ended.outcome,
        attempts=work.attempts,
        run=run.fields if run is not None else None,
        output=collected.output,
        items=collected.items,
        error=ended.error,
        admitted_at=work.open.admitted_at,
        started_at=run.started_at if run is not None else None,
        finished_at=run.finished_at if run is not None else None,
        cost_usd=_total_cost(work.attempts),
    )


def _total_cost(attempts: Sequence[Attempt]) -> float | None:
    """Add up what is known; an unknown cost is never counted as 0."""
    costs = [attempt.cost_usd for attempt in attempts if attempt.run_id is not None]
    known = [cost for cost in costs if cost is not None]
    return math.fsum(known) if costs and len(known) == len(costs) else None
