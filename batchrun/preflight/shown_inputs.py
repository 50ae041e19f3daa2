"""Which inputs `plan --show` shows: those of the first jobs, as far as they are not too large together."""

from batchrun.model import Job
from batchrun.preflight.input_checks import JobCheck

#: Max characters of all inputs that are kept whole.
MAX_INPUT_CHARS = 32 << 20


class ShownInputs:
    """The whole inputs of the first jobs of a file, as far as MAX_INPUT_CHARS go.

    Args:
        check: has an input without its secrets.
        most: max inputs.
    """

    def __init__(self, check: JobCheck, most: int) -> None:
        self._check = check
        self._most = most
        self._chars_left = MAX_INPUT_CHARS
        #: By line.
        self.kept: list[tuple[int, str]] = []

    def look_at(self, job: Job) -> None:
        """Keep the input of a job, if it is one of the first."""
        if len(self.kept) < self._most and self._chars_left > 0:
            shown = self._check.shown(job)
            self.kept.append((job.position.line, shown))
            self._chars_left -= len(shown)
