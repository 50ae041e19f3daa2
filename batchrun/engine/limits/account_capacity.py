"""What an account takes, as all gates of this process learn it together: its live Runs and its refusals."""

from collections.abc import Callable
from typing import Protocol

import anyio

from batchrun.policy.capacity import Capacity


class Waiting(Protocol):
    """A gate with a start that may wait for room."""

    @property
    def rank(self) -> tuple[float, ...]:
        """Where it stands among those who wait, the least first."""

    def wake(self) -> None:
        """Let whoever waits look again."""


class Room:
    """The room for live Runs in one account, for the gates of all batches that start Runs in it."""

    def __init__(self) -> None:
        self.capacity = Capacity()
        #: Runs of ours that are live, or being started.
        self.live = 0
        #: Called when the platform has taken a start.
        self.on_taken: Callable[[], None] = lambda: None
        self._gates: list[Waiting] = []

    def join(self, gate: Waiting) -> None:
        """Wake a gate whenever room may have come free."""
        self._gates.append(gate)

    def leave(self, gate: Waiting) -> None:
        """Wake a gate no more."""
        self._gates.remove(gate)

    def wake(self) -> None:
        """Let all gates look again; who is woken first starts first."""
        gates = self._gates if len(self._gates) == 1 else sorted(self._gates, key=lambda gate: gate.rank)
        for gate in gates:
            gate.wake()

    def allow(self, count: int | None) -> None:
        """Let no more Runs of ours be live than the account has for us; None is no limit."""
        before, self.capacity.allowed = self.capacity.allowed, count
        if count is not None and (before is None or count > before):
            # Others have left: what was refused before may be taken now.
            self.capacity.may_have_grown(anyio.current_time())
        self.wake()

    @property
    def was_refused(self) -> bool:
        """Whether the account has ever had no room."""
        return self.capacity.known_limit < float("inf")
