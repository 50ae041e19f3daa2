"""How long a condition has lasted, for those who look at it now and then."""

import anyio


class ConditionAge:
    """One condition; it begins when it is seen first."""

    def __init__(self) -> None:
        #: On the loop's clock; None: the condition does not hold.
        self._since: float | None = None

    def look(self, *, holds: bool) -> float:
        """Return the seconds since the condition began to hold without a break; 0 if it does not hold."""
        now = anyio.current_time()
        if not holds:
            self._since = None
        elif self._since is None:
            self._since = now
        return 0.0 if self._since is None else now - self._since
