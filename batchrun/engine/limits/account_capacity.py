"""One account's capacity, shared by the start gates of all its batches: counts live Runs, sizes the pool, wakes gates.

Whether a start is sent to an account that may be full is decided in `policy/full_account.py`. Memory and live Runs are
divided among the batches in `account_pool.py`.
"""

import math
from collections.abc import Callable
from typing import Protocol

import anyio

from batchrun.engine.limits.account_pool import AccountPool
from batchrun.policy.full_account import Capacity

#: Max live Runs at first, if the account does not report its limit.
FIRST_SLOTS = 2
#: Max live Runs if the account never reports its limit. Source: the platform's limits page, Business plan; a user who
#: has more sets a number.
MAX_GROWN_SLOTS = 256


class WaitingGate(Protocol):
    """A gate whose next start may wait for capacity."""

    @property
    def rank(self) -> Callable[[], tuple[float, ...]]:
        """Returns its batch's rank in the account; the smallest is next."""

    def wake(self) -> None:
        """Let the next start ask again."""


class AccountCapacity:
    """How many Runs of ours the account takes, for the start gates of all its batches.

    If the account does not report its limit and no number is configured, the pool grows with each accepted start: to
    twice the live Runs before the first refusal, to one more than the live Runs after it. In a full account the gates
    send one probe at a time.

    Args:
        pool: resized when the limit is known or found.
        wanted: the configured number of Runs; None: as many as the account allows.
    """

    def __init__(self, pool: AccountPool, wanted: int | None = None) -> None:
        self.capacity = Capacity()
        #: Runs of ours that are live, or being started.
        self.live = 0
        self._pool = pool
        self._wanted = wanted
        self._is_unknown = wanted is None
        self._gates: list[WaitingGate] = []
        #: Why no start is sent, whatever the account takes; empty: starts are sent.
        self.held_for = ""

    def join(self, gate: WaitingGate) -> None:
        """Add a gate to wake whenever capacity may have come free."""
        self._gates.append(gate)

    def leave(self, gate: WaitingGate) -> None:
        """Stop waking a gate."""
        self._gates.remove(gate)

    def wake(self) -> None:
        """Let all gates ask again, in the order of their rank."""
        gates = self._gates if len(self._gates) == 1 else sorted(self._gates, key=lambda gate: gate.rank())
        for gate in gates:
            gate.wake()

    def hold(self, reason: str) -> None:
        """Send no start for this reason; an empty one lets starts go on."""
        self.held_for = reason
        self.wake()

    def next_start_at(self, now: float) -> float | None:
        """Return when the next start may be sent (monotonic); None: not before something changes."""
        return None if self.held_for else self.capacity.next_start_at(now, self.live)

    def want(self, wanted: int | None) -> None:
        """Change the configured number of Runs; the next `set_limit` applies it."""
        self._wanted = wanted

    def set_limit(self, count: int | None) -> None:
        """Apply how many Runs of ours the account allows; None: it does not report its limit."""
        self._is_unknown = count is None and self._wanted is None
        before, self.capacity.allowed = self.capacity.allowed, count
        if count is not None and (before is None or count > before):
            # Other users' Runs have ended: a start that was refused before may be accepted now.
            self.capacity.may_have_grown(anyio.current_time())
        known = [each for each in (count, self._wanted) if each is not None]
        if known:
            self._pool.resize(min(known))
        self.wake()

    def accepted_start(self) -> None:
        """Note that the platform accepted a start."""
        if self._is_unknown:
            was_refused = self.capacity.known_limit < math.inf
            limit = min(MAX_GROWN_SLOTS, self.live + 1 if was_refused else 2 * self.live)
            if limit > self._pool.limit:
                self._pool.resize(limit)
        self.wake()
