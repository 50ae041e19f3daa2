"""What the account takes, as all start gates of this process learn it: its limit, its refusals, our live Runs."""

from collections.abc import Callable
from typing import Protocol

import anyio

from batchrun.engine.limits.account_pool import AccountPool
from batchrun.policy.capacity import Capacity

#: Runs that may be live at first, where the account does not say its limit.
FIRST_SLOTS = 2
#: Runs that may be live at most, where the account never says its limit: the largest limit that is documented. A user
#: who has more asks for a number.
MAX_GROWN_SLOTS = 256


class WaitingGate(Protocol):
    """A gate whose next start may wait for capacity."""

    #: Returns its batch's rank in the account; the smallest is next.
    rank: Callable[[], tuple[float, ...]]

    def wake(self) -> None:
        """Let the next start look again."""


class AccountCapacity:
    """How many Runs of ours the account takes, for the gates of all batches in it.

    Where the account does not say its limit, and no number was asked for, the pool grows with each start that is taken:
    to twice the live Runs until the first refusal, and then by one whenever every permit holds a live Run. The gates
    hold what was found, and send a single probe now and then.

    Args:
        pool: resized as the limit becomes known.
        wanted: Runs that were asked for; None: as many as the account has.
    """

    def __init__(self, pool: AccountPool, wanted: int | None = None) -> None:
        self.capacity = Capacity()
        #: Runs of ours that are live, or being started.
        self.live = 0
        self._pool = pool
        self._wanted = wanted
        self._is_unknown = wanted is None
        self._gates: list[WaitingGate] = []

    def join(self, gate: WaitingGate) -> None:
        """Wake a gate whenever capacity may have come free."""
        self._gates.append(gate)

    def leave(self, gate: WaitingGate) -> None:
        """Wake a gate no more."""
        self._gates.remove(gate)

    def wake(self) -> None:
        """Let all gates look again, in the order of their rank."""
        gates = self._gates if len(self._gates) == 1 else sorted(self._gates, key=lambda gate: gate.rank())
        for gate in gates:
            gate.wake()

    def want(self, wanted: int | None) -> None:
        """Ask for another number of Runs; it counts from the next `set_limit` on."""
        self._wanted = wanted

    def set_limit(self, count: int | None) -> None:
        """Take over how many Runs of ours the account allows; None where it does not say."""
        self._is_unknown = count is None and self._wanted is None
        before, self.capacity.allowed = self.capacity.allowed, count
        if count is not None and (before is None or count > before):
            # Others have left: what was refused before may be taken now.
            self.capacity.may_have_grown(anyio.current_time())
        known = [each for each in (count, self._wanted) if each is not None]
        if known:
            self._pool.resize(min(known))
        self.wake()

    def took_start(self) -> None:
        """Note that the platform took a start."""
        if self._is_unknown:
            was_refused = self.capacity.known_limit < float("inf")
            limit = min(MAX_GROWN_SLOTS, self.live + 1 if was_refused else 2 * self.live)
            if limit > self._pool.limit:
                self._pool.resize(limit)
        self.wake()
