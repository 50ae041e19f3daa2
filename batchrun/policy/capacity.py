"""How many Runs may be live now, learned from refusals where the account does not say.

A refusal tells that what is live is all there is. From there one start at a time asks whether more has become
possible, so that a thousand waiting jobs make one request every few seconds and not a thousand.
"""

from batchrun.policy.retry import Backoff

#: Waits between two askings while the account stays full.
PROBE_BACKOFF = Backoff(first_s=1.0, max_s=10.0)


class Capacity:
    """The number of live Runs beyond which a start has to be a probe; unlimited until the first refusal."""

    def __init__(self) -> None:
        self._full_at: int | None = None
        self._is_probing = False
        self._refusals = 0
        self._probe_at = 0.0

    def next_start_at(self, now: float, live: int) -> float | None:
        """Return when the next start may be tried with `live` Runs live or starting; None while a probe is out."""
        if self._full_at is None or live < self._full_at:
            return now
        return None if self._is_probing else max(now, self._probe_at)

    def starting(self, live: int) -> bool:
        """Note a start that goes out beside `live` others; return whether it is a probe."""
        is_probe = self._full_at is not None and live >= self._full_at
        self._is_probing = self._is_probing or is_probe
        return is_probe

    def started(self, live: int, *, is_probe: bool) -> None:
        """Note that the platform took a start; `live` counts it. A probe that was taken asks for the next at once."""
        if is_probe:
            self._is_probing = False
            self._refusals = 0
            self._full_at = max(live, self._full_at or 0)

    def refused(self, now: float, live: int, *, is_probe: bool, uniform: float) -> None:
        """Note that the account is full with `live` Runs of ours, the refused one left out."""
        self._full_at = live
        if is_probe:
            self._is_probing = False
        if is_probe or now >= self._probe_at:
            self._refusals += 1
            self._probe_at = now + PROBE_BACKOFF.wait_s(self._refusals, uniform)

    def unanswered(self, *, is_probe: bool) -> None:
        """Note that a start told nothing about the account."""
        if is_probe:
            self._is_probing = False
