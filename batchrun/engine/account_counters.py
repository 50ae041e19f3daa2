"""Measures and counters of all batches in an account together, since this process began."""

from batchrun.engine.progress import Progress
from batchrun.ledger.commit_meter import CommitMeter
from batchrun.runtime.histogram import SECONDS, Histogram


class AccountCounters:
    """Measures that never decrease; they outlast each batch."""

    def __init__(self) -> None:
        #: Seconds from the end of a Run to the start request that fills its slot.
        self.refills = Histogram(SECONDS)
        self.commits = CommitMeter()
        #: Seconds for which a rate (the task's, the account's, the batch's) has held back the next start of a batch.
        self.token_wait_s = 0.0
        self._open: list[Progress] = []
        self._closed = Progress()

    def open(self, progress: Progress) -> None:
        """Add the counters of a batch that is opened."""
        self._open.append(progress)

    def close(self, progress: Progress) -> None:
        """Keep the last counters of a batch that is closed."""
        self._open = [each for each in self._open if each is not progress]
        self._closed.add(progress)

    def total(self) -> Progress:
        """Return the sum of the counters of all batches."""
        total = Progress()
        for progress in (self._closed, *self._open):
            total.add(progress)
        return total
