"""The breaker of a batch in shards: whether too many of the last jobs of all its parts did not succeed."""

from collections import deque
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from batchrun.policy.breaker import BreakerLimits
from batchrun.worker.fleet.fleet_limits import Amount


class ShardTrip(BaseModel):
    """The breaker of a batch in shards has tripped."""

    model_config = ConfigDict(frozen=True)

    reason: Annotated[str, Field(max_length=500)]
    #: Number of the last order that had resumed the batch; 0: none. A part that a later one has resumed goes on.
    after: Amount = 0


class ShardWindow:
    """The last jobs of a batch in shards, as a worker has seen their sums: settled ones, and those without success."""

    def __init__(self) -> None:
        self._of_parts: dict[str, tuple[int, int]] = {}
        self._sums: deque[tuple[int, int]] = deque()
        self._after = -1

    def note(self, sums: Mapping[str, tuple[int, int]], after: int, before: Mapping[str, tuple[int, int]]) -> None:
        """Note the sums of each part, since the batch was begun.

        Args:
            sums: by part; they never shrink, but those of a part that has just changed its owner may be old ones.
            after: number of the order that has resumed the batch; after another one, the window is empty.
            before: the sums when it was resumed.
        """
        if after != self._after:
            self._of_parts, self._after = dict(before), after
            self._sums = deque([self._total])
        for part, (settled, failed) in sums.items():
            known = self._of_parts.get(part, (0, 0))
            self._of_parts[part] = max(known[0], settled), max(known[1], failed)
        if self._sums[-1] != self._total:
            self._sums.append(self._total)

    @property
    def _total(self) -> tuple[int, int]:
        settled, failed = [each[0] for each in self._of_parts.values()], [each[1] for each in self._of_parts.values()]
        return sum(settled), sum(failed)

    def reason_to_trip(self, limits: BreakerLimits) -> str:
        """Return why too many of the last jobs did not succeed; empty: they are not too many.

        They are at least the `window` last ones, where that many were seen: all that came with one change of the page.
        """
        if limits.max_failed is None:
            self._sums = deque(list(self._sums)[-1:])
        if limits.max_failed is None or len(self._sums) < 2:
            return ""
        settled_now, failed_now = self._sums[-1]
        while settled_now - self._sums[1][0] >= limits.window:
            self._sums.popleft()  # the later ones are enough
        settled, failed = settled_now - self._sums[0][0], failed_now - self._sums[0][1]
        if not failed or (limits.is_fraction and settled < limits.window):
            return ""
        most = (
            limits.max_failed * settled if limits.is_fraction else limits.max_failed * max(1, settled / limits.window)
        )
        return f"{failed:,} of the last {settled:,} jobs of all shards did not succeed" if failed >= most else ""
