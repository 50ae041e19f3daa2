"""The gate that every start passes: it waits until rate, capacity and the platform allow a start at one moment."""

import random
from collections.abc import Callable

import anyio
import structlog

from batchrun.apify.throttle import Throttle
from batchrun.engine.limits.account_capacity import AccountCapacity
from batchrun.engine.limits.slot_use import SlotMeter
from batchrun.policy.retry import Backoff
from batchrun.policy.token_bucket import Contenders, Tokens
from batchrun.runtime.changed import Changed

#: Waits after a 429 without `Retry-After`, and while no connection can be made.
CLOSING_BACKOFF = Backoff(first_s=0.5, max_s=30.0)
#: Starts that may wait at the gate for their rate, each with a permit in hand: those of this time,
CROWD_S = 0.1
#: and at most this many.
MAX_CROWD = 256

_log = structlog.get_logger()


class Start:
    """One start that was let through, until it came to nothing or its Run is terminal."""

    __slots__ = ("freed_at", "is_live", "is_over", "is_probe", "let_through_at", "nth_live")

    def __init__(
        self,
        *,
        nth_live: int,
        is_probe: bool = False,
        is_live: bool = False,
        let_through_at: float = 0.0,
        freed_at: float | None = None,
    ) -> None:
        #: Runs of ours in the account that were live or being started, this one included.
        self.nth_live = nth_live
        #: Whether its answer is to show if a full account has capacity again; False once that is noted.
        self.is_probe = is_probe
        #: Whether its Run is live, or may be.
        self.is_live = is_live
        #: Whether it came to nothing, or its Run is terminal.
        self.is_over = False
        #: Monotonic.
        self.let_through_at = let_through_at
        #: When the permit that it fills became free (monotonic); None for a new permit, and once the request is sent.
        self.freed_at = freed_at

    def take_probe(self) -> bool:
        """Return whether this is a probe whose answer is not noted yet, and note it."""
        is_probe, self.is_probe = self.is_probe, False
        return is_probe


class StartGate:
    """Rate, learned capacity and closures, put into time, for all starts of one batch.

    Args:
        bucket: the rate of starts.
        account: what the account takes, shared with the gates of its other batches.
        changed: notified when a start waits here no more.
        meter: measures how permits are used.
        contenders: the gates that start Runs of the same task.
        rank: returns the batch's rank in the account; the smallest is next.
        throttle: the rate of all requests, starts among them; None: unlimited.
    """

    def __init__(
        self,
        bucket: Tokens,
        account: AccountCapacity,
        changed: Changed,
        meter: SlotMeter,
        contenders: Contenders,
        *,
        rank: Callable[[], tuple[float, ...]],
        throttle: Throttle | None = None,
    ) -> None:
        self.rank = rank
        #: Runs of this batch that are live, or being started.
        self.live = 0
        self._starters = 0
        self._meter = meter
        self._bucket = bucket
        self._throttle = throttle
        self._throttle_wait = anyio.CancelScope()
        self._account = account
        account.join(self)
        self._capacity = account.capacity
        self._on_leaving_queue = changed
        self._contenders = contenders
        self._queue = anyio.Lock(fast_acquire=True)
        self._changed = Changed()
        self._is_shut = False
        self._closings = 0

    async def next_start(self) -> Start | None:
        """Wait, first come, first served, until one start is allowed; None once no more starts are wanted.

        The start is for right now: rate, capacity and the account's request rate have been waited for, so nothing is
        left to wait for between the commit of an intent and its request. Cancelled, it leaves nothing behind.
        """
        self._starters += 1
        try:
            async with self._queue:
                now = await self._may_start()
        finally:
            self._starters -= 1
            self._on_leaving_queue.notify()
        return None if now is None else self._let_through(now)

    def _let_through(self, now: float) -> Start:
        is_probe = self._capacity.starting(self._account.live)
        self._count_live()
        freed_at = self._meter.refilling(live=self.live)
        self._measure(now)
        return Start(nth_live=self._account.live, is_probe=is_probe, let_through_at=now, freed_at=freed_at)

    def adopt(self) -> Start:
        """Count a Run as live that was started earlier, or may have been."""
        self._count_live()
        self._capacity.reached(self._account.live)
        self._measure(anyio.current_time())
        return Start(nth_live=self._account.live, is_live=True)

    def _count_live(self) -> None:
        self.live += 1
        self._account.live += 1

    @property
    def is_crowded(self) -> bool:
        """Whether enough starts wait here to keep the rate; one more would hold an idle permit."""
        return self._starters >= max(1, min(MAX_CROWD, int(self._bucket.rate_per_s * CROWD_S)))

    @property
    def rate_per_s(self) -> float:
        """Starts per second, at most."""
        return self._bucket.rate_per_s

    def sending(self, start: Start) -> None:
        """Note that the start request is sent now."""
        if start.freed_at is not None:
            self._meter.sent(start.freed_at)
            start.freed_at = None

    def started(self, start: Start) -> None:
        """Note that the platform took a start."""
        start.is_live = True
        self._closings = 0
        self._capacity.reached(start.nth_live)
        self._capacity.started(self._account.live, is_probe=start.take_probe())
        self._account.took_start()

    def unanswered(self, start: Start) -> None:
        """Note that the answer to a start will not come: others need not wait for it."""
        start.is_live = True
        self._capacity.reached(start.nth_live)
        self._capacity.unanswered(is_probe=start.take_probe())
        self._account.wake()

    def account_is_full(self, start: Start) -> None:
        """Note that the account has no capacity for one more Run; nothing was started."""
        live = self._account.live - 1
        _log.debug("start_refused", live=live)
        self._capacity.refused(
            anyio.current_time(),
            live,
            is_probe=start.take_probe(),
            sent_at=start.let_through_at,
            uniform=random.random(),  # noqa: S311 - spread
        )
        self.over(start)

    def try_later(self, start: Start, retry_after_s: float | None) -> None:
        """Close the gate for a while: as long as the platform says, else longer each time in a row."""
        now = anyio.current_time()
        if now >= self._bucket.closed_until:  # else the request was sent before the gate closed: the same refusal
            self._closings += 1
            wait_s = CLOSING_BACKOFF.wait_s(self._closings, random.random())  # noqa: S311 - spread
            self._bucket.close(now + (wait_s if retry_after_s is None else retry_after_s))
        self.over(start)

    def over(self, start: Start) -> None:
        """Note, once or more, that a start has no live Run any more: the next start may be allowed at once."""
        if start.is_over:
            return
        start.is_over = True
        if start.take_probe():
            self._capacity.unanswered(is_probe=True)
        self.live -= 1
        self._account.live -= 1
        now = anyio.current_time()
        if start.is_live:  # a refused start frees no permit
            self._capacity.ended(now)
            self._meter.ended(now, live=self.live, known_limit=self._capacity.known_limit, starters=self._starters)
        self._measure(now)
        self._account.wake()

    def leave(self) -> None:
        """Leave the account's capacity, with the Runs that go on without this process."""
        self._account.live -= self.live
        self.live = 0
        self._account.leave(self)
        self._contenders.forget(self)
        self._account.wake()

    def shut(self) -> None:
        """Let no more starts through, for good."""
        self._is_shut = True
        self._throttle_wait.cancel()
        self.wake()

    def wake(self) -> None:
        """Let the next start look again at what it waits for."""
        self._changed.notify()

    async def _may_start(self) -> float | None:
        """Wait until everything allows one start at the same moment, and return it; None once no more are wanted.

        What changed during one wait is asked again: a refusal that came meanwhile makes this start wait for its turn to
        probe, instead of being one of a herd.
        """
        while await self._has_capacity():
            at = await self._token_time()
            if at is None or not await self._has_request_token():
                return None
            now = anyio.current_time()
            # Asked for the token's own time: another start may have taken it, or closed the bucket, meanwhile.
            if self._bucket.next_at(at) <= now and self._is_below_capacity(now):
                self._bucket.take(at)
                self._contenders.took(self)
                return now
        return None

    def _is_below_capacity(self, now: float) -> bool:
        at = self._capacity.next_start_at(now, self._account.live)
        return at is not None and at <= now

    async def _has_capacity(self) -> bool:
        while not self._is_shut:
            now = anyio.current_time()
            at = self._capacity.next_start_at(now, self._account.live)
            if at is not None and at <= now:
                return True
            await self._wait(None if at is None else at - now)
        return False

    async def _token_time(self) -> float | None:
        """Wait for the next token's time, and return it; the token is not taken yet."""
        self._contenders.enter(self)
        try:
            return await self._next_token_time()
        finally:
            self._contenders.leave(self)

    async def _next_token_time(self) -> float | None:
        while not self._is_shut:
            began_at = anyio.current_time()
            at = self._bucket.next_at(began_at)
            delay_s = self._contenders.delay_s(self)
            while (now := anyio.current_time()) < at + delay_s and not self._is_shut:
                await self._wait(at + delay_s - now)
                at = min(at, self._bucket.next_at(anyio.current_time()))  # sooner, where the rate was raised meanwhile
            self._meter.held_back(now - began_at)
            if now >= self._bucket.closed_until:
                return at
        return None

    async def _has_request_token(self) -> bool:
        if self._throttle is not None and not self._throttle.try_take_token():
            began_at = anyio.current_time()
            with anyio.CancelScope() as self._throttle_wait:
                await self._throttle.take_token()
            self._meter.held_back(anyio.current_time() - began_at)
        return not self._is_shut

    async def _wait(self, limit_s: float | None) -> None:
        self._measure(anyio.current_time())
        await self._changed.wait(limit_s)

    def _measure(self, now: float) -> None:
        self._meter.changed(now, live=self.live, known_limit=self._capacity.known_limit, starters=self._starters)
