"""Rate limits as documented: so many requests per second for each resource, and per minute for each account.

Generic cell rate algorithm: one float per resource, forgotten once it lies in the past.
"""

from collections.abc import Callable

from batchrun.server.error_answers import ErrorAnswer

#: Requests per second: most endpoints; one record of a key-value store; starts, pushes and single queue requests.
#: Source: the API reference, "Rate limiting".
PER_RESOURCE = 60
PER_RECORD = 200
PER_START = 400
#: Queue operations on many requests at once. Source: the request queue page.
PER_QUEUE_BATCH = 40
PER_ACCOUNT_MINUTE = 250_000

_PRUNE_ABOVE = 10_000
#: Sums of many small floats go a little above what they should be.
_ROUNDING_S = 1e-6


class RateLimits:
    """Counts requests and refuses those above the limit.

    Args:
        now: the monotonic clock, in seconds.
        is_enforced: False lets everything through.
    """

    def __init__(self, now: Callable[[], float], *, is_enforced: bool) -> None:
        self._now, self.is_enforced = now, is_enforced
        #: Whose, resource, limit -> when its bucket will be full again; and whose -> the same of all he asks.
        self._full_at: dict[tuple[str, str, int], float] = {}
        self._account_full_at: dict[str, float] = {}

    def announced(self, per_s: int) -> int | None:
        """Return what an answer says of a limit: one that is not kept is not announced, for clients pace themselves."""
        return per_s if self.is_enforced else None

    def admit(self, who: str, resource: str, per_s: int) -> None:
        """Let a request through, or refuse it; one second's worth may come at once.

        Args:
            who: asks: an account's id, or the address of somebody without one.
            resource: is asked for; the same name may mean each account's own.
            per_s: the limit on it.

        Raises:
            ErrorAnswer: 429; the request does not count.
        """
        if not self.is_enforced:
            return
        now, key = self._now(), (who, resource, per_s)
        account_full_at = max(self._account_full_at.get(who, 0.0), now) + 60 / PER_ACCOUNT_MINUTE
        full_at = max(self._full_at.get(key, 0.0), now) + 1 / per_s
        if full_at > now + 1 + _ROUNDING_S or account_full_at > now + 60:
            message = f"You have exceeded the rate limit of {per_s} requests per second"
            raise ErrorAnswer(429, "rate-limit-exceeded", message)
        self._account_full_at[who], self._full_at[key] = account_full_at, full_at
        if len(self._full_at) > _PRUNE_ABOVE:
            self._full_at = {key: at for key, at in self._full_at.items() if at > now}
            self._account_full_at = {key: at for key, at in self._account_full_at.items() if at > now}
