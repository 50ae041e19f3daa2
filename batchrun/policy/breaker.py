"""The breaker: stops new starts when too many of the last jobs failed.

It watches the last settled jobs of the whole batch, and those of each group. It trips once; live Runs are followed to
their end, and a resumed batch begins with an empty window.
"""

from collections import deque

from batchrun.model import JobKey, Outcome, Record
from batchrun.runtime.fast_dataclasses import dataclass

#: Groups that are watched at a time; another one replaces the one whose last job is the oldest.
MAX_GROUPS = 1000
#: Successes with the same items after which a person is asked to look.
SAME_RUNS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerLimits:
    """What trips a breaker; None: never."""

    #: Jobs among the last `window` ones that trip it by not succeeding: a number, or a fraction of a full window.
    max_failed: float | None = None
    #: True if `max_failed` is a fraction.
    is_fraction: bool = True
    window: int = 1
    #: Successes in a row without any item that trip it, after a success with items.
    empty_in_a_row: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """The event that a breaker has tripped."""

    #: What happened, in words.
    reason: str
    #: The group that starts nothing more; None: the whole batch.
    group: str | None
    #: The jobs of the window.
    keys: tuple[JobKey, ...]
    #: True if successes without items tripped it, not failures.
    is_for_empty: bool = False


class _Window:
    """The last jobs of a batch, or of one group."""

    __slots__ = ("_failed", "_has_had_items", "_is_tripped", "_jobs", "_limits", "empty_keys")

    def __init__(self, limits: BreakerLimits) -> None:
        self._limits = limits
        self._jobs: deque[tuple[JobKey, bool]] = deque()
        self._failed = 0
        self._has_had_items = False
        self._is_tripped = False
        self.empty_keys: list[JobKey] = []

    def note(self, record: Record, key: JobKey) -> str | None:
        """Note a settled job; return why the window trips, the first time it does."""
        is_failure = record.outcome is not Outcome.SUCCEEDED
        self._jobs.append((key, is_failure))
        self._failed += is_failure
        if len(self._jobs) > self._limits.window:
            self._failed -= self._jobs.popleft()[1]
        self._note_items(record, key)
        reason = None if self._is_tripped else self._too_many_failed() or self.too_many_empty()
        self._is_tripped = self._is_tripped or reason is not None
        return reason

    @property
    def keys(self) -> tuple[JobKey, ...]:
        """The keys of its jobs."""
        return tuple(key for key, _ in self._jobs)

    def _note_items(self, record: Record, key: JobKey) -> None:
        if record.outcome is not Outcome.SUCCEEDED or record.items is None:
            return
        if record.items.count:
            self._has_had_items = True
            self.empty_keys = []
        elif self._has_had_items and self._limits.empty_in_a_row is not None:
            self.empty_keys = [*self.empty_keys, key][-self._limits.empty_in_a_row :]

    def _too_many_failed(self) -> str | None:
        limits = self._limits
        if limits.max_failed is None or not self._failed:
            return None
        if limits.is_fraction and (len(self._jobs) < limits.window or self._failed < limits.max_failed * limits.window):
            return None
        if not limits.is_fraction and self._failed < limits.max_failed:
            return None
        return f"{self._failed} of the last {len(self._jobs)} jobs did not succeed"

    def too_many_empty(self) -> str | None:
        """Return why there are too many successes without items, or None."""
        if self._limits.empty_in_a_row is None or len(self.empty_keys) < self._limits.empty_in_a_row:
            return None
        return f"{len(self.empty_keys)} successes in a row brought no item, after others had some"


class SameItems:
    """Watches whether the first successes of a batch all brought the same items, as inputs that set nothing do."""

    def __init__(self) -> None:
        self._first: tuple[int, int] | None = None
        self._same = 0

    def note(self, record: Record) -> bool:
        """Note a settled job; return True once, at the `SAME_RUNS`th success if there were no other items."""
        items = record.items
        if self._same < 0 or record.outcome is not Outcome.SUCCEEDED or items is None or not items.content:
            return False
        found = (items.count, items.content)
        self._first = self._first or found
        self._same = self._same + 1 if items.count and found == self._first else -1
        if self._same < SAME_RUNS:
            return False
        self._same = -1
        return True


class Breaker:
    """Watches the settled jobs of a batch."""

    def __init__(self, limits: BreakerLimits) -> None:
        self._limits = limits
        self._batch = _Window(limits)
        self._groups: dict[str, _Window] = {}

    def trip_for(self, reason: str) -> Trip:
        """Return the trip of the whole batch, with the last jobs, for a reason that others have found."""
        return self._trip(self._batch, reason, None)

    def note(self, record: Record) -> Trip | None:
        """Note a settled job; return the trip that it causes, if any. A bad line is no job and does not count."""
        if record.key is None:
            return None
        reason = self._batch.note(record, record.key)
        if reason is not None:
            return self._trip(self._batch, reason, None)
        if record.group is None:
            return None
        group = self._groups.pop(record.group, None) or _Window(self._limits)
        self._groups[record.group] = group  # the group seen last is the last key
        if len(self._groups) > MAX_GROUPS:
            del self._groups[next(iter(self._groups))]
        reason = group.note(record, record.key)
        return None if reason is None else self._trip(group, reason, record.group)

    def _trip(self, window: _Window, reason: str, group: str | None) -> Trip:
        # Successes without items may reach further back than the window.
        keys = tuple(dict.fromkeys((*window.empty_keys, *window.keys)))
        return Trip(reason=reason, group=group, keys=keys, is_for_empty=reason == window.too_many_empty())
