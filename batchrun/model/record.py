"""The JSON line that reports a settled job."""

import json
import math
from collections.abc import Collection
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import orjson

from batchrun.model.attempt import Attempt, Problem
from batchrun.model.job import JobKey
from batchrun.model.run import WEAKEST_COST_SOURCE_FIRST, CostSource, DatasetId, JsonObject
from batchrun.runtime.fast_dataclasses import dataclass, replace

_TOO_DEEP = "it is nested too deep"


class Outcome(StrEnum):
    """Our verdict on a job, decided once per round."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    ABORTED = "aborted"
    #: Succeeded, but with fewer items than expected.
    EMPTY = "empty"
    #: Succeeded, but with items that break the expected schema.
    MALFORMED = "malformed"
    #: The line of the job file could not be read as a job; nothing was started.
    INVALID = "invalid"
    #: The platform refused to start the job; nothing was started.
    REJECTED = "rejected"
    #: The platform does not have a Run whose id we hold, or cannot send the items of one that succeeded.
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """The items collected from a Run's dataset."""

    #: Number of items that were collected.
    count: int
    dataset_id: DatasetId | None
    #: The items, if they belong into the record (`output.items = "inline"`).
    values: list[Any] | None = None
    #: False if the platform could not send all of them.
    is_complete: bool = True
    #: True if the dataset holds more items than go into a record (`output.max_inline_items`).
    is_cut: bool = False
    #: Values in them that were replaced, as far as this process read them: lone surrogates by U+FFFD, NaN by null.
    replaced: int = 0
    #: A hash of the first page as it came, for this process; 0: none was taken. It is not written.
    content: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The line that reports a settled job. Its keys are a public format and only ever added to."""

    #: None for a bad line.
    key: JobKey | None
    line: int
    round: int = 1
    group: str | None = None
    meta: Any = None
    outcome: Outcome
    attempts: tuple[Attempt, ...] = ()
    #: The last Run, in the API's own fields.
    run: JsonObject | None = None
    #: The OUTPUT value, if it was asked for.
    output: Any = None
    #: Why the OUTPUT value could not be read, if it was asked for.
    output_error: str | None = None
    items: Items | None = None
    error: Problem | None = None
    admitted_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def cost_usd(self) -> float | None:
        """Sum of the attempts' costs as known now; None if one of them is unknown, for that is not 0."""
        return _cost_of(self.attempts)[0]

    @property
    def _queued_s(self) -> float | None:
        """Seconds from the job's admission to the start of its last Run, both by this machine's clock."""
        for attempt in reversed(self.attempts):
            if attempt.run_id is not None:
                return _seconds_between(self.admitted_at, attempt.intended_at)
        return None

    def as_line(self) -> bytes:
        """Return the record as one line of JSON, line end included."""
        try:
            return json_line(self._as_json())
        except ValueError:
            return self._without_deep_values().as_line()

    def _without_deep_values(self) -> "Record":
        """Return the record without foreign values that are nested too deep; all its other values are writable."""
        run = None if self.run is None else {name: part for name, part in self.run.items() if is_writable(part)}
        shallow = replace(self, run=run, meta=self.meta if is_writable(self.meta) else None)
        if is_writable(self.output):
            return shallow
        return replace(shallow, output=None, output_error=f"the OUTPUT value cannot be written: {_TOO_DEEP}")

    def _as_json(self) -> JsonObject:
        cost_usd, cost_source, cost_is_final = _cost_of(self.attempts)
        return {
            "v": 1,
            "key": self.key,
            "line": self.line,
            "round": self.round,
            "group": self.group,
            "meta": self.meta,
            "outcome": self.outcome,
            "attempts": [_attempt_json(attempt) for attempt in self.attempts],
            "run": self.run,
            "output": self.output,
            "output_error": self.output_error,
            "items": _items_json(self.items),
            "error": {"type": self.error.type, "message": self.error.message} if self.error else None,
            "times": {
                "admitted_at": self.admitted_at,
                "started_at": self.started_at,
                "finished_at": self.finished_at,
                "queued_s": self._queued_s,
                "run_s": _seconds_between(self.started_at, self.finished_at),
            },
            "cost_usd": cost_usd,
            "cost_source": cost_source,
            "cost_is_final": cost_is_final,
        }


def _cost_of(attempts: Collection[Attempt]) -> tuple[float | None, CostSource, bool]:
    """Return the cost of attempts, its weakest source, and whether the platform cannot change it any more."""
    paid = [attempt for attempt in attempts if attempt.run_id is not None]
    if not paid:
        return None, CostSource.UNKNOWN, True
    if len(paid) == 1:  # as in almost all records; the sum of one takes ten times as long
        return paid[0].cost_usd, paid[0].cost_source, paid[0].cost_is_final
    known = [attempt.cost_usd for attempt in paid if attempt.cost_usd is not None]
    return (
        math.fsum(known) if len(known) == len(paid) else None,
        min([attempt.cost_source for attempt in paid], key=WEAKEST_COST_SOURCE_FIRST.index),
        all(attempt.cost_is_final for attempt in paid),
    )


def json_line(value: object) -> bytes:
    """Return a JSON object on one line, line end included; times in UTC as ISO with Z.

    A dataclass becomes an object with its fields, if JSON has their values: no deep values, no long numbers.

    Raises:
        ValueError: the value is nested deeper than some 900 levels.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        pass
    try:
        # orjson writes at most 254 levels, 64-bit numbers and no lone surrogates; the last no consumer reads either.
        return (json.dumps(value, default=_iso, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error


def is_writable(value: Any) -> bool:
    """Return whether a record or an item line can hold a JSON value: False if it is nested too deep."""
    try:
        json_line({"": [[[value]]]})  # no deeper than a record nests a value
    except ValueError:
        return False
    return True


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _attempt_json(attempt: Attempt) -> JsonObject:
    return {
        "attempt_no": attempt.attempt_no,
        "run_id": attempt.run_id,
        "status": attempt.status,
        "intended_at": attempt.intended_at,
        "started_at": attempt.started_at,
        "finished_at": attempt.finished_at,
        "cause": attempt.cause,
        "memory_mb": attempt.memory_mb,
        "timeout_s": attempt.timeout_s,
        "cost_usd": attempt.cost_usd,
        "cost_source": attempt.cost_source,
        **({"storages": attempt.storages} if attempt.storages else {}),
    }


def _items_json(items: Items | None) -> JsonObject | None:
    if items is None:
        return None
    values = {} if items.values is None else {"values": items.values}
    rare = ({"cut": True} if items.is_cut else {}) | ({"replaced": items.replaced} if items.replaced else {})
    return {"count": items.count, "dataset_id": items.dataset_id, "complete": items.is_complete, **rare, **values}


def _seconds_between(earlier: datetime | None, later: datetime | None) -> float | None:
    """Return the seconds from one time to another, to the millisecond; 0 if two clocks disagree about the order."""
    if earlier is None or later is None:
        return None
    return max(0, round(1000 * (later - earlier).total_seconds())) / 1000  # `round(…, 3)` takes three times as long
