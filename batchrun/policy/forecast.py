"""How long a batch takes and what it costs, going by Runs that were; sums of many Runs, not one Run times many.

A batch's total is a sum of draws, so its middle is the number of Runs times their *mean*: with costs as skewed as
those of Runs, so many times the median would promise far too little. How far the total may lie above it comes from
two doubts, how the Runs of the batch will vary and how well few samples tell the mean: s * sqrt(n + n²/k) for n Runs
and k samples (the predictive distribution of a sum, taken as normal).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Standard deviations above the middle below which a normal quantity stays in 9 of 10 cases.
_Z_90 = 1.2816


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A quantity that is not known: as likely above as below `p50`, and in 9 of 10 cases not above `p90`."""

    p50: float
    p90: float


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values (at least one) lies, interpolated between neighbours."""
    ordered = sorted(values)
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def one_run(values: Sequence[float]) -> Estimate:
    """Return how a single Run lies, going by the samples (at least one)."""
    return Estimate(p50=quantile(values, 0.5), p90=quantile(values, 0.9))


def total(runs: int, samples: Sequence[float]) -> Estimate:
    """Return what so many Runs come to together, going by the samples (at least one)."""
    mean = math.fsum(samples) / len(samples)
    squares = math.fsum((value - mean) ** 2 for value in samples)
    deviation = math.sqrt(squares / (len(samples) - 1)) if len(samples) > 1 else 0.0
    middle = runs * mean
    return Estimate(p50=middle, p90=middle + _Z_90 * deviation * math.sqrt(runs + runs**2 / len(samples)))


def elapsed(runs: int, durations_s: Sequence[float], *, slots: int, start_rate_per_s: float) -> Estimate:
    """Return the seconds from the first start to the last end.

    Whatever is scarcer decides: starts, or slots. At the end some slots wait for the last Run (Graham's bound for
    list scheduling: work / slots + (1 - 1/slots) * the last one).

    Args:
        runs: how many are started; 0 takes no time.
        durations_s: samples of how long a Run takes, at least one.
        slots: Runs that are live at once, at least 1.
        start_rate_per_s: starts per second.
    """
    used = max(1, min(slots, runs))
    work, last = total(runs, durations_s), one_run(durations_s)
    starting_s = runs / start_rate_per_s
    idle = (1 - 1 / used) if runs else 0.0
    return Estimate(
        p50=max(starting_s, work.p50 / used) + idle * last.p50,
        p90=max(starting_s, work.p90 / used) + idle * last.p90,
    )


def memory_slots(total_mb: int, run_mb: float) -> int:
    """Return how many Runs of a size fit into a memory at once; one at least, or nothing would ever be done."""
    return max(1, int(total_mb // run_mb)) if run_mb > 0 else 1
