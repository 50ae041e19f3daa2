"""From the end of a Run to the outcome and the record of its job."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from batchrun.engine.work import EndedAttempt
from batchrun.errors import BatchrunError
from batchrun.model import (
    RUN_UNREADABLE,
    Attempt,
    AttemptState,
    CostSource,
    Items,
    Outcome,
    Problem,
    Record,
    Run,
    RunStatus,
    is_writable,
)
from batchrun.policy.failure_cause import with_exit_code
from batchrun.policy.retry import OUTCOME_OF_STATUS, cause_of
from batchrun.policy.secret_fields import without
from batchrun.runtime.fast_dataclasses import replace

#: As the API names them.
_KNOWN_STATUSES = frozenset(RunStatus)
#: The API's fields of a Run that name storages.
_STORAGES = ("defaultDatasetId", "defaultKeyValueStoreId", "defaultRequestQueueId", "storageIds")
#: Error type of jobs that take too long, with or without a live Run to abort.
MAX_JOB_S = "max-job-s"


def outcome_of(run: Run, aborted_for: Problem | None) -> tuple[Outcome, Problem | None]:
    """Return the outcome of a terminal Run; if we have aborted it, it took too long.

    A Run that ended with a status of which nothing is known is lost: it was paid for, and may have succeeded.
    """
    if (named := str(run.fields.get("status"))) not in _KNOWN_STATUSES:
        said = f"the Run ended with the status {named!r}, which batchrun does not know; whether it succeeded is unknown"
        return Outcome.LOST, Problem(type="run-status-unknown", message=f"{said}: {_said(run)}")
    outcome = OUTCOME_OF_STATUS[run.status]
    if outcome is Outcome.ABORTED and aborted_for is not None:
        return Outcome.TIMED_OUT, aborted_for
    return outcome, _run_problem(run)


def _run_problem(run: Run) -> Problem | None:
    outcome = OUTCOME_OF_STATUS[run.status]
    if outcome is Outcome.SUCCEEDED:
        return None
    exit_code = _exit_code(run)
    return Problem(
        type=f"run-{outcome.replace('_', '-')}",
        message=with_exit_code(_said(run), exit_code),
        # No system has exit codes of more than 32 bits. Other values are in the message only.
        exit_code=exit_code if exit_code is not None and abs(exit_code) < 1 << 32 else None,
    )


def _said(run: Run) -> str:
    return _status_message(run) or "the Actor gave no status message"


def _exit_code(run: Run) -> int | None:
    code = run.fields.get("exitCode")
    return code if isinstance(code, int) else None


def _status_message(run: Run) -> str:
    said = run.fields.get("statusMessage")
    return said if isinstance(said, str) else ""


def with_end(attempt: Attempt, run: Run, outcome: Outcome, aborted_for: Problem | None, ended_at: datetime) -> Attempt:
    """Return an attempt with the end of its Run."""
    return replace(
        attempt,
        state=AttemptState.ENDED,
        aborted_for=aborted_for,
        status=run.status,
        cause=cause_of(outcome, _exit_code(run), _status_message(run)),
        memory_mb=run.memory_mb,
        timeout_s=run.timeout_s,
        finished_at=ended_at,
        cost_usd=run.cost_usd,
        cost_source=run.cost_source,
    )


def with_storages(ended: EndedAttempt) -> EndedAttempt:
    """Return an attempt with the storages that its Run names, for a job that gets another attempt."""
    if ended.run is None or ended.attempt is None:
        return ended
    named = {name: ended.run.fields.get(name) for name in _STORAGES}
    storages = {name: value for name, value in named.items() if value and is_writable(value)}
    return replace(ended, work=ended.work.with_attempt(replace(ended.attempt, storages=storages)))


def took_too_long(max_job_s: float | None) -> Problem:
    """Return the problem of a job whose own time was over before its next start."""
    return Problem(type=MAX_JOB_S, message=f"deadlines.max_job_s ({max_job_s:g} s) was over before its next attempt")


def run_lost(attempt: Attempt, *, is_foreign: bool) -> Problem:
    """Return the problem of a job whose Run the platform does not know any more, or knows as one of another task."""
    if is_foreign:
        message = (
            f"Run {attempt.run_id} is not of the batch's task, and is left alone. Somebody may have changed the ledger"
            " or its shared log, which names it"
        )
    else:
        message = f"the platform does not know Run {attempt.run_id} any more"
    return Problem(type="run-lost", message=message)


def run_unreadable(attempt: Attempt, error: BatchrunError) -> Problem:
    """Return the problem of a job whose Run is neither described nor listed by the platform, and may be live."""
    return Problem(
        type=RUN_UNREADABLE,
        message=f"Run {attempt.run_id} could not be followed and may still run: {error}. `batchrun abort` aborts it,"
        " `batchrun retry` looks for it again",
    )


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


def has_messages(record: Record) -> bool:
    """True if a record quotes what an Actor or the platform says, or if its Run's log may be kept."""
    return record.outcome is not Outcome.SUCCEEDED or bool(record.run and record.run.get("statusMessage"))


def without_secrets(record: Record, texts: Collection[str]) -> Record:
    """Return a record whose messages do not quote these secrets of its job's input."""
    if not texts:
        return record
    error, run = record.error, record.run
    if error is not None:
        error = replace(error, message=without(error.message, texts))
    if run is not None and isinstance(said := run.get("statusMessage"), str):
        run = {**run, "statusMessage": without(said, texts)}
    return replace(record, error=error, run=run)
