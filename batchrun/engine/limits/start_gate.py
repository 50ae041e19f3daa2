"""The gate every start passes: one's turn comes when rate, capacity and the platform allow it."""

import random
from collections.abc import Callable
from copy import copy

import anyio
import structlog

from batchrun.apify.throttle import Throttle
from batchrun.engine.limits.account_capacity import Room
from batchrun.engine.limits.slot_use import SlotMeter
from batchrun.policy.retry import Backoff
from batchrun.policy.token_bucket import Contenders, Tokens

#: Waits after a 429 without `Retry-After`, and while the platform cannot be reached.
CLOSING_BACKOFF = Backoff(first_s=0.5, max_s=30.0)

#: So many starts wait for their rate with a slot and a place in hand: those of this time,
CROWD_S = 0.1
#: and no more than so many.
MAX_CROWD = 256

_log = structlog.get_logger()


class Turn:
    """One start that was let through; it is told how the start went, and when its Run is live no more."""

    __slots__ = ("_began_at", "_freed_at", "_gate", "_is_live", "_is_probe", "_place")

    def __init__(
        self,
        gate: "StartGate",
        *,
        is_probe: bool,
        place: int,
        began_at: float = 0.0,
        is_live: bool = False,
        freed_at: float | None = None,
    ) -> None:
        self._gate: StartGate | None = gate
        self._is_probe = is_probe
        self._place = place
        self._is_live = is_live
        self._began_at = began_at
        self._freed_at = freed_at

    def sending(self) -> None:
        """Tell that the start request is sent now."""
        if self._gate is not None and self._freed_at is not None:
            self._gate.note_refill(self._freed_at)
            self._freed_at = None

    def started(self) -> None:
        """Tell that a Run was started; it counts as live until `over`."""
        if self._gate is not None:
            self._is_live = True
            self._gate.took_a_start(is_probe=self._forget_probe(), place=self._place)

    def unanswered(self) -> None:
        """Tell that no answer came; a Run may live, and counts as live until `over`."""
        if self._gate is not None:
            self._is_live = True
            self._gate.lost_an_answer(is_probe=self._forget_probe(), place=self._place)

    def account_is_full(self) -> None:
        """Tell that the account has no room now; nothing was started."""
        if self._gate is not None:
            self._gate.refuse(is_probe=self._forget_probe(), sent_at=self._began_at)
        self.over()

    def not_now(self, retry_after_s: float | None = None) -> None:
        """Tell that nothing can be started for a while (429, or no connection); nothing was started."""
        if self._gate is not None:
            self._gate.close(retry_after_s)
        self.over()

    def handed_over(self) -> "Turn":
        """Return the same turn for somebody else to end; what is told here from now on counts for nothing."""
        heir = copy(self)
        self._gate = None
        return heir

    def over(self) -> None:
        """Tell that no Run of this turn is live; may be said more than once."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.learned_nothing(is_probe=self._forget_probe())
            gate.leave(is_end=self._is_live)

    def _forget_probe(self) -> bool:
        """Return whether this is a probe that has not been told of: its end says nothing of a later one."""
        is_probe, self._is_probe = self._is_probe, False
        return is_probe


class StartGate:
    """Rate, learned capacity and closures put into time, for all who start Runs of one batch.

    Args:
        bucket: the rate of starts.
        account: the rate of all requests, starts among them; None knows no such limit.
        meter: measures how slots are used; None measures nothing.
        room: what the account takes, shared with the gates of other batches; None: there are no others.
        rank: says where this batch stands among those, the least first.
        contenders: those gates that start Runs of the same task; None: there are no others.
    """

    def __init__(
        self,
        bucket: Tokens,
        account: Throttle | None = None,
        meter: SlotMeter | None = None,
        room: Room | None = None,
        rank: Callable[[], tuple[float, ...]] = tuple,
        contenders: Contenders | None = None,
    ) -> None:
        #: Measures how slots are used; None measures nothing.
        self.meter = meter
        #: Starts that wait for their turn.
        self._starters = 0
        #: Called when one of them waits no more.
        self.on_passed: Callable[[], None] = lambda: None
        self._bucket = bucket
        self._account = account
        self._account_wait = anyio.CancelScope()
        self.room = Room() if room is None else room
        self.room.join(self)
        self._capacity = self.room.capacity
        self._rank = rank
        self._contenders = Contenders() if contenders is None else contenders
        self._queue = anyio.Lock(fast_acquire=True)
        #: Made by who waits, since most changes are waited for by nobody.
        self._changed: anyio.Event | None = None
        self._is_shut = False
        self._closings = 0
        #: Runs of ours that are live, or being started.
        self.live = 0

    async def turn(self) -> Turn | None:
        """Wait for one's turn to start, first come, first served; None when no more starts are wanted.

        A turn is for now: rate, room and the account's rate have been waited for, and nothing need be waited for
        between the note of an intent and its request. Cancelled, it leaves nothing behind.
        """
        self._starters += 1
        try:
            async with self._queue:
                now = await self._may_start()
        finally:
            self._starters -= 1
            self.on_passed()
        return None if now is None else self._begin(now)

    def _begin(self, now: float) -> Turn:
        is_probe = self._capacity.starting(self.room.live)
        self.live += 1
        self.room.live += 1
        freed_at = self.meter.refilling(live=self.live) if self.meter is not None else None
        self._measure(now)
        return Turn(self, is_probe=is_probe, place=self.room.live, began_at=now, freed_at=freed_at)

    @property
    def is_crowded(self) -> bool:
        """Whether enough starts wait here to keep the rate; a place that one more held would be idle."""
        return self._starters >= max(1, min(MAX_CROWD, int(self._bucket.rate_per_s * CROWD_S)))

    def adopt(self) -> Turn:
        """Count a Run as live that was started earlier, or may have been."""
        self.live += 1
        self.room.live += 1
        self._capacity.reached(self.room.live)
        self._measure(anyio.current_time())
        return Turn(self, is_probe=False, place=self.room.live, is_live=True)

    @property
    def rank(self) -> tuple[float, ...]:
        """Where this batch stands among those of the account, the least first."""
        return self._rank()

    def withdraw(self) -> None:
        """Leave the account's room, with the Runs that go on without this process."""
        self.room.live -= self.live
        self.live = 0
        self.room.leave(self)
        self._contenders.forget(self)
        self.room.wake()

    def shut(self) -> None:
        """Let no more starts through, for good."""
        self._is_shut = True
        self._account_wait.cancel()
        self.wake()

    def stay_below(self, limit_per_s: float) -> None:
        """Adapt to a limit of starts that the platform announces."""
        self._bucket.stay_below(limit_per_s)

    async def _may_start(self) -> float | None:
        """Wait until everything allows one start in the same moment, and return it; None when no more are wanted.

        What has changed while something else was waited for is asked again: a refusal that came meanwhile makes this
        start wait for its turn to probe, instead of being one of a herd.
        """
        while await self._has_room():
            at = await self._token_time()
            if at is None or not await self._has_account_token():
                return None
            now = anyio.current_time()
            # Asked for the token's own time: somebody else may have taken it, or closed the bucket, meanwhile.
            if self._bucket.next_at(at) <= now and self._is_room(now):
                self._bucket.take(at)
                self._contenders.took(self)
                return now
        return None

    def _is_room(self, now: float) -> bool:
        at = self._capacity.next_start_at(now, self.room.live)
        return at is not None and at <= now

    async def _has_room(self) -> bool:
        while not self._is_shut:
            now = anyio.current_time()
            at = self._capacity.next_start_at(now, self.room.live)
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
            self._note_held_back(now - began_at)
            if now >= self._bucket.closed_until:
                return at
        return None

    async def _has_account_token(self) -> bool:
        if self._account is not None and not self._account.try_take_token():
            began_at = anyio.current_time()
            with anyio.CancelScope() as self._account_wait:
                await self._account.take_token()
            self._note_held_back(anyio.current_time() - began_at)
        return not self._is_shut

    async def _wait(self, limit_s: float | None) -> None:
        self._measure(anyio.current_time())
        self._changed = self._changed or anyio.Event()
        with anyio.move_on_after(limit_s):
            await self._changed.wait()

    def wake(self) -> None:
        """Let the start whose turn it is look again at what it waits for."""
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def took_a_start(self, *, is_probe: bool, place: int) -> None:
        """Note that the platform took a start, and how many Runs were live or starting with it."""
        self._closings = 0
        self._capacity.reached(place)
        self._capacity.started(self.room.live, is_probe=is_probe)
        self.room.on_taken()
        self.room.wake()

    def lost_an_answer(self, *, is_probe: bool, place: int) -> None:
        """Note that the answer to a start will not come: others need not wait for it."""
        self._capacity.reached(place)
        self._capacity.unanswered(is_probe=is_probe)
        self.room.wake()

    def learned_nothing(self, *, is_probe: bool) -> None:
        """Note that a start told nothing about the account."""
        if is_probe:
            self._capacity.unanswered(is_probe=is_probe)
            self.room.wake()

    def refuse(self, *, is_probe: bool, sent_at: float) -> None:
        """Note that the account has no room for one more Run."""
        live = self.room.live - 1
        _log.debug("start_refused", live=live)
        uniform = random.random()  # noqa: S311 - spread
        self._capacity.refused(anyio.current_time(), live, is_probe=is_probe, sent_at=sent_at, uniform=uniform)

    def close(self, retry_after_s: float | None) -> None:
        """Let nothing through for a while: as long as the platform says, or longer each time in a row."""
        now = anyio.current_time()
        if now < self._bucket.closed_until:
            return  # sent before the gate closed: the same refusal, not a further one
        self._closings += 1
        wait_s = CLOSING_BACKOFF.wait_s(self._closings, random.random())  # noqa: S311 - spread
        self._bucket.close(now + (wait_s if retry_after_s is None else retry_after_s))

    def leave(self, *, is_end: bool) -> None:
        """Note that a Run of ours is live no more: at once somebody else's turn may have come.

        Args:
            is_end: whether it was live, or may have been; a start that was refused frees no slot.
        """
        self.live -= 1
        self.room.live -= 1
        now = anyio.current_time()
        if is_end:
            self._capacity.ended(now)
        if is_end and self.meter is not None:
            self.meter.ended(now, live=self.live, room=self._capacity.known_limit, starters=self._starters)
        self._measure(now)
        self.room.wake()

    def note_refill(self, freed_at: float) -> None:
        """Note that the start request of a slot that became free then is sent."""
        if self.meter is not None:
            self.meter.sent(freed_at)

    def _note_held_back(self, length_s: float) -> None:
        if self.meter is not None:
            self.meter.held_back(length_s)

    def _measure(self, now: float) -> None:
        if self.meter is not None:
            self.meter.changed(now, live=self.live, room=self._capacity.known_limit, starters=self._starters)
