"""A token bucket as the generic cell rate algorithm (ITU-T I.371; ATM Forum TM 4.0, 4.4.2).

It keeps one number, the theoretical arrival time of the next token, instead of a level that must be refilled.
"""

#: Fraction of a documented limit that is used, so that clocks that disagree a little cause no 429.
FRACTION_OF_LIMIT = 0.95
#: Burst as a fraction of one second's tokens; with FRACTION_OF_LIMIT never above the limit in any second.
BURST_FRACTION = 0.05

#: Seconds for which a waiter lets each waiter go first that has waited longer. More than the resolution of timers, less
#: than a start takes.
COURTESY_S = 0.002


def burst_of(rate_per_s: float) -> int:
    """Return how many tokens of a rate may be taken at one instant."""
    return max(1, int(rate_per_s * BURST_FRACTION))


class TokenBucket:
    """Says when each request may be sent so that a rate is kept.

    A caller asks `next_at`, waits for that time, and then takes the token *of that time*. So a timer that fires late
    delays one request and costs no token, and a caller that gives up while waiting has taken none.
    `burst` is the max number of tokens at one instant after a pause.
    """

    def __init__(self, *, rate_per_s: float, burst: int = 1) -> None:
        self._most_per_s, self._most_burst = rate_per_s, burst
        self._pace(rate_per_s, burst)
        self._next = float("-inf")
        self.closed_until = float("-inf")

    @classmethod
    def at_rate(cls, rate_per_s: float) -> "TokenBucket":
        """Make a bucket that keeps a rate, with the burst that goes with it."""
        return cls(rate_per_s=rate_per_s, burst=burst_of(rate_per_s))

    @classmethod
    def below_limit(cls, limit_per_s: float) -> "TokenBucket":
        """Make a bucket that stays safely below a documented limit of requests per second."""
        return cls.at_rate(limit_per_s * FRACTION_OF_LIMIT)

    def stay_below(self, limit_per_s: float) -> None:
        """Keep the rate safely below an announced limit, and never above the rate that the bucket was made for."""
        rate_per_s = min(self._most_per_s, limit_per_s * FRACTION_OF_LIMIT)
        is_slower = rate_per_s < self._most_per_s
        self._pace(rate_per_s, min(self._most_burst, burst_of(rate_per_s)) if is_slower else self._most_burst)

    def change_rate(self, rate_per_s: float, now: float, *, limit_per_s: float | None = None) -> None:
        """Keep this rate from now on, and stay safely below an announced limit.

        The tokens that are there stay, as far as the new burst has room for them, and more come at the new rate. So
        buckets that pass a part of one rate to each other do not give its burst twice.
        """
        there = self._tokens(now)
        self._most_per_s, self._most_burst = rate_per_s, burst_of(rate_per_s)
        self._pace(self._most_per_s, self._most_burst)
        if limit_per_s is not None:
            self.stay_below(limit_per_s)
        there = min(there, 1 + self._tolerance_s / self._interval_s)
        self._next = max(now + self._tolerance_s + (1 - there) * self._interval_s, self.closed_until)

    def _tokens(self, now: float) -> float:
        """Return how many tokens are there; a fraction: a part of the wait for the next one is over."""
        most = self._tolerance_s / self._interval_s
        return 1 + min(most, (now + self._tolerance_s - self._next) / self._interval_s)

    def next_at(self, now: float) -> float:
        """Return when the next token may be used, not before `now`; ask again after waking before `closed_until`."""
        return max(now, self._next - self._tolerance_s, self.closed_until)

    def take(self, at: float) -> None:
        """Take the token of a time that `next_at` returned."""
        self._next = max(self._next, at) + self._interval_s

    def try_take(self, now: float) -> bool:
        """Take a token if one may be used now; return whether it was taken."""
        if self._next - self._tolerance_s > now or self.closed_until > now:
            return False
        self.take(now)
        return True

    def close(self, until: float) -> None:
        """Give no token before `until`, and no burst right after it."""
        if until > self.closed_until:
            self.closed_until = until
            self._next = max(self._next, until + self._tolerance_s)

    def _pace(self, rate_per_s: float, burst: int) -> None:
        #: Tokens per second.
        self.rate_per_s = rate_per_s
        self._interval_s = 1.0 / rate_per_s
        self._tolerance_s = (burst - 1) * self._interval_s


class Contenders:
    """The waiters for tokens of one bucket: a waiter lets those go first whose last token is older.

    Without it, one waiter would always win: of many timers for the same moment the one set first fires first, and that
    is the timer of the waiter that has just had a token.
    """

    def __init__(self) -> None:
        self._waiting: set[object] = set()
        self._last: dict[object, int] = {}
        self._count = 0

    def enter(self, who: object) -> None:
        """Note that a waiter waits."""
        self._waiting.add(who)

    def leave(self, who: object) -> None:
        """Note that a waiter waits no longer."""
        self._waiting.discard(who)

    def took(self, who: object) -> None:
        """Note that a waiter has taken a token."""
        self._count += 1
        self._last[who] = self._count

    def forget(self, who: object) -> None:
        """Forget a waiter that will not wait again."""
        self._waiting.discard(who)
        self._last.pop(who, None)

    def delay_s(self, who: object) -> float:
        """Return how long after its time a waiter may take a token, if no other waiter has."""
        mine = self._last.get(who, 0)
        return COURTESY_S * sum(self._last.get(each, 0) < mine for each in self._waiting)


class BothBuckets:
    """Two rates that one request has to keep: one of its batch, and one that several batches share.

    The shared one is closed for all when the platform refuses one.
    """

    def __init__(self, own: TokenBucket, shared: TokenBucket) -> None:
        self._own = own
        self._shared = shared

    @property
    def closed_until(self) -> float:
        """The time before which no token is given."""
        return max(self._own.closed_until, self._shared.closed_until)

    @property
    def rate_per_s(self) -> float:
        """Tokens per second, at most."""
        return min(self._own.rate_per_s, self._shared.rate_per_s)

    def next_at(self, now: float) -> float:
        """Return when both have a token, not before `now`."""
        return self._own.next_at(self._shared.next_at(now))

    def take(self, at: float) -> None:
        """Take the tokens of a time that `next_at` has given."""
        self._own.take(at)
        self._shared.take(at)

    def close(self, until: float) -> None:
        """Give no batch a token before `until`, and this one no burst right after it."""
        self._own.close(until)
        self._shared.close(until)

    def stay_below(self, limit_per_s: float) -> None:
        """Keep the rate of all batches together safely below an announced limit."""
        self._shared.stay_below(limit_per_s)


#: What a start takes its token from.
Tokens = TokenBucket | BothBuckets
