"""How well the slots are used: the share of their time that Runs fill, and how soon a free slot is filled again."""

from collections import deque
from collections.abc import Callable

from batchrun.engine.account_counters import AccountCounters
from batchrun.runtime.histogram import FINE_SECONDS, Histogram


class SlotUse:
    """Live Runs over allowed Runs, both integrated over the time in which a job waits for a start."""

    def __init__(self) -> None:
        self._used_s = 0.0
        self._offered_s = 0.0
        self._now = 0.0
        self._state = (0.0, 0.0)

    def note(self, now: float, *, live: int, limit: float, is_wanted: bool) -> None:
        """Note what holds from now on.

        Args:
            now: monotonic time in seconds.
            live: Runs that are live or being started.
            limit: max Runs that may be live.
            is_wanted: whether a job waits for a start; time without one does not count.
        """
        elapsed_s, (used, offered) = now - self._now, self._state
        self._used_s += elapsed_s * used
        self._offered_s += elapsed_s * offered
        self._now = now
        self._state = (min(live, limit), limit) if is_wanted else (0.0, 0.0)

    @property
    def fraction(self) -> float | None:
        """The used fraction, from 0 to 1; None before any time has passed with a job waiting."""
        return self._used_s / self._offered_s if self._offered_s > 0 else None


class SlotMeter:
    """Measures how a batch's slots are used and refilled; the start gate reports what happens.

    Args:
        limit: returns the number of slots.
        has_work: returns whether a job is ready that waits for a slot.
        counters: measures of all batches in this process together.
    """

    def __init__(self, limit: Callable[[], int], has_work: Callable[[], bool], counters: AccountCounters) -> None:
        self._limit = limit
        self._has_work = has_work
        self._counters = counters
        self.use = SlotUse()
        #: Seconds from the end of a Run to the start request that fills its slot.
        self.refill = Histogram(FINE_SECONDS)
        #: When the slots came free that are to be filled again (monotonic), oldest first.
        self._freed_at: deque[float] = deque()

    def changed(
        self, now: float, *, live: int, in_doubt: int, known_limit: float, starters: int, has_ended: bool = False
    ) -> None:
        """Note what holds from now on.

        Args:
            now: monotonic time in seconds.
            live: Runs that are live or being started, those in doubt included.
            in_doubt: Runs in doubt, which use no slot.
            known_limit: max Runs that the account is known to take.
            starters: starts that wait at the gate.
            has_ended: whether a Run has ended now. Its slot is to be filled again if it may be and a job waits.
        """
        limit = min(self._limit(), known_limit)
        is_wanted = starters > 0 or self._has_work()
        if has_ended and is_wanted and live < limit:
            self._freed_at.append(now)
        self.use.note(now, live=live - in_doubt, limit=limit, is_wanted=is_wanted)

    def refilling(self, *, live: int) -> float | None:
        """Return when the slot came free that a start fills; `live` counts the start. None for a new slot."""
        freed_at = self._freed_at.popleft() if self._freed_at else None
        while len(self._freed_at) > max(0, self._limit() - live):
            self._freed_at.popleft()  # fewer slots are free than that: the job for one of them started nothing
        return freed_at

    def sent(self, length_s: float) -> None:
        """Note that the start request is sent that fills a slot which came free this long ago, in seconds."""
        self.refill.note(length_s)
        self._counters.refills.note(length_s)

    def held_back(self, length_s: float) -> None:
        """Note how long a rate has held back the next start, in seconds."""
        self._counters.token_wait_s += length_s
