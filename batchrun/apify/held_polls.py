"""How long the way to the platform lets a poll be held open: some gateways cut requests that wait for their answer."""

from batchrun.apify.wire import MAX_WAIT_FOR_FINISH_S

#: A poll that fails sooner than this, in seconds, was not cut for its length.
MIN_HELD_S = 2.0


class HeldPolls:
    """Adapts the wait of polls: shorter than what was cut, and twice as long again once polls last."""

    def __init__(self) -> None:
        self._max_s = MAX_WAIT_FOR_FINISH_S

    def wait_s(self, wanted_s: int) -> int:
        """Return how long the next poll is to be held, in whole seconds, at most `wanted_s`."""
        return min(wanted_s, self._max_s)

    def cut(self, after_s: float) -> None:
        """Note that a poll failed after this time."""
        if after_s >= MIN_HELD_S:
            self._max_s = max(1, min(self._max_s, int(after_s) - 1))

    def lasted(self, wait_s: int) -> None:
        """Note that a poll was answered that was to be held for this time."""
        if wait_s == self._max_s < MAX_WAIT_FOR_FINISH_S:
            self._max_s = min(MAX_WAIT_FOR_FINISH_S, 2 * self._max_s)
