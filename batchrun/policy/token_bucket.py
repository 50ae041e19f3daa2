"""A token bucket as the generic cell rate algorithm (ITU-T I.371; ATM Forum TM 4.0, 4.4.2).

It keeps one number, the theoretical arrival time of the next token, instead of a level that must be refilled.
"""

#: Share of a documented limit that is used, so that clocks that disagree a little cause no 429.
SHARE_OF_LIMIT = 0.95
#: Burst as a share of one second's tokens; with SHARE_OF_LIMIT never above the limit in any second.
BURST_SHARE = 0.05


class TokenBucket:
    """Says when each request may be sent so that a rate is kept.

    Args:
        rate_per_s: tokens per second, above 0.
        burst: tokens that may be taken at one instant after a pause, at least 1.
    """

    def __init__(self, *, rate_per_s: float, burst: int = 1) -> None:
        self._interval_s = 1.0 / rate_per_s
        self._tolerance_s = (burst - 1) * self._interval_s
        self._next = float("-inf")
        self.closed_until = float("-inf")

    @classmethod
    def below_limit(cls, limit_per_s: float) -> "TokenBucket":
        """Make a bucket that stays safely under a documented limit of requests per second."""
        rate_per_s = limit_per_s * SHARE_OF_LIMIT
        return cls(rate_per_s=rate_per_s, burst=max(1, int(rate_per_s * BURST_SHARE)))

    def reserve(self, now: float, n: int = 1) -> list[float]:
        """Take `n` tokens and return their send times, in order, none before `now`.

        A token is taken whether or not it is used. A reservation made before `close` holds for a closed
        bucket no longer: who wakes before `closed_until` reserves again.
        """
        times = []
        for _ in range(n):
            at = max(now, self._next - self._tolerance_s, self.closed_until)
            self._next = max(self._next, at) + self._interval_s
            times.append(at)
        return times

    def close(self, until: float) -> None:
        """Give no token before `until`; those after it come one by one, without a burst."""
        if until > self.closed_until:
            self.closed_until = until
            self._next = max(self._next, until + self._tolerance_s)
