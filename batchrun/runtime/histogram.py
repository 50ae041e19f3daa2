"""How often which size was seen: counts between fixed bounds, so cheap that they are kept even if nobody asks."""

from bisect import bisect_left

#: Bounds in seconds, from a commit on a quick disk to a poll that is held open.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Bounds of numbers of things.
COUNTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class Histogram:
    """Counts of sizes, and their sum.

    Args:
        bounds: largest size of each count, ascending; what is larger than all has a count of its own.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, size: float) -> None:
        """Count one more."""
        self.counts[bisect_left(self.bounds, size)] += 1
        self.sum += size
