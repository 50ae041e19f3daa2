"""What an answer of the platform means for a job: its start is refused, its Run has ended, or its Run is lost."""

from datetime import datetime
from typing import Any

from batchrun.engine.work import EndedAttempt, Work
from batchrun.errors import (
    ApiError,
    BatchRefused,
    ForeignAnswer,
    NotFound,
    OutOfCredit,
    ServerFailed,
    TransportError,
    Unauthorized,
)
from batchrun.model import Attempt, AttemptState, CostSource, Items, Job, Outcome, Problem, Record, Run, RunStatus
from batchrun.policy.failure_kind import with_exit_code
from batchrun.policy.retry import OUTCOME_OF_STATUS, Backoff, cause_of
from batchrun.runtime.fast_dataclasses import replace

#: Start requests of one job in a row that may have no effect, before the job ends: with the last one answered by a
#: firewall or the like, while other jobs' starts have an effect;
MAX_FOREIGN_STARTS = 3
#: with the last one not answered, while other jobs' starts have an effect;
MAX_LOST_STARTS = 6
#: and if no other job's start has had an effect meanwhile: starts as such may be out of order.
MAX_LONE_STARTS = 10
#: Waits before the next start request of a job whose last one had no effect.
NO_EFFECT_BACKOFF = Backoff(first_s=0.5, max_s=10.0)

#: Refusals that depend on nothing in a job: every other job's start would be refused like it.
_BATCH_TYPES = frozenset(
    {
        "actor-can-not-be-rented",
        "actor-disabled",
        "actor-is-not-rented",
        "actor-not-found",
        "actor-not-public",
        "apify-plan-required-to-use-paid-actor",
        "elevated-permissions-needed",
        "full-permission-actor-blocked-for-admin",
        "full-permission-actor-not-approved",
        "invalid-input-schema",
        "method-not-allowed",
        "missing-actor-rights",
        "public-actor-disabled",
        "unexpected-route",
        "unsupported-permission",
        "user-disabled",
        "user-is-removed",
    }
)
#: Refusals of a build: of the whole batch, unless a job's own `@options` name the build.
_BUILD_TYPES = frozenset(
    {"build-not-found", "build-outdated", "invalid-build", "tagged-build-required", "unknown-build-tag"}
)
#: Refusals of a charge limit: of the whole batch, unless a job's own `@options` set it.
_CHARGE_TYPES = frozenset({"max-total-charge-usd-below-minimum", "max-total-charge-usd-must-be-greater-than-zero"})

#: As the API names them.
_KNOWN_STATUSES = frozenset(RunStatus)

#: Error type of jobs that take too long, with or without a live Run to abort.
MAX_JOB_S = "max-job-s"
#: The error type of jobs whose start requests have no effect.
START_BLOCKED = "start-blocked"


def refusal(error: ApiError, job: Job) -> Problem:
    """Return why the platform refuses this job.

    Raises:
        BatchRefused: the refusal concerns the whole batch.
    """
    own = job.options
    if error.type in _BUILD_TYPES:
        concerns_batch = own is None or own.build is None
    elif error.type in _CHARGE_TYPES:
        concerns_batch = own is None or own.max_total_charge_usd is None
    else:
        concerns_batch = isinstance(error, Unauthorized | OutOfCredit | NotFound) or error.type in _BATCH_TYPES
    if concerns_batch:
        raise BatchRefused(f"the platform refuses to start Runs: {error}") from error
    return Problem(type=error.type, message=error.message)


def starts_without_effect(work: Work) -> int:
    """Count the start requests of a job that had no effect, since its last Run in this round."""
    count = 0
    for attempt in reversed(work.this_round):
        if attempt.run_id is not None:
            break
        count += 1
    return count


def start_blocked(
    work: Work, error: TransportError | ServerFailed | None, *, have_others_started: bool
) -> Problem | None:
    """Return the problem that ends a job whose starts have no effect; None while it is to be tried again.

    Args:
        work: the job, its last start among its attempts.
        error: why that start has no answer; None if an earlier process sent it.
        have_others_started: whether other jobs' starts had an effect since this job's first one had none.
    """
    count = starts_without_effect(work)
    allowed = MAX_FOREIGN_STARTS if isinstance(error, ForeignAnswer) else MAX_LOST_STARTS
    if count < (allowed if have_others_started else MAX_LONE_STARTS):
        return None
    last = f"; the last one: {error}" if error is not None else ""
    return Problem(
        type=START_BLOCKED,
        message=f"line {work.job.position.line}: {count} start requests in a row had no effect{last}."
        " Something between this machine and the API may refuse this job's input",
    )


def outcome_of(run: Run, aborted_for: Problem | None) -> tuple[Outcome, Problem | None]:
    """Return the outcome of a terminal Run; if we have aborted it, it took too long."""
    outcome = OUTCOME_OF_STATUS[run.status]
    if outcome is Outcome.ABORTED and aborted_for is not None:
        return Outcome.TIMED_OUT, aborted_for
    return outcome, _run_problem(run)


def _run_problem(run: Run) -> Problem | None:
    outcome = OUTCOME_OF_STATUS[run.status]
    if outcome is Outcome.SUCCEEDED:
        return None
    exit_code = _exit_code(run)
    said = _status_message(run) or "the Actor gave no status message"
    if (named := str(run.fields.get("status"))) not in _KNOWN_STATUSES:
        said = f"the Run ended with the status {named!r}, which batchrun does not know: {said}"
    return Problem(
        type=f"run-{outcome.replace('_', '-')}",
        message=with_exit_code(said, exit_code),
        # No system has exit codes of more than 32 bits. Other values are in the message only.
        exit_code=exit_code if exit_code is not None and abs(exit_code) < 1 << 32 else None,
    )


def _exit_code(run: Run) -> int | None:
    code = run.fields.get("exitCode")
    return code if isinstance(code, int) else None


def _status_message(run: Run) -> str:
    said = run.fields.get("statusMessage")
    return said if isinstance(said, str) else ""


def with_end(attempt: Attempt, run: Run, outcome: Outcome, aborted_for: Problem | None, now: datetime) -> Attempt:
    """Return an attempt with the end of its Run."""
    return replace(
        attempt,
        state=AttemptState.ENDED,
        aborted_for=aborted_for,
        status=run.status,
        cause=cause_of(outcome, _exit_code(run), _status_message(run)),
        memory_mb=run.memory_mb,
        timeout_s=run.timeout_s,
        # A terminal Run without an end time has ended by now.
        finished_at=run.finished_at or now,
        cost_usd=run.cost_usd,
        cost_source=run.cost_source,
    )


def took_too_long(max_job_s: float | None) -> Problem:
    """Return the problem of a job whose own time was over before its next start."""
    return Problem(type=MAX_JOB_S, message=f"deadlines.max_job_s ({max_job_s:g} s) was over before its next attempt")


def run_lost(attempt: Attempt) -> Problem:
    """Return the problem of a job whose Run the platform does not know any more."""
    return Problem(type="run-lost", message=f"the platform does not know Run {attempt.run_id} any more")


def priced_by_items(ended: EndedAttempt, items: Items | None, per_item_usd: float | None) -> EndedAttempt:
    """Return an attempt whose Run's cost is derived from its items, if the platform does not report the cost."""
    if per_item_usd is None or items is None or not ended.work.attempts:
        return ended
    last = ended.work.attempts[-1]
    if last.cost_usd is not None or last.run_id is None:
        return ended
    priced = replace(last, cost_usd=per_item_usd * items.count, cost_source=CostSource.DERIVED)
    return replace(ended, work=ended.work.with_attempt(priced))


def with_output_problem(ended: EndedAttempt, problem: Problem | None) -> EndedAttempt:
    """Return an attempt whose Run succeeded as lost, if not all of its items could be read: nothing absent is empty."""
    if problem is None or ended.outcome is not Outcome.SUCCEEDED:
        return ended
    return replace(ended, outcome=Outcome.LOST, error=problem)


def record_of(ended: EndedAttempt, output: Any, output_error: str | None, items: Items | None) -> Record:
    """Return the record of a job that ends with this attempt."""
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
        output=output,
        output_error=output_error,
        items=items,
        error=ended.error,
        admitted_at=work.open.admitted_at,
        started_at=run.started_at if run is not None else None,
        finished_at=run.finished_at if run is not None else None,
    )
