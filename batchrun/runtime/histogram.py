"""A histogram with fixed buckets, cheap enough to be kept always."""

import math
from bisect import bisect_left
from itertools import accumulate

#: Bucket bounds in seconds, from a commit on a fast disk (1 ms) to a poll that the server holds open (60 s).
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
#: Bucket bounds in seconds, 5 % apart, from 0.1 ms to almost eight hours: for quantiles.
FINE_SECONDS = tuple(1e-4 * 1.05**n for n in range(400))
#: Bucket bounds for numbers of things.
COUNTS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class Histogram:
    """Counts of values by bucket, and their sum.

    Args:
        bounds: largest value of each bucket, ascending; a last bucket takes all larger ones.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def note(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def quantile(self, fraction: float) -> float | None:
        """Return the bound of the bucket that a quantile lies in, at most the largest bound; None without values."""
        total = sum(self.counts)
        if not total:
            return None
        rank = math.ceil(fraction * total)
        bucket = next(n for n, count in enumerate(accumulate(self.counts)) if count >= rank)
        return self.bounds[min(bucket, len(self.bounds) - 1)]
