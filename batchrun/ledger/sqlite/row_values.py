"""Rows of the ledger's tables as values: attempts and settled jobs."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from batchrun.ledger.protocol import SettledJob, Settlement
from batchrun.model import (
    Attempt,
    AttemptState,
    Cause,
    CostSource,
    JobId,
    JobKey,
    Mark,
    Outcome,
    Position,
    Problem,
    RunId,
    RunStatus,
    read_json,
)

#: The columns of an attempt, as `attempt_of` takes them.
ATTEMPT_COLUMNS = (
    "attempt_no, mark, state, run_id, status, intended_at, started_at, finished_at, cost_usd, items_offset,"
    " items_count, platform_time, round, cause, memory_mb, timeout_s, reserved_usd, cost_source, cost_is_final,"
    " abort_type, abort_message, not_before, storages"
)
#: Those of a settled job; `it` is the row of the round, of `job` or `past_round`.
SETTLED_COLUMNS = (
    'job.id, job.key, job.line, job.variant, job."offset", job.length, job.digest, job."group", it.round,'
    " it.admitted_at, it.outcome, it.error_type, it.error_message, it.items_count, it.exit_code"
)
#: The types of those columns.
_SETTLED_TYPES = (int, str, int, int, int, int, bytes, str, int, float, str, str, str, int, int)


def attempt_of(row: Sequence[Any]) -> Attempt:
    """Return an attempt."""
    return Attempt(
        attempt_no=row[0],
        mark=Mark(row[1]),
        state=AttemptState(row[2]),
        run_id=RunId(row[3]) if row[3] is not None else None,
        status=RunStatus(row[4]) if row[4] is not None else None,
        intended_at=time_of(row[5]),
        started_at=time_of(row[6]) if row[6] is not None else None,
        finished_at=time_of(row[7]) if row[7] is not None else None,
        cost_usd=row[8],
        items_offset=row[9],
        items_count=row[10],
        platform_time=time_of(row[11]) if row[11] is not None else None,
        round=row[12],
        cause=Cause(row[13]) if row[13] is not None else None,
        memory_mb=row[14],
        timeout_s=row[15],
        reserved_usd=row[16],
        cost_source=cost_source_of(row[17]),
        cost_is_final=bool(row[18]),
        aborted_for=Problem(type=row[19], message=row[20]) if row[19] is not None else None,
        not_before=time_of(row[21]) if row[21] is not None else None,
        storages=read_json(row[22]) if row[22] is not None else None,
    )


def settled_job_of(row: Sequence[Any]) -> SettledJob:
    """Return a settled job, or a bad line."""
    return SettledJob(
        id=JobId(row[0]),
        key=JobKey(row[1]) if row[1] is not None else None,
        position=Position(line=row[2], variant=row[3], offset=row[4], length=row[5]),
        digest=row[6],
        group=row[7],
        round=row[8],
        admitted_at=time_of(row[9]),
        settlement=Settlement(
            outcome=Outcome(row[10]),
            error_type=row[11],
            error_message=row[12],
            items_count=row[13],
            exit_code=row[14],
        ),
    )


def check_settled(row: Sequence[Any]) -> None:
    """Check the types of a row that is shown to a person: SQLite takes any value in any column.

    Raises:
        TypeError: another program has written the row.
    """
    if any(value is not None and type(value) is not own for value, own in zip(row, _SETTLED_TYPES, strict=True)):
        raise TypeError("a job holds a value of another type")


def cost_source_of(noted: str | None) -> CostSource:
    """Return where a cost is from."""
    return CostSource.UNKNOWN if noted is None else CostSource(noted)


def time_of(seconds: float) -> datetime:
    """Return a time of the tables, which have seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC)
