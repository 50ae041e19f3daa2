"""A sum of money: its limit, what is spent, what is reserved, what is free; of one batch, or shared by several.

Money is reserved before a start, and given back when the Run's cost is final. `engine/limits/cost_reservations.py` does
both; how much is reserved follows from `policy/run_cost.py`.

A reservation is the most that a Run may cost. So all reservations and all final costs together never exceed the budget.
A Run whose cost stays unknown keeps its reservation: null is never 0.

No option limits what a Run uses of storages and transfer. What Runs are expected to use of them counts besides, and
bounds how many Runs of unknown cost may be open: `ExcessCosts`.
"""

from collections.abc import Callable
from typing import ClassVar

from batchrun.runtime.fast_dataclasses import dataclass

#: US dollars by which a sum may exceed a budget: sums of many small amounts are a little off.
_ROUNDING_USD = 1e-8


def is_larger(budget_usd: float | None, before_usd: float | None) -> bool:
    """Return whether a budget allows more than before; None: unlimited."""
    return before_usd is not None and (budget_usd is None or budget_usd > before_usd)


class Budget:
    """A batch's money: its limit, final costs, and the reservations of Runs whose cost is not final.

    `shared` is a budget of several batches, which must cover each reservation too. It counts the two amounts already.
    """

    def __init__(
        self,
        limit_usd: float | None,
        *,
        spent_usd: float = 0.0,
        reserved_usd: float = 0.0,
        shared: "Budget | None" = None,
    ) -> None:
        self.limit_usd = limit_usd
        self.spent_usd = spent_usd
        self.reserved_usd = reserved_usd
        #: What Runs whose cost is not final are expected to cost beyond their reservations.
        self.expected_usd = 0.0
        #: What may be used of it here now, where others have a share of it; None: all.
        self.share_usd: float | None = None
        #: What others have spent of it: it is gone.
        self.gone_usd = 0.0
        #: The largest amount that was not free since `take_lack`.
        self._lacked_usd = 0.0
        self._shared = shared
        self._listeners: list[Callable[[], None]] = []
        if shared is not None:
            shared.subscribe(self.notify)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call the listener whenever money has become free, here or in the shared budget."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        """Call the listener no more."""
        self._listeners.remove(listener)

    def notify(self) -> None:
        """Call all listeners: money has become free."""
        for listener in self._listeners:
            listener()

    @property
    def is_limited(self) -> bool:
        """True if there is a limit, here or in the shared budget."""
        return self.limit_usd is not None or (self._shared is not None and self._shared.is_limited)

    def has(self, usd: float) -> bool:
        """True if this amount is free now."""
        if self._shared is not None and not self._shared.has(usd):
            return False
        used_usd = self.used_usd + usd
        is_free = self._fits(used_usd) and (self.share_usd is None or used_usd <= self.share_usd + _ROUNDING_USD)
        if not is_free:
            self._lacked_usd = max(self._lacked_usd, usd)
        return is_free

    @property
    def used_usd(self) -> float:
        """What is spent, reserved or expected beyond that."""
        return self.spent_usd + self.reserved_usd + self.expected_usd

    def take_lack(self) -> float:
        """Return the largest amount that was asked for and was not free since the last call; 0.0: all were."""
        lacked_usd, self._lacked_usd = self._lacked_usd, 0.0
        return lacked_usd

    def can_ever_have(self, usd: float) -> bool:
        """True if this amount would be free once all reservations were given back."""
        if self._shared is not None and not self._shared.can_ever_have(usd):
            return False
        return self._fits(self.spent_usd + self.gone_usd + usd)

    def expect(self, usd: float) -> None:
        """Replace what is expected beyond the reservations."""
        added_usd = usd - self.expected_usd
        self.expected_usd = usd
        if self._shared is not None:
            self._shared.expect(self._shared.expected_usd + added_usd)
        if added_usd < 0:
            self.notify()

    def reserve(self, usd: float) -> None:
        """Reserve the most that a Run may cost."""
        self.reserved_usd += usd
        if self._shared is not None:
            self._shared.reserve(usd)

    def release(self, usd: float) -> None:
        """Give back the reservation of a Run that was not started."""
        self.reserved_usd -= usd
        if self._shared is not None:
            self._shared.release(usd)
        self.notify()

    def settle(self, reserved_usd: float, cost_usd: float | None) -> None:
        """Replace a Run's reservation by its final cost; None, an unknown cost, counts the reservation as spent."""
        self.reserved_usd -= reserved_usd
        self.spent_usd += reserved_usd if cost_usd is None else cost_usd
        if self._shared is not None:
            self._shared.settle(reserved_usd, cost_usd)
        self.notify()

    def leave(self, *, spent_usd: float, reserved_usd: float) -> None:
        """Stop sharing; these two amounts are what the shared budget counts of this one from now on."""
        if self._shared is not None:
            self._shared.spent_usd += spent_usd - self.spent_usd
            self._shared.reserved_usd += reserved_usd - self.reserved_usd
            self._shared.expected_usd -= self.expected_usd
            self._shared.unsubscribe(self.notify)
            self._shared.notify()

    def _fits(self, usd: float) -> bool:
        return self.limit_usd is None or usd <= self.limit_usd + _ROUNDING_USD


@dataclass(slots=True)
class ExcessCosts:
    """What Runs have cost beyond the most that their options allow: their use of storages and transfer.

    Each open Run, one whose cost is not final, is expected to use as much as the one that used most. The fewer costs
    are known, the fewer Runs may be open: of k known costs and n open Runs, n/(k + 1) cost more than the highest of
    the k on average, whatever the costs are, if the jobs come in no order.
    """

    #: Open Runs that are allowed before any cost is known, and in addition for each known cost.
    OPEN_BEFORE_ANY: ClassVar[int] = 3
    OPEN_PER_KNOWN: ClassVar[int] = 3

    #: Number of known costs.
    known: int = 0
    #: Of a single Run, in US dollars.
    most_usd: float = 0.0
    open_runs: int = 0

    @property
    def expected_usd(self) -> float:
        """The excess of all open Runs together."""
        return max(0, self.open_runs) * self.most_usd

    @property
    def max_open_runs(self) -> int:
        """How many Runs may be open."""
        return self.OPEN_BEFORE_ANY + self.OPEN_PER_KNOWN * self.known
