"""When the next start may be sent, by what the account's refusals show: how a full account is noticed and probed.

A refusal shows that the account is full. From then on one start at a time, the probe, tries whether more Runs are
possible: a thousand waiting jobs make one request every few seconds, not a thousand.

An account that reports its limit is filled at once. Without a reported limit, and before the first refusal, the number
of live Runs grows in steps: at most `stride(taken)` starts are tried beyond the Runs that the account is known to take.
So at most as many are refused together at a hidden limit: 8 if it is below 72, else an eighth of it. Each round trip
adds a stride; 256 Runs are live after about 20 of them.
"""

import math

from batchrun.policy.retry import Backoff

#: Waits between two probes while the account stays full.
PROBE_BACKOFF = Backoff(first_s=1.0, max_s=10.0)
#: Seconds from a refusal to the next probe, after a Run of ours has ended and others compete for what it frees.
CONTESTED_INTERVAL_S = 1.0
#: Starts that are tried at a time beyond the Runs that the account is known to take: at least 8, or an eighth of these.
#: More would fill the account faster, and be refused together at its limit.
MIN_STRIDE = 8
STRIDE_PART = 1 / 8
#: Starts in a row, without one that had an effect, after which the next ones are tried one at a time.
MAX_WITHOUT_EFFECT = 5


def stride(most_taken: int) -> int:
    """Return how many starts are tried at a time once the account is known to take `most_taken` Runs."""
    return max(MIN_STRIDE, int(most_taken * STRIDE_PART))


class Capacity:
    """The number of live Runs beyond which a start has to wait or to be a probe."""

    def __init__(self) -> None:
        #: Max Runs of ours by the account's reported limit; None if it reports none.
        self.allowed: int | None = None
        #: Max live Runs of ours that the account is known to have taken.
        self._most_taken = 0
        #: Live Runs of ours with which the account was full; None before the first refusal.
        self._full_at: int | None = None
        #: True if a start below `_full_at` was refused: others compete, and the next start is a probe at any number.
        self._is_contested = False
        self._refused_at = -math.inf
        self._is_probing = False
        self._refusals = 0
        self._probe_at = 0.0
        #: Starts without effect since the last one that had one.
        self._without_effect = 0
        #: Probes in a row that were not answered while starts fail.
        self._failed_probes = 0

    def next_start_at(self, now: float, live: int) -> float | None:
        """Return when the next start may be sent while `live` Runs are live or starting.

        None: not before something changes (the probe is answered, a Run ends, the limit changes).
        """
        if self.allowed is not None and live >= self.allowed:
            return None
        if not self._needs_probe(live):
            return now if self._is_within_stride(live) else None
        return None if self._is_probing else max(now, self._probe_at)

    def _needs_probe(self, live: int) -> bool:
        is_full = self._full_at is not None and (self._is_contested or live >= self._full_at)
        return is_full or self.are_starts_failing

    @property
    def are_starts_failing(self) -> bool:
        """Whether the last starts had no effect, so that one at a time is tried."""
        return self._without_effect >= MAX_WITHOUT_EFFECT

    def _is_within_stride(self, live: int) -> bool:
        is_limit_known = self.allowed is not None or self._full_at is not None
        return is_limit_known or live < self._most_taken + stride(self._most_taken)

    @property
    def known_limit(self) -> float:
        """Live Runs of ours with which the account was last full; infinity before the first refusal."""
        return math.inf if self._full_at is None else self._full_at

    @property
    def is_full(self) -> bool:
        """Whether the last start that shows it was refused."""
        return self._refusals > 0

    def may_have_grown(self, now: float) -> None:
        """Note a sign that the account takes more Runs than at the last refusal: the next probe need not wait."""
        self._probe_at = min(self._probe_at, now)

    def starting(self, live: int) -> bool:
        """Note a start that is sent while `live` others are live or starting; return whether it is a probe."""
        is_probe = self._needs_probe(live)
        self._is_probing = self._is_probing or is_probe
        return is_probe

    def reached(self, live: int) -> None:
        """Note that this many Runs were live or starting and the account did not refuse."""
        self._most_taken = max(self._most_taken, live)

    def started(self, live: int, *, is_probe: bool) -> None:
        """Note that the platform accepted a start, which `live` counts. After a probe, the next one need not wait."""
        self.took_effect()
        if is_probe:
            self._is_probing = False
            self._is_contested = False
            self._refusals = 0
            if self._full_at is not None:
                self._full_at = max(live, self._full_at)

    def refused(self, now: float, live: int, *, is_probe: bool, sent_at: float, uniform: float) -> None:
        """Note that the account refused a start: it is full with `live` Runs of ours, without the refused one.

        A start that was sent before the latest refusal shows nothing new. `uniform` is a random number in [0, 1).
        """
        self.took_effect()  # starts as such are answered
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
        """Note the end of a Run of ours. If others compete for what it frees, the next probe is due soon."""
        if self._is_contested:
            self._probe_at = min(self._probe_at, max(now, self._refused_at + CONTESTED_INTERVAL_S))

    def unanswered(self, now: float, *, is_probe: bool, uniform: float) -> None:
        """Note that a start's answer was lost. While starts fail, the next probe waits longer each time."""
        if is_probe:
            self._is_probing = False
            if self.are_starts_failing:
                self._failed_probes += 1
                self._probe_at = now + PROBE_BACKOFF.wait_s(self._failed_probes, uniform)

    def probe_over(self) -> None:
        """Note that the answer to a probe says nothing about the account's capacity."""
        self._is_probing = False

    def had_no_effect(self) -> None:
        """Note that no Run is seen behind a start whose answer was lost: starts as such may be out of order."""
        self._without_effect += 1

    def took_effect(self) -> None:
        """Note that a start had an effect."""
        self._without_effect = self._failed_probes = 0
