"""Measures of a ledger's commits."""

from batchrun.runtime.histogram import COUNTS, SECONDS, Histogram


class CommitMeter:
    """The durations of commits, in seconds, and the numbers of their steps."""

    def __init__(self) -> None:
        self.latency = Histogram(SECONDS)
        self.steps = Histogram(COUNTS)

    def note(self, took_s: float, steps: int) -> None:
        """Count one more commit."""
        self.latency.note(took_s)
        self.steps.note(steps)
