"""The documented rate limits: requests per second for each resource, and requests per minute for each account.

Generic cell rate algorithm: one float per resource, dropped once it lies in the past.
"""

from collections.abc import Callable

from batchrun.server.error_answers import ErrorAnswer

#: Requests per second and resource of most endpoints. Source of this and the next two: API reference, "Rate limiting".
PER_RESOURCE = 60
#: The same for one record of a key-value store.
PER_RECORD = 200
#: The same for starts, pushes and single queue requests.
PER_START = 400
#: Batch operations per second on one request queue. Source: the request queue page.
PER_QUEUE_BATCH = 40
#: Requests per minute of one account. Source: the API reference, "Rate limiting".
PER_ACCOUNT_MINUTE = 250_000

#: Buckets in memory before the full ones are dropped. A guess: about 2 MB.
_PRUNE_ABOVE = 10_000
#: Seconds of tolerance, since sums of many small floats are slightly too large.
_ROUNDING_S = 1e-6


class RateLimits:
    """Counts requests and refuses those above the limit.

    Args:
        now: the monotonic clock, in seconds.
        is_enforced: False lets everything through.
    """

    def __init__(self, now: Callable[[], float], *, is_enforced: bool) -> None:
        self._now, self.is_enforced = now, is_enforced
        #: (Caller, resource, limit) -> when its bucket will be full again, in seconds on `now`; the same by caller. A
        #: resource stands there as its hash: a stranger may name one with thousands of characters.
        self._full_at: dict[tuple[str, int, int], float] = {}
        self._account_full_at: dict[str, float] = {}

    def announced(self, per_s: int) -> int | None:
        """Return the limit to announce in an answer. None if it is not enforced: clients pace themselves by it."""
        return per_s if self.is_enforced else None

    def admit(self, who: str, resource: str, per_s: int) -> None:
        """Admit a request or refuse it. A burst of one second's requests is admitted.

        Args:
            who: the account's id, or the address of an anonymous caller.
            resource: the resource's kind and name. Each account has its own buckets.
            per_s: its limit, in requests per second.
        """
        if not self.is_enforced:
            return
        now, key = self._now(), (who, hash(resource), per_s)
        account_full_at = max(self._account_full_at.get(who, 0.0), now) + 60 / PER_ACCOUNT_MINUTE
        full_at = max(self._full_at.get(key, 0.0), now) + 1 / per_s
        if full_at > now + 1 + _ROUNDING_S or account_full_at > now + 60:
            message = f"You have exceeded the rate limit of {per_s} requests per second"
            raise ErrorAnswer(429, "rate-limit-exceeded", message)
        self._account_full_at[who], self._full_at[key] = account_full_at, full_at
        if len(self._full_at) > _PRUNE_ABOVE:
            self._full_at = {key: at for key, at in self._full_at.items() if at > now}
            self._account_full_at = {key: at for key, at in self._account_full_at.items() if at > now}
