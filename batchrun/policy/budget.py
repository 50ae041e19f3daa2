"""A sum of money: its limit, what is spent, what is reserved, what is free; of one batch, or shared by several.

Money is reserved before a start, and given back when the Run's cost is final. `engine/limits/cost_reservations.py` does
both; how much is reserved follows from `policy/run_cost.py`.

A reservation is the most that a Run may cost. So all reservations and all final costs together never exceed the budget.
A Run whose cost stays unknown keeps its reservation: null is never 0.

No option limits what a Run uses of storages and transfer. What Runs are expected to use of them counts besides; see
`ExcessCosts` in `run_cost.py`.
"""

from collections.abc import Callable

#: US dollars by which a sum may exceed a budget: sums of many small amounts are a little off.
_ROUNDING_USD = 1e-8


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
        #: What other workers hold of the same money: it is not free here now.
        self.withheld_usd = 0.0
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
        is_free = self._fits(self.used_usd + self.withheld_usd + usd)
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
