"""A token bucket put into time: wait for one's turn, and close it for everyone after a 429."""

import random
import re
from collections.abc import Callable

import anyio
import structlog

from batchrun.policy.retry import Backoff
from batchrun.policy.token_bucket import TokenBucket

#: The API's advice for 429 starts at half a second.
RATE_LIMIT_BACKOFF = Backoff(first_s=0.5, max_s=30.0)

_log = structlog.get_logger()


class Throttle:
    """Lets requests through at a rate, first come, first served; one 429 holds back all who share it."""

    def __init__(self, bucket: TokenBucket) -> None:
        self._bucket = bucket
        self._queue = anyio.Lock(fast_acquire=True)
        self._refusals = 0

    async def turn(self) -> None:
        """Wait until one more request may be sent; cancelled, it has taken nothing."""
        if self.passes_now():
            return
        async with self._queue:
            while True:
                now = anyio.current_time()
                at = self._bucket.next_at(now)
                await anyio.sleep(at - now)
                if anyio.current_time() >= self._bucket.closed_until:
                    self._bucket.take(at)
                    return

    def passes_now(self) -> bool:
        """Take one's turn if it is now, without waiting; return whether it was."""
        now = anyio.current_time()
        if self._queue.locked() or self._bucket.next_at(now) > now:
            return False
        self._bucket.take(now)
        return True

    def stay_below(self, limit_per_s: float) -> None:
        """Adapt to a limit that the platform announces."""
        self._bucket.stay_below(limit_per_s)

    def refused(self, retry_after_s: float | None) -> None:
        """Close the bucket after a 429: as long as it says, or else longer with each one in a row."""
        now = anyio.current_time()
        if now < self._bucket.closed_until:
            return  # sent before the bucket closed: the same refusal, not a further one
        self._refusals += 1
        self._bucket.close(now + rate_limit_wait_s(self._refusals, retry_after_s))

    def passed(self) -> None:
        """Note that a request was not refused."""
        self._refusals = 0


class AnnouncedLimit:
    """An endpoint's `X-RateLimit-Limit`, in requests per second.

    It stands in every answer and hardly ever changes, so it is read only when its text is another.

    Args:
        name: of the endpoint, for the log.
        learn: called with each new limit.
    """

    def __init__(self, name: str, learn: Callable[[float], None] = lambda _: None) -> None:
        self._name = name
        self.learn = learn
        self._text: str | None = None

    def note(self, text: str | None) -> None:
        """Note the header of one more answer; None where it has none."""
        if text is None or text == self._text:
            return
        self._text = text
        if re.fullmatch(r"0*[1-9]\d{0,8}", text, re.ASCII):
            _log.info("rate_limit_learned", endpoint=self._name, limit_per_s=int(text))
            self.learn(float(text))


def rate_limit_wait_s(refusals: int, retry_after_s: float | None) -> float:
    """Return the wait after a 429: what it asks for, or else longer with each one in a row (from 1)."""
    spread = random.random()  # noqa: S311 - spread, not secrecy
    return RATE_LIMIT_BACKOFF.wait_s(refusals, spread) if retry_after_s is None else retry_after_s
