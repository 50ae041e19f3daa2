"""The gate every start passes: one's turn comes when rate, capacity and the platform allow it."""

import random

import anyio
import structlog

from batchrun.policy.capacity import Capacity
from batchrun.policy.retry import Backoff
from batchrun.policy.token_bucket import TokenBucket

#: Waits after a 429 without `Retry-After`, and while the platform cannot be reached.
CLOSING_BACKOFF = Backoff(first_s=0.5, max_s=30.0)

_log = structlog.get_logger()


class Turn:
    """One start that was let through; it is told how the start went, and when its Run is live no more."""

    __slots__ = ("_gate", "_is_probe")

    def __init__(self, gate: "StartGate", *, is_probe: bool) -> None:
        self._gate: StartGate | None = gate
        self._is_probe = is_probe

    def started(self) -> None:
        """Tell that a Run was started; it counts as live until `over`."""
        if self._gate is not None:
            self._gate.took_a_start(is_probe=self._forget_probe())

    def unanswered(self) -> None:
        """Tell that no answer came; a Run may live, and counts as live until `over`."""
        if self._gate is not None:
            self._gate.learned_nothing(is_probe=self._forget_probe())

    def account_is_full(self) -> None:
        """Tell that the account has no room now; nothing was started."""
        if self._gate is not None:
            self._gate.refuse(is_probe=self._forget_probe())
        self.over()

    def not_now(self, retry_after_s: float | None = None) -> None:
        """Tell that nothing can be started for a while (429, or no connection); nothing was started."""
        if self._gate is not None:
            self._gate.close(retry_after_s)
        self.over()

    def over(self) -> None:
        """Tell that no Run of this turn is live; may be said more than once."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.learned_nothing(is_probe=self._forget_probe())
            gate.leave()

    def _forget_probe(self) -> bool:
        """Return whether this is a probe that has not been told of: its end says nothing of a later one."""
        is_probe, self._is_probe = self._is_probe, False
        return is_probe


class StartGate:
    """Rate, learned capacity and closures put into time, for all who start Runs in one account."""

    def __init__(self, bucket: TokenBucket) -> None:
        self._bucket = bucket
        self._capacity = Capacity()
        self._queue = anyio.Lock()
        self._changed = anyio.Event()
        self._is_shut = False
        self._closings = 0
        #: Runs of ours that are live, or being started.
        self.live = 0

    async def turn(self) -> Turn | None:
        """Wait for one's turn to start, first come, first served; None when no more starts are wanted.

        Cancelled, it leaves nothing behind but a used token.
        """
        async with self._queue:
            if not (await self._has_room() and await self._has_token()):
                return None
            is_probe = self._capacity.starting(self.live)
            self.live += 1
            return Turn(self, is_probe=is_probe)

    def adopt(self) -> Turn:
        """Count a Run as live that was started earlier, or may have been."""
        self.live += 1
        return Turn(self, is_probe=False)

    def shut(self) -> None:
        """Let no more starts through, for good."""
        self._is_shut = True
        self._wake()

    async def _has_room(self) -> bool:
        while not self._is_shut:
            now = anyio.current_time()
            at = self._capacity.next_start_at(now, self.live)
            if at is not None and at <= now:
                return True
            await self._wait(None if at is None else at - now)
        return False

    async def _has_token(self) -> bool:
        while not self._is_shut:
            now = anyio.current_time()
            at = self._bucket.reserve(now)[0]
            while (now := anyio.current_time()) < at and not self._is_shut:
                await self._wait(at - now)
            if now >= self._bucket.closed_until:
                return not self._is_shut
        return False

    async def _wait(self, limit_s: float | None) -> None:
        with anyio.move_on_after(limit_s):
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def took_a_start(self, *, is_probe: bool) -> None:
        """Note that the platform took a start."""
        self._closings = 0
        self._capacity.started(self.live, is_probe=is_probe)
        self._wake()

    def learned_nothing(self, *, is_probe: bool) -> None:
        """Note that a start told nothing about the account."""
        if is_probe:
            self._capacity.unanswered(is_probe=is_probe)
            self._wake()

    def refuse(self, *, is_probe: bool) -> None:
        """Note that the account has no room for one more Run."""
        live = self.live - 1
        _log.debug("start_refused", live=live)
        self._capacity.refused(anyio.current_time(), live, is_probe=is_probe, uniform=random.random())  # noqa: S311 - spread

    def close(self, retry_after_s: float | None) -> None:
        """Let nothing through for a while: as long as the platform says, or longer each time in a row."""
        now = anyio.current_time()
        if now < self._bucket.closed_until:
            return  # sent before the gate closed: the same refusal, not a further one
        self._closings += 1
        wait_s = CLOSING_BACKOFF.wait_s(self._closings, random.random())  # noqa: S311 - spread
        self._bucket.close(now + (wait_s if retry_after_s is None else retry_after_s))

    def leave(self) -> None:
        """Note that a Run of ours is live no more: at once somebody else's turn may have come."""
        self.live -= 1
        self._wake()
