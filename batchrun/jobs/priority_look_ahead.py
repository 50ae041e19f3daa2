"""`@priority`: jobs are ordered within a bounded look-ahead, and the read point says up to where all were given."""

from collections import deque
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from typing import NamedTuple

from batchrun.jobs.rows import ReadPoint, Row
from batchrun.model import BadLine, Job, Position

#: Rows that are ordered at a time in a seekable file, where only positions are held.
LOOK_AHEAD_ROWS = 10_000
#: Rows that are ordered at a time in any other file, where the jobs themselves are held.
LOOK_AHEAD_JOBS = 1_000
#: Bytes of overrides that are held then.
MAX_HELD_BYTES = 32 << 20


class _Pending:
    """A row that was read and has jobs that were not given yet."""

    __slots__ = ("end", "left")

    def __init__(self, end: ReadPoint, left: int) -> None:
        self.end = end
        self.left = left


class _Held(NamedTuple):
    """A job that waits; sorts by priority, then by its position in the file."""

    precedence: int
    number: int
    job: Job | Position
    size: int
    row: _Pending


class LookAhead:
    """Gives the jobs of the next rows, the highest priority first, in file order where it is equal.

    At most `size` jobs wait, and at most `size` rows lie from the oldest that waits to the newest. Without `fetch`,
    which reads the job at a position again, the jobs themselves are held, up to 32 MB. `end_of` returns the point
    behind the row that was read last.
    """

    def __init__(
        self,
        size: int,
        fetch: Callable[[Position], Job] | None,
        end_of: Callable[[Row], ReadPoint],
        start: ReadPoint,
    ) -> None:
        self._size, self._fetch, self._end_of = size, fetch, end_of
        #: The point before which every job was given.
        self.low_water = start
        self._heap: list[_Held] = []
        self._rows: deque[_Pending] = deque()
        self._held_bytes = 0
        self._number = 0

    def order(self, rows: Iterator[tuple[Row, list[Job] | list[BadLine]]]) -> Iterator[Job | BadLine]:
        """Yield all jobs by priority; a bad line at once."""
        for row, made in rows:
            pending = _Pending(self._end_of(row), len(made))
            self._rows.append(pending)
            for one in made:
                if isinstance(one, Job):
                    self._hold(one, pending)
                else:
                    self._gave(pending)
                    yield one
            while self._is_full():
                yield self._next()
        while self._heap:
            yield self._next()

    def _is_full(self) -> bool:
        # Rows count from the oldest that waits. If waiting jobs alone counted, a job of low priority would wait until
        # the end of the file, and every later job would have to be remembered as given.
        return max(len(self._rows), len(self._heap)) >= self._size or self._held_bytes > MAX_HELD_BYTES

    def _hold(self, job: Job, row: _Pending) -> None:
        self._number += 1
        held, size = (job, len(job.body)) if self._fetch is None else (job.position, 0)
        self._held_bytes += size
        heappush(self._heap, _Held(-job.priority, self._number, held, size, row))

    def _next(self) -> Job:
        held = heappop(self._heap)
        self._held_bytes -= held.size
        self._gave(held.row)
        if isinstance(held.job, Job):
            return held.job
        assert self._fetch is not None
        return self._fetch(held.job)

    def _gave(self, row: _Pending) -> None:
        row.left -= 1
        while self._rows and not self._rows[0].left:
            self.low_water = self._rows.popleft().end
