"""How long the way to the platform lets a poll be held open: some gateways cut requests that wait for their answer."""

import structlog

from batchrun.apify.wire import MAX_WAIT_FOR_FINISH_S

#: A poll that fails sooner than this, in seconds, was not cut for its length.
MIN_HELD_S = 2.0
#: Seconds after the end of its wait at which a poll without an answer counts as swallowed on the way.
LATE_S = 10.0
#: Max polls that must last before the next longer one is tried.
MAX_LASTING = 64

_log = structlog.get_logger()


class HeldPolls:
    """Adapts the wait of polls: shorter than what was cut, and twice as long again once polls last.

    Each cut doubles the number of polls that must last before: a longer one may be lost again.
    """

    def __init__(self) -> None:
        self._max_s = MAX_WAIT_FOR_FINISH_S
        #: Polls of the longest wait that have lasted in a row, and how many of them it takes.
        self._lasting = 0
        self._wanted = 1

    def wait_s(self, wanted_s: int) -> int:
        """Return how long the next poll is to be held, in whole seconds, at most `wanted_s`."""
        return min(wanted_s, self._max_s)

    def cut(self, wait_s: int, after_s: float) -> None:
        """Note that a poll that was to be held for `wait_s` failed after `after_s`."""
        if after_s < MIN_HELD_S:
            return
        # Without an answer even when its wait was over, it was swallowed: when, nothing shows.
        max_s = max(1, wait_s // 2 if after_s > wait_s else int(after_s) - 1)
        if max_s < self._max_s:
            self._max_s, self._lasting, self._wanted = max_s, 0, min(MAX_LASTING, 2 * self._wanted)
            _log.warning("polls_shortened", wait_s=wait_s, failed_after_s=round(after_s, 1), max_wait_s=max_s)

    def lasted(self, wait_s: int) -> None:
        """Note that a poll was answered that was to be held for this time."""
        if wait_s != self._max_s or wait_s >= MAX_WAIT_FOR_FINISH_S:
            return
        self._lasting += 1
        if self._lasting >= self._wanted:
            self._max_s, self._lasting = min(MAX_WAIT_FOR_FINISH_S, 2 * self._max_s), 0
