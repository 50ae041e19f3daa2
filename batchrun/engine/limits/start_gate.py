"""The gate that every start passes. It waits for the moment at which rates, capacity and platform all allow a start."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import anyio
import structlog

from batchrun.apify.throttle import Throttle, rate_limit_wait_s
from batchrun.engine.limits.account_capacity import AccountCapacity
from batchrun.engine.limits.slot_use import SlotMeter
from batchrun.model import WaitKind, WaitReason
from batchrun.policy.token_bucket import Contenders, Tokens
from batchrun.runtime.change_signal import ChangeSignal
from batchrun.runtime.steady_time import loop_clock

#: Starts that wait at the gate, each with a permit: at most as many as the rate lets through in this time, in seconds,
CROWD_S = 0.1
#: and at most this many.
MAX_CROWD = 256

_log = structlog.get_logger()


@dataclass(slots=True, kw_only=True, eq=False)
class Start:
    """One start that was let through, until it has failed or its Run is terminal."""

    #: Runs of ours in the account that were live or being started when it was let through, this one included.
    nth_live: int
    #: Whether its answer shows if a full account has capacity again; False once the answer is noted.
    is_probe: bool = False
    #: Whether its Run is live, or may be.
    is_live: bool = False
    #: Whether it is unknown if its Run exists.
    is_in_doubt: bool = False
    #: Whether it has failed, or its Run is terminal.
    is_over: bool = False
    #: On the monotonic clock.
    let_through_at: float = 0.0
    #: When the slot that it fills came free (monotonic); None for a new slot, and once the request is sent.
    freed_at: float | None = None

    def take_probe(self) -> bool:
        """Return whether this is a probe whose answer is not noted yet; from now on it is noted."""
        is_probe, self.is_probe = self.is_probe, False
        return is_probe


class StartGate:
    """Lets the starts of one batch through, one at a time, when rates, capacity and closures allow it.

    Args:
        bucket: the rate of starts.
        account: how many Runs the account takes, shared with the gates of its other batches.
        changed: notified when a start no longer waits here.
        meter: measures how slots are used.
        contenders: the gates that start Runs of the same task.
        rank: returns the batch's rank in the account; the smallest is next.
        throttle: the rate of all requests, which starts count against too; None: unlimited.
    """

    def __init__(
        self,
        bucket: Tokens,
        account: AccountCapacity,
        changed: ChangeSignal,
        meter: SlotMeter,
        contenders: Contenders,
        *,
        rank: Callable[[], tuple[float, ...]],
        throttle: Throttle | None = None,
    ) -> None:
        self.rank = rank
        self._now = loop_clock()
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
        self._on_leaving = changed
        self._contenders = contenders
        self._queue = anyio.Lock(fast_acquire=True)
        self._changed = ChangeSignal()
        self._is_shut = self._is_held = False
        #: Notified when a start has been answered.
        self._answers = ChangeSignal()
        self._closings = 0
        #: Why a start was refused last; empty once one is accepted.
        self._closed_for = ""
        #: Starts that were let through and have no answer yet.
        self._unanswered = 0
        #: Starts in doubt, which count as live.
        self._in_doubt = 0

    async def next_start(self) -> Start | None:
        """Wait, first come, first served, until one start is allowed; None once no more starts are wanted.

        The start is to be sent at once: after this, only the commit of its intent stands before the request. If the
        wait is cancelled, nothing is left behind.
        """
        now = self._now()
        if self._take_at_once(now):
            return self._let_through(now)
        self._starters += 1
        try:
            async with self._queue:
                allowed_at = await self._may_start()
        finally:
            self._starters -= 1
            self._on_leaving.notify()
        return None if allowed_at is None else self._let_through(allowed_at)

    def _take_at_once(self, now: float) -> bool:
        """Take the tokens of a start if it need not wait, neither for a limit nor for one that came before it."""
        if self._is_shut or self._is_held or self._queue.locked() or self._contenders.delay_s(self):
            return False
        if not self._is_below_capacity(now) or self._bucket.next_at(now) > now:
            return False
        if self._throttle is not None and not self._throttle.try_take_token():
            return False
        self._take_token(now)
        return True

    def _take_token(self, at: float) -> None:
        self._bucket.take(at)
        self._contenders.took(self)

    async def _may_start(self) -> float | None:
        """Wait until all limits allow one start at the same moment, and return that moment; None once the gate is shut.

        After each wait all limits are checked again. If the account has refused a start meanwhile, this one waits for
        the next probe.
        """
        while await self._has_capacity():
            at = await self._token_time()
            if at is None or not await self._has_request_token():
                return None
            now = self._now()
            # Another start may have taken this token, or closed the bucket, meanwhile.
            if self._bucket.next_at(at) <= now and self._is_below_capacity(now) and not self._is_held:
                self._take_token(at)
                return now
        return None

    async def _has_capacity(self) -> bool:
        while not self._is_shut:
            now = self._now()
            at = None if self._is_held else self._account.next_start_at(now)
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
            began_at = self._now()
            at = self._bucket.next_at(began_at)
            delay_s = self._contenders.delay_s(self)
            while (now := self._now()) < at + delay_s and not self._is_shut:
                await self._wait(at + delay_s - now)
                at = min(at, self._bucket.next_at(self._now()))  # sooner if the rate was raised
            self._meter.held_back(now - began_at)
            if now >= self._bucket.closed_until:
                return at
        return None

    async def _has_request_token(self) -> bool:
        if self._throttle is not None and not self._throttle.try_take_token():
            began_at = self._now()
            with anyio.CancelScope() as self._throttle_wait:
                await self._throttle.take_token()
            self._meter.held_back(self._now() - began_at)
        return not self._is_shut

    def _is_below_capacity(self, now: float) -> bool:
        at = self._account.next_start_at(now)
        return at is not None and at <= now

    async def _wait(self, limit_s: float | None) -> None:
        self._measure(self._now())
        await self._changed.wait(limit_s)

    def _let_through(self, now: float) -> Start:
        is_probe = self._capacity.starting(self._account.live)
        self._count_live()
        self._unanswered += 1
        freed_at = self._meter.refilling(live=self.live)
        self._measure(now)
        return Start(nth_live=self._account.live, is_probe=is_probe, let_through_at=now, freed_at=freed_at)

    def adopt(self) -> Start:
        """Count a Run as live that an earlier process started, or may have started."""
        self._count_live()
        self._capacity.reached(self._account.live)
        self._measure(self._now())
        return Start(nth_live=self._account.live, is_live=True)

    def _count_live(self) -> None:
        self.live += 1
        self._account.live += 1

    @property
    def is_crowded(self) -> bool:
        """Whether enough starts wait here to keep the rate; one more would only hold a permit idle."""
        return self._starters >= max(1, min(MAX_CROWD, int(self._bucket.rate_per_s * CROWD_S)))

    @property
    def is_limit_known(self) -> bool:
        """Whether the account shows how many Runs it allows."""
        return self._capacity.allowed is not None

    @property
    def rate_per_s(self) -> float:
        """Starts per second, at most."""
        return self._bucket.rate_per_s

    def sending(self, start: Start) -> None:
        """Note that the start request is sent now."""
        if start.freed_at is not None:
            self._meter.sent(self._now() - start.freed_at)
            start.freed_at = None

    def started(self, start: Start) -> None:
        """Note that the platform accepted a start."""
        self._answered(start)
        self._closings, self._closed_for = 0, ""
        self._capacity.reached(start.nth_live)
        self._capacity.started(self._account.live, is_probe=start.take_probe())
        self._account.accepted_start()

    def unanswered(self, start: Start) -> None:
        """Note that no answer to a start comes. A Run may be live; other starts need not wait for the answer."""
        self._answered(start)
        self._capacity.reached(start.nth_live)
        uniform = random.random()  # noqa: S311 - spread
        self._capacity.unanswered(self._now(), is_probe=start.take_probe(), uniform=uniform)
        self._account.wake()

    def had_no_effect(self, start: Start) -> None:
        """Note that no Run is seen behind an unanswered start: another one may be let through in its place."""
        self._capacity.had_no_effect()
        self.over(start)

    def took_effect(self) -> None:
        """Note that the Run of an unanswered start was found."""
        self._capacity.took_effect()
        self._account.wake()

    def _answered(self, start: Start) -> None:
        start.is_live = True
        self._unanswered -= 1
        self._answers.notify()

    def note_doubt(self, start: Start, is_in_doubt: bool) -> None:
        """Note whether a start is in doubt: whether its Run exists. Its slot is held, and not in use."""
        if start.is_in_doubt is not is_in_doubt and not start.is_over:
            start.is_in_doubt = is_in_doubt
            self._in_doubt += 1 if is_in_doubt else -1
            self._measure(self._now())

    def account_is_full(self, start: Start) -> None:
        """Note that the account is full; nothing was started."""
        live = self._account.live - 1
        _log.debug("start_refused", live=live)
        self._capacity.refused(
            self._now(),
            live,
            is_probe=start.take_probe(),
            sent_at=start.let_through_at,
            uniform=random.random(),  # noqa: S311 - spread
        )
        self.over(start)

    def try_later(self, start: Start, retry_after_s: float | None, reason: str = "") -> None:
        """Close the gate for a while; nothing was started. Without `Retry-After`, each closure in a row is longer."""
        now = self._now()
        self._closed_for = reason
        if now >= self._bucket.closed_until:  # else this request was sent before the gate closed
            self._closings += 1
            self._bucket.close(now + rate_limit_wait_s(self._closings, retry_after_s))
        self.over(start)

    def over(self, start: Start) -> None:
        """Note that a start has no live Run any more; the next start may be allowed at once. May be called again."""
        if start.is_over:
            return
        start.is_over = True
        if start.take_probe():
            self._capacity.probe_over()
        self.live -= 1
        self._account.live -= 1
        now = self._now()
        if start.is_in_doubt:
            self._in_doubt -= 1
        if start.is_live:
            self._capacity.ended(now)
        else:  # a refused start frees no permit
            self._unanswered -= 1
            self._answers.notify()
        self._measure(now, has_ended=start.is_live)
        self._account.wake()

    def leave(self) -> None:
        """Leave the account's capacity; Runs that are live go on without this process."""
        self._account.live -= self.live
        self.live = 0
        self._account.leave(self)
        self._contenders.forget(self)
        self._account.wake()

    def hold(self) -> None:
        """Let no more starts through; unlike after `shut`, those that wait here keep waiting."""
        self._is_held = True

    async def until_answered(self) -> None:
        """Return when each start that was let through has its answer, or is in doubt."""
        while self._unanswered:
            await self._answers.wait()

    def shut(self) -> None:
        """Let no more starts through, for good."""
        self._is_shut = True
        self._throttle_wait.cancel()
        self.wake()

    def wake(self) -> None:
        """Let the next start check again what it waits for."""
        self._changed.notify()

    def waits(self) -> Iterator[WaitReason]:
        """Yield what starts wait for here, and how many have no answer."""
        now = self._now()
        if self._unanswered:
            yield WaitReason(kind=WaitKind.STARTING, count=self._unanswered)
        if not self._starters and not self._unanswered:
            return
        if self._account.held_for:
            yield WaitReason(kind=WaitKind.DISK_LOW, detail=self._account.held_for)
            return
        capacity_at = self._account.next_start_at(now)
        if self._closings or self._bucket.closed_until > now:
            closed_s = max(0.0, self._bucket.closed_until - now)
            yield WaitReason(kind=WaitKind.STARTS_REFUSED, left_s=closed_s, detail=self._closed_for)
        elif self._capacity.are_starts_failing and capacity_at is not None:
            without_effect = "the last start requests had no effect"
            yield WaitReason(kind=WaitKind.STARTS_REFUSED, left_s=capacity_at - now, detail=without_effect)
        elif capacity_at == now and self._starters:
            yield WaitReason(kind=WaitKind.RATE, left_s=self._bucket.next_at(now) - now)
        elif capacity_at != now and self._capacity.is_full:
            left_s = None if capacity_at is None else capacity_at - now
            yield WaitReason(kind=WaitKind.FULL_ACCOUNT, count=self._account.live - self._unanswered, left_s=left_s)

    @property
    def live_runs(self) -> int:
        """Runs of this batch that are live for sure."""
        return self.live - self._in_doubt - self._unanswered

    def _measure(self, now: float, *, has_ended: bool = False) -> None:
        self._meter.changed(
            now,
            live=self.live,
            in_doubt=self._in_doubt,
            known_limit=self._capacity.known_limit,
            starters=self._starters,
            has_ended=has_ended,
        )
