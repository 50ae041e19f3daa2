"""How long a batch takes and what it costs, estimated from earlier Runs.

The total of a batch is a sum of draws, so its median is the number of Runs times their *mean*. The costs of Runs are
skewed: the number of Runs times their median would be far too low. The standard deviation of the total has two parts,
the variation between the Runs and the uncertainty of a mean of few samples: s * sqrt(n + n²/k) for n Runs and k samples
(the predictive distribution of a sum, taken as normal).
"""

import math
from collections.abc import Sequence

from batchrun.runtime.fast_dataclasses import dataclass

#: The 90th percentile of the standard normal distribution.
_Z_90 = 1.2816


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """An unknown quantity: its median and its 90th percentile."""

    p50: float
    p90: float


def quantile(values: Sequence[float], fraction: float) -> float:
    """Return the value below which this fraction of the values (at least one) lies, interpolated between neighbours."""
    ordered = sorted(values)
    at = fraction * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def one_run(values: Sequence[float]) -> Estimate:
    """Return the estimate for a single Run from samples (at least one)."""
    return Estimate(p50=quantile(values, 0.5), p90=quantile(values, 0.9))


def total(runs: int, samples: Sequence[float]) -> Estimate:
    """Return the estimate for the sum over this number of Runs from samples (at least one)."""
    mean = math.fsum(samples) / len(samples)
    squares = math.fsum((value - mean) ** 2 for value in samples)
    deviation = math.sqrt(squares / (len(samples) - 1)) if len(samples) > 1 else 0.0
    middle = runs * mean
    return Estimate(p50=middle, p90=middle + _Z_90 * deviation * math.sqrt(runs + runs**2 / len(samples)))


def elapsed(runs: int, durations_s: Sequence[float], *, slots: int, start_rate_per_s: float) -> Estimate:
    """Return the estimated seconds from the first start to the last end.

    The scarcer of starts and slots decides. At the end some slots are idle until the last Run has ended (Graham's bound
    for list scheduling: work / slots + (1 - 1/slots) * the last one).
    There is at least one sample of how long a Run takes, and at least one slot.
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
    """Return how many Runs of a size fit into this memory at once, at least one."""
    return max(1, int(total_mb // run_mb)) if run_mb > 0 else 1
