"""A token bucket put into time: wait for one's turn, and close it for everyone after a 429."""

import random

import anyio

from batchrun.policy.retry import Backoff
from batchrun.policy.token_bucket import TokenBucket

#: The API's advice for 429 starts at half a second.
RATE_LIMIT_BACKOFF = Backoff(first_s=0.5, max_s=30.0)


class Throttle:
    """Lets requests through at a rate; one 429 holds back all who share it."""

    def __init__(self, bucket: TokenBucket) -> None:
        self._bucket = bucket
        self._refusals = 0

    async def turn(self) -> None:
        """Wait until one more request may be sent; cancelling gives the token up."""
        while (wait_s := self._bucket.reserve(now := anyio.current_time())[0] - now) > 0:
            await anyio.sleep(wait_s)
            if anyio.current_time() >= self._bucket.closed_until:
                return

    def refused(self, retry_after_s: float | None) -> None:
        """Close the bucket after a 429: as long as it says, or else longer with each one in a row."""
        now = anyio.current_time()
        if now < self._bucket.closed_until:
            return  # sent before the bucket closed: the same refusal, not a further one
        self._refusals += 1
        wait_s = RATE_LIMIT_BACKOFF.wait_s(self._refusals, random.random())  # noqa: S311 - spread, not secrecy
        self._bucket.close(now + (wait_s if retry_after_s is None else retry_after_s))

    def passed(self) -> None:
        """Note that a request was not refused."""
        self._refusals = 0
