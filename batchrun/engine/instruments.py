"""What the engines of all batches in an account measure together, for whoever looks on; it outlives each batch."""

from batchrun.engine.progress import Progress
from batchrun.ledger.commit_meter import CommitMeter
from batchrun.runtime.histogram import SECONDS, Histogram


class Instruments:
    """Measures since the process began; nothing of it ever grows less."""

    def __init__(self) -> None:
        #: From the end of a Run to the start request that fills its slot.
        self.refills = Histogram(SECONDS)
        self.commits = CommitMeter()
        #: Seconds for which the next start of a batch was held back by a rate: the task's, the account's, its own.
        self.token_wait_s = 0.0
        self._open: list[Progress] = []
        self._closed = Progress()

    def open(self, progress: Progress) -> None:
        """Count a batch in that is about to be carried out."""
        self._open.append(progress)

    def close(self, progress: Progress) -> None:
        """Keep what a batch has come to that is carried out no more."""
        self._open = [each for each in self._open if each is not progress]
        self._closed.add(progress)

    def total(self) -> Progress:
        """Return what all batches together have come to in this process."""
        total = Progress()
        for progress in (self._closed, *self._open):
            total.add(progress)
        return total
