"""How many Runs may be live now: what of the account's limit is ours, and what its refusals teach.

A refusal tells that what is live is all there is. From there one start at a time asks whether more has become
possible, so that a thousand waiting jobs make one request every few seconds and not a thousand.

Before the first refusal, where the account tells no limit, starts feel their way: only `stride(most)` places beyond the
most that are known to have been taken are tried at a time. So many starts at most are refused together when a hidden
limit is met: 8 of one below 72, an eighth of a larger one. Each round trip adds as many, so that 256 Runs are live
after some 20 of them. An account that tells its limit has none to be felt for, and is filled at once.
"""

from batchrun.policy.retry import Backoff

#: Waits between two askings while the account stays full.
PROBE_BACKOFF = Backoff(first_s=1.0, max_s=10.0)
#: While others take the places that Runs of ours leave, one of them is asked for so long after the last refusal.
CONTESTED_INTERVAL_S = 1.0
#: Places that are tried at a time beyond those that were taken: enough to get on, few enough to be refused together.
MIN_STRIDE = 8
STRIDE_SHARE = 1 / 8


def stride(most_taken: int) -> int:
    """Return how many places are tried at a time once so many are known to be there."""
    return max(MIN_STRIDE, int(most_taken * STRIDE_SHARE))


class Capacity:
    """The number of live Runs beyond which a start has to wait or to be a probe.

    A start's place is how many Runs were live or starting with it, when it was let through.
    """

    def __init__(self) -> None:
        #: Most Runs of ours by what the account says; None where that is no limit.
        self.allowed: int | None = None
        #: Most live Runs of ours that the platform is known to have had room for.
        self._most_taken = 0
        self._full_at: int | None = None
        #: Whether a place that a Run of ours had left was refused: then the next start is a probe, wherever we stand.
        self._is_contested = False
        self._refused_at = float("-inf")
        self._is_probing = False
        self._refusals = 0
        self._probe_at = 0.0

    def next_start_at(self, now: float, live: int) -> float | None:
        """Return when the next start may be tried with `live` Runs live or starting.

        None: not before something changes (the answer of the probe that is out, the end of a Run, the limit).
        """
        if self.allowed is not None and live >= self.allowed:
            return None
        if not self._needs_probe(live):
            return now if self._is_within_stride(live) else None
        return None if self._is_probing else max(now, self._probe_at)

    def _needs_probe(self, live: int) -> bool:
        return self._full_at is not None and (self._is_contested or live >= self._full_at)

    def _is_within_stride(self, live: int) -> bool:
        is_told = self.allowed is not None or self._full_at is not None
        return is_told or live < self._most_taken + stride(self._most_taken)

    @property
    def known_limit(self) -> float:
        """How many Runs of ours the account takes, as far as is known; infinity before the first refusal."""
        return float("inf") if self._full_at is None else self._full_at

    def may_have_grown(self, now: float) -> None:
        """Note a sign that there is more room than the last refusal told: the next probe need not wait."""
        self._probe_at = min(self._probe_at, now)

    def starting(self, live: int) -> bool:
        """Note a start that goes out beside `live` others; return whether it is a probe."""
        is_probe = self._needs_probe(live)
        self._is_probing = self._is_probing or is_probe
        return is_probe

    def reached(self, place: int) -> None:
        """Note that nobody waits for the answer to a start any more, and that it was not refused."""
        self._most_taken = max(self._most_taken, place)

    def started(self, live: int, *, is_probe: bool) -> None:
        """Note that the platform took a start; `live` counts it. A probe that was taken asks for the next at once."""
        if is_probe:
            self._is_probing = False
            self._is_contested = False
            self._refusals = 0
            self._full_at = max(live, self._full_at or 0)

    def refused(self, now: float, live: int, *, is_probe: bool, sent_at: float, uniform: float) -> None:
        """Note that the account is full with `live` Runs of ours, the refused one left out.

        Args:
            now: when the refusal came.
            live: Runs of ours.
            is_probe: whether the start was one.
            sent_at: when the start was let through; several that left before the first refusal came teach nothing new.
            uniform: a random number in [0, 1).
        """
        if not is_probe and self._full_at is not None and sent_at >= self._refused_at:
            self._is_contested = True
        self._full_at = live
        self._refused_at = now
        if is_probe:
            self._is_probing = False
        if is_probe or now >= self._probe_at:
            self._refusals += 1
            self._probe_at = now + PROBE_BACKOFF.wait_s(self._refusals, uniform)

    def ended(self, now: float) -> None:
        """Note the end of a Run of ours: its place is asked for at once, or soon, if others are after it too."""
        if self._is_contested:
            self._probe_at = min(self._probe_at, max(now, self._refused_at + CONTESTED_INTERVAL_S))

    def unanswered(self, *, is_probe: bool) -> None:
        """Note that a start told nothing about the account."""
        if is_probe:
            self._is_probing = False


class Allowance:
    """What of an account's limit is ours, in Runs or in megabytes.

    The platform's counters may lag: what of ours has just ended still counts there, and looks like somebody else's.
    So more use by others is believed when two readings in a row show it, and then the smaller of the two; less use is
    believed at once, for a limit that was taken too high costs one refused start.

    Args:
        leave_free: what is left to others beyond what they use.
        least: what is ours in any case.
    """

    def __init__(self, *, leave_free: int, least: int) -> None:
        self._leave_free = leave_free
        self._least = least
        self._others: int | None = None

    def update(self, limit: int, used: int, own: int) -> int:
        """Return our share by one more reading.

        Args:
            limit: the account's.
            used: by all of the account.
            own: most that we have used ourselves from before the reading was asked for until it was there.
        """
        others = max(0, used - own)
        believed = others if self._others is None else min(others, self._others)
        self._others = others
        return max(self._least, limit - believed - self._leave_free)
