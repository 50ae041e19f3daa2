"""Rate limits, in time: wait for a token, learn an announced limit, obey a 429."""

import random
import re
from collections.abc import Callable

import anyio
import structlog

from batchrun.policy.retry import Backoff
from batchrun.policy.token_bucket import TokenBucket
from batchrun.runtime.change_signal import ChangeSignal
from batchrun.runtime.steady_time import loop_clock

#: Waits after a 429 that names none; the API's documentation advises to start at half a second.
RATE_LIMIT_BACKOFF = Backoff(first_s=0.5, max_s=30.0)
#: How many different resources must be refused, with no success in between, for a refusal by the account.
ACCOUNT_REFUSALS = 5

_log = structlog.get_logger()


class Throttle:
    """A token bucket that is waited for, first come, first served; a 429 closes it for all its requests."""

    def __init__(self, bucket: TokenBucket) -> None:
        self._bucket = bucket
        self._now = loop_clock()
        self._queue = anyio.Lock(fast_acquire=True)
        self._refusals = 0
        self._announced_per_s: float | None = None
        #: Notified when the rate has changed.
        self._changed = ChangeSignal()

    async def take_token(self) -> None:
        """Wait for a token; if cancelled, none is taken."""
        if self.try_take_token():
            return
        async with self._queue:
            while True:
                now = self._now()
                at = self._bucket.next_at(now)
                if at > now:
                    await self._changed.wait(at - now)
                    if self._now() < at or self._bucket.next_at(now) != at:
                        continue  # the rate was changed, or the bucket closed
                self._bucket.take(at)
                return

    def try_take_token(self) -> bool:
        """Take a token if there is one and no other request waits; return whether it was taken."""
        return not self._queue.locked() and self._bucket.try_take(self._now())

    @property
    def closed_s(self) -> float:
        """Seconds until the bucket opens again after a 429; 0: it is open."""
        return max(0.0, self._bucket.closed_until - self._now())

    def stay_below(self, limit_per_s: float) -> None:
        """Keep below a limit that the platform announces."""
        self._announced_per_s = limit_per_s
        self._bucket.stay_below(limit_per_s)

    def change_rate(self, rate_per_s: float) -> None:
        """Keep this rate from now on, or the announced one if that is lower."""
        self._bucket.change_rate(rate_per_s, self._now(), limit_per_s=self._announced_per_s)
        self._changed.notify()

    def refused(self, retry_after_s: float | None) -> None:
        """Close the bucket after a 429 for as long as it asks, or else longer with each refusal in a row."""
        now = self._now()
        if now < self._bucket.closed_until:
            return  # the request was sent before the bucket closed: it is part of the same refusal
        self._refusals += 1
        self._bucket.close(now + rate_limit_wait_s(self._refusals, retry_after_s))

    def passed(self) -> None:
        """Note that a request was not refused."""
        self._refusals = 0


class AnnouncedLimit:
    """The rate limit that an endpoint announces in `X-RateLimit-Limit`, in requests per second.

    Every answer repeats the header and its text hardly ever changes, so only a new text is parsed.
    Each new limit is passed to the subscribers.
    """

    def __init__(self, endpoint: str, *subscribers: Callable[[float], None]) -> None:
        self._endpoint = endpoint
        self._subscribers = list(subscribers)
        self._text: str | None = None

    def subscribe(self, subscriber: Callable[[float], None]) -> None:
        """Call a function with each limit that is announced from now on."""
        self._subscribers.append(subscriber)

    def note(self, text: str | None) -> None:
        """Take the header of one more answer; None if the answer has no such header."""
        if text is None or text == self._text:
            return
        self._text = text
        if re.fullmatch(r"0*[1-9]\d{0,8}", text, re.ASCII):
            _log.info("rate_limit_learned", endpoint=self._endpoint, limit_per_s=int(text))
            for subscriber in self._subscribers:
                subscriber(float(text))


class AccountRefusals:
    """Recognises a 429 that comes from the account's own limit, and then closes the account's throttle.

    Most documented limits belong to one resource: one task's starts, one Run, one dataset, the list of Runs. A 429 for
    one resource does not concern requests for others. The account's limit sends the same answer; its sign is that
    several resources are refused and no request passes in between.
    """

    def __init__(self, account: Throttle) -> None:
        self._account = account
        #: Resources refused since the last request that passed, at most ACCOUNT_REFUSALS.
        self._refused_paths: set[str] = set()

    def note_refused(self, path: str, retry_after_s: float | None) -> None:
        """Note a 429 for a resource."""
        if len(self._refused_paths) < ACCOUNT_REFUSALS:
            self._refused_paths.add(path)
        if len(self._refused_paths) == ACCOUNT_REFUSALS:
            _log.info("account_rate_limited", retry_after_s=retry_after_s)
            self._account.refused(retry_after_s)

    def note_passed(self) -> None:
        """Note a request that was not refused."""
        if self._refused_paths:
            self._refused_paths.clear()
            self._account.passed()


def rate_limit_wait_s(refusals: int, retry_after_s: float | None) -> float:
    """Return the wait after a 429: as long as it asks, or else longer with each refusal in a row (from 1).

    A `Retry-After` of 0, or a date in the past, asks for no wait; obeyed, it would let thousands of requests through.
    """
    if retry_after_s is not None and retry_after_s >= RATE_LIMIT_BACKOFF.first_s:
        return retry_after_s
    return RATE_LIMIT_BACKOFF.wait_s(refusals, random.random())  # noqa: S311 - spread, not secrecy
