"""How well the slots are used: the share of their time that is Runs, and how soon a free one is filled again."""

import math
from collections import deque
from collections.abc import Callable

import anyio

from batchrun.engine.instruments import Instruments

#: Bounds of the latencies that are told apart, in seconds, and the step from one to the next.
_SHORTEST_S = 1e-4
_STEP = 1.05
_BUCKETS = 400  # up to almost eight hours


class SlotUse:
    """The integral of live Runs over the integral of what might be live, while there was work waiting."""

    def __init__(self) -> None:
        self._used_s = 0.0
        self._offered_s = 0.0
        self._now = 0.0
        self._state = (0.0, 0.0)

    def note(self, now: float, *, live: int, limit: float, is_wanted: bool) -> None:
        """Note how things stand from now on.

        Args:
            now: monotonic time in seconds.
            live: Runs that are live or being started.
            limit: how many might be.
            is_wanted: whether there is a job to start one for; time without one does not count.
        """
        elapsed_s, (used, offered) = now - self._now, self._state
        self._used_s += elapsed_s * used
        self._offered_s += elapsed_s * offered
        self._now = now
        self._state = (min(live, limit), limit) if is_wanted else (0.0, 0.0)

    @property
    def share(self) -> float | None:
        """The share, from 0 to 1; None before any time has passed with work waiting."""
        return self._used_s / self._offered_s if self._offered_s > 0 else None


class Latencies:
    """Lengths of time in buckets of 5 %, however many are noted."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._total = 0

    def note(self, length_s: float) -> None:
        """Count one more."""
        steps = 0 if length_s <= _SHORTEST_S else math.ceil(math.log(length_s / _SHORTEST_S, _STEP))
        self._counts[min(steps, _BUCKETS - 1)] += 1
        self._total += 1

    def quantile(self, share: float) -> float | None:
        """Return a length in seconds that at most 1 - `share` of all are above; None when there are none."""
        left = math.ceil(share * self._total)
        for steps, count in enumerate(self._counts):
            left -= count
            if left <= 0 < self._total:
                return float(_SHORTEST_S * _STEP**steps)
        return None


class SlotMeter:
    """Measures how slots are used and refilled; the gate tells it what happens.

    Args:
        limit: returns how many slots there are.
        has_work: returns whether a job is ready that waits for a slot.
        instruments: what the batches of a process measure together.
    """

    def __init__(self, limit: Callable[[], int], has_work: Callable[[], bool], instruments: Instruments) -> None:
        self._limit = limit
        self._has_work = has_work
        self._instruments = instruments
        self.use = SlotUse()
        #: From the end of a Run to the next start request sent.
        self.refill = Latencies()
        #: When the slots became free that are to be filled again, oldest first.
        self._freed_at: deque[float] = deque()

    def changed(self, now: float, *, live: int, known_limit: float, starters: int) -> None:
        """Note how many Runs are live, how many the account is known to take, and how many starts wait at the gate."""
        limit = min(self._limit(), known_limit)
        self.use.note(now, live=live, limit=limit, is_wanted=starters > 0 or self._has_work())

    def ended(self, now: float, *, live: int, known_limit: float, starters: int) -> None:
        """Note the end of a Run; `live` are left. The slot is to be filled again if it may be and there is a job."""
        if live < min(self._limit(), known_limit) and (starters > 0 or self._has_work()):
            self._freed_at.append(now)

    def refilling(self, *, live: int) -> float | None:
        """Return when the slot became free that a start fills; `live` counts the start. None for a new one."""
        freed_at = self._freed_at.popleft() if self._freed_at else None
        while len(self._freed_at) > max(0, self._limit() - live):
            self._freed_at.popleft()  # no place is free for it: its job turned out to be none
        return freed_at

    def sent(self, freed_at: float) -> None:
        """Note that the start request of a slot that became free then is sent."""
        length_s = anyio.current_time() - freed_at
        self.refill.note(length_s)
        self._instruments.refills.note(length_s)

    def held_back(self, length_s: float) -> None:
        """Note that a rate has held back the next start for so long."""
        self._instruments.token_wait_s += length_s
