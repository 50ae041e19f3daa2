"""Problems of a job file: each message once, with the number of its lines and the first few of them by name."""

from collections import Counter
from collections.abc import Iterable, Iterator

from batchrun.runtime.fast_dataclasses import dataclass

#: Line numbers that are named for one problem.
LINES_NAMED = 3
#: Distinct problems that are kept, which bounds memory; further ones are counted as OTHER_PROBLEMS.
MAX_PROBLEMS = 500
OTHER_PROBLEMS = "other problems"
#: Max characters of a problem.
MAX_PROBLEM_CHARS = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LineProblem:
    """One problem, and the lines that have it."""

    message: str
    #: Number of lines.
    count: int
    #: The first of them.
    lines: list[int]

    def __str__(self) -> str:
        named = ", ".join(map(str, self.lines))
        more = f" and {self.count - len(self.lines):,} more" if self.count > len(self.lines) else ""
        # Names in the message are the Actor's schema's: a line break in one must not begin a line of ours.
        message = " ".join(self.message.split())
        return f"{'line' if self.count == 1 else 'lines'} {named}{more}: {message}"


class LineProblems:
    """Collects problems by message, each with its lines."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._lines: dict[str, list[int]] = {}
        self._last_line: dict[str, int] = {}
        #: Lines with at least one problem.
        self.lines = 0
        self._failing_line = 0

    def note(self, line: int, messages: Iterable[str]) -> None:
        """Note the problems of a line; lines come in order, and a matrix gives several jobs of one line."""
        for message in messages:
            self._note(line, message[:MAX_PROBLEM_CHARS])

    def _note(self, line: int, message: str) -> None:
        if line != self._failing_line:
            self._failing_line = line
            self.lines += 1
        if message not in self._counts and len(self._counts) >= MAX_PROBLEMS:
            message = OTHER_PROBLEMS
        if self._last_line.get(message) == line:
            return  # noted for another job of the same line
        self._last_line[message] = line
        self._counts[message] += 1
        named = self._lines.setdefault(message, [])
        if len(named) < LINES_NAMED:
            named.append(line)

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __iter__(self) -> Iterator[LineProblem]:
        """Yield the problems, those with the most lines first."""
        for message, count in self._counts.most_common():
            yield LineProblem(message=message, count=count, lines=self._lines[message])
