"""The job file as a source of jobs: read in one pass with constant memory, and again from any read point.

Rows become Jobs and BadLines here. Which of them are new is for the ledger to decide: this package knows nothing of the
state of a batch.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from hashlib import sha256
from io import SEEK_END, BufferedIOBase, BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Self

import orjson

from batchrun.errors import JobFileError
from batchrun.jobs.csv_dialect import SAMPLE_BYTES, find_dialect
from batchrun.jobs.csv_rows import NEVER_CLOSED, CsvDialect, Header, compared_with_rows, csv_rows, read_header
from batchrun.jobs.job_builder import JobBuilder
from batchrun.jobs.job_format import JobFormat
from batchrun.jobs.job_key import key_conflict
from batchrun.jobs.json_rows import array_rows, line_rows
from batchrun.jobs.merge import lost_fields, nested_properties
from batchrun.jobs.priority_look_ahead import LOOK_AHEAD_JOBS, LOOK_AHEAD_ROWS, LookAhead
from batchrun.jobs.raw_streams import Note, PipeReader
from batchrun.jobs.rows import NotAJob, ReadPoint, Row, bad_line
from batchrun.jobs.text_fingerprint import TextFingerprint
from batchrun.jobs.text_source import TextSource, find_text, read_errors_named
from batchrun.model import BadLine, Job, JobKey, Position

if TYPE_CHECKING:
    from _hashlib import HASH

#: The head of a file, which is checked before anything starts, ends with the first of these limits that is reached.
HEAD_ROWS = 10_000
HEAD_BYTES = 16 << 20
HEAD_JOBS = 50_000
#: Seconds that a pipe has to give its first bytes, for the check of the head.
PIPE_PATIENCE_S = 1.0
NO_JOBS = "holds no jobs; write one job per line"

#: Bytes whose lines are counted for an estimate.
_SAMPLE_BYTES = 64 << 20
#: Bytes that are searched at a time.
_PIECE_BYTES = 1 << 20


class JobFile:
    """An open job file; of a regular one, only the first bytes and a CSV header are read at once. For one thread.

    Offsets count bytes of the uncompressed text; of text in another encoding, as UTF-8. In a JSON array, lines are
    elements.

    Raises:
        JobFileError: It is missing, not text, of no known kind, or damaged in its first bytes; or its header is unfit.
        ConfigError: A template, the matrix, a key or the encoding cannot be used, or names no column of the file.
    """

    def __init__(self, job_format: JobFormat) -> None:
        self._format, self._kind = job_format, job_format.kind
        #: Standard input, opened before its rows are read: what was looked at is still to be read.
        self._pipe: BufferedReader | None = None
        self._source: TextSource = find_text(job_format)
        self._fingerprint = TextFingerprint(self._source, job_format.name)
        self._header: Header | None = self._read_header()
        self._builder = (
            JobBuilder(job_format, None)
            if self._header is None
            else JobBuilder(job_format, self._header.columns, fits_rows=self._header.fits_rows)
        )
        self._top = ReadPoint() if self._header is None else self._header.end
        self._nested = nested_properties((job_format.task_input or {}) if job_format.merge == "shallow" else {})
        self._point = self._top
        self._window: LookAhead | None = None
        self._streams: set[BufferedIOBase] = set()
        self._seeker: BufferedIOBase | None = None
        #: Jobs and bad lines that are left of the limit; None: there is none.
        self._left: int | None = None
        self._unended: Row | None = None
        #: Top-level properties of the task's input that lose nested fields to a shallow merge by a job at the head of
        #: the file; `check_head` fills it.
        self.lost_fields: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open; iterations cannot go on."""
        self._streams |= {self._pipe} if self._pipe is not None else set()
        while self._streams:
            stream = self._streams.pop()
            if isinstance(stream, BufferedReader) and isinstance(stream.raw, PipeReader):
                stream.raw.stop()
            stream.close()
        self._seeker = None

    @property
    def unended(self) -> Row | None:
        """The last line of the file, if it has no line end and `read` has held it back, within its limit.

        Of CSV also the lines from an open quote on, as one row.
        """
        return None if self._left == 0 else self._unended

    @property
    def name(self) -> str:
        """The file, as the user named it."""
        return self._format.name

    @property
    def is_seekable(self) -> bool:
        """True if reading can start at a ReadPoint, and one job can be read again without reading all before it."""
        return self._source.is_seekable and self._kind != "json"

    @property
    def is_replayable(self) -> bool:
        """True if the file can be read more than once; a pipe cannot."""
        return self._source.is_replayable

    @property
    def dialect(self) -> CsvDialect | None:
        """How a CSV file separates and quotes its cells; None for JSON."""
        return None if self._header is None else self._header.dialect

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a CSV file; empty for JSON."""
        return () if self._header is None else self._header.columns

    @property
    def empty_in_text(self) -> Counter[str]:
        """How often an empty cell was filled into a text, by the dotted key of the text."""
        return self._builder.empty_in_text

    @property
    def jobs_per_line(self) -> int:
        """How many jobs each good line gives: the size of the matrix."""
        return self._builder.jobs_per_row

    @property
    def read_point(self) -> ReadPoint:
        """The point before which `read` has yielded every job and bad line, the latest one included.

        With a matrix, a line counts once its last job was yielded.
        """
        return self._point if self._window is None else self._window.low_water

    def check_head(self, look_at: Callable[[Job], None] | None = None) -> list[BadLine]:
        """Check the first 10,000 lines or 16 MB, without moving the read point; call `look_at` with each good job.

        Returns:
            The bad lines, among them those that repeat a key with other content. Of a pipe, the lines that it has at
            hand are checked. A last line without line end is not, while a process writes the file.

        Raises:
            JobFileError: The file holds no jobs, or cannot be read.
        """
        bad: list[BadLine] = []
        seen: dict[JobKey, tuple[bytes, int]] = {}
        self.lost_fields = ()
        rows, jobs = 0, 0
        for row in self._head_rows():
            rows += 1
            for made in self._builder.build(row):
                if isinstance(made, BadLine):
                    bad.append(made)
                elif (first := self._first(seen, made))[0] != made.digest:
                    bad.append(bad_line(row, key_conflict(made.key, first[1])))
                elif first[1] == row.position.line:
                    self._note_lost_fields(made)
                    if look_at is not None:
                        look_at(made)
                jobs += 1
            if row.last_line >= HEAD_ROWS or _end_of(row).offset >= HEAD_BYTES or jobs >= HEAD_JOBS:
                break
        if not rows and self.is_replayable:
            raise JobFileError(NO_JOBS, file=self._format.name)
        return bad

    @staticmethod
    def _first(seen: dict[JobKey, tuple[bytes, int]], job: Job) -> tuple[bytes, int]:
        """Return the digest and the line that have the job's key, which a line that replaces others takes over."""
        this = job.digest, job.position.line
        first = seen.setdefault(job.key, this)
        if job.replaces and first[0] != job.digest:
            first = seen[job.key] = this
        return first

    def _head_rows(self) -> Iterator[Row]:
        if self.is_replayable:
            return self._rows(self._top, sha256(), holds_back=self._source.is_being_written())
        return self._split(BytesIO(b"" if self._kind == "json" else self._at_hand(PIPE_PATIENCE_S)), self._top)

    def _note_lost_fields(self, job: Job) -> None:
        if len(self.lost_fields) < len(self._nested):
            lost = lost_fields(self._nested, orjson.loads(job.body))
            self.lost_fields = tuple(dict.fromkeys([*self.lost_fields, *lost]))

    def read(
        self, start: ReadPoint | None = None, *, holds_back: bool = False, limit: int | None = None
    ) -> Iterator[Job | BadLine]:
        """Yield the jobs and bad lines from a `read_point` of an earlier reading on, one pass.

        It begins at the top without a point, if the file is not seekable, or with a limit.

        Args:
            start: where to begin.
            holds_back: leave the last line for `unended` if it has no line end: its writer may not have finished it.
            limit: the max number of jobs and bad lines to give, from the top of the file.

        Raises:
            JobFileError: The file cannot be read any further; what was yielded is valid.
        """
        begin = self._top
        if start is not None and limit is None and self.is_seekable and start.offset > begin.offset:
            begin = start
        self._point, self._window, self._unended, self._left = begin, None, None, limit
        text_hash = self._fingerprint.hash_of(begin.offset) if self.is_replayable else None
        # Rows are split off one by one, so the hash covers exactly the text up to the end of the latest one.
        end_of = partial(_end_of, text_hash=text_hash)
        rows = self._rows(begin, text_hash, holds_back=holds_back)
        size = self._look_ahead()
        if size == 1:
            return self._up_to_limit(self._in_file_order(rows, end_of))
        self._window = LookAhead(size, self._fetch if self.is_seekable else None, end_of, begin)
        return self._up_to_limit(self._window.order((row, self._builder.build(row)) for row in rows))

    def _up_to_limit(self, entries: Iterator[Job | BadLine]) -> Iterator[Job | BadLine]:
        return entries if self._left is None else self._counted(entries, self._left)

    def _counted(self, entries: Iterator[Job | BadLine], limit: int) -> Iterator[Job | BadLine]:
        for left, entry in zip(range(limit - 1, -1, -1), entries, strict=False):
            self._left = left
            yield entry

    def replacing(self, start: ReadPoint) -> Iterator[Job]:
        """Yield the jobs of the lines with `@replaces` from a read point on; `read` yields them, too."""
        if self._header is not None and "@replaces" not in self._header.columns:
            return
        if self._header is None and not self._mentions(b'"@replaces"', start.offset if self.is_seekable else 0):
            return
        begin = start if self.is_seekable and start.offset > self._top.offset else self._top
        for row in self._rows(begin, holds_back=True):
            yield from (made for made in self._builder.build(row) if isinstance(made, Job) and made.replaces)

    def _mentions(self, word: bytes, offset: int) -> bool:
        with read_errors_named(self._format.name), self._source.open(offset) as stream:
            before = b""
            while piece := stream.read(_PIECE_BYTES):
                if word in piece or word in before + piece[: len(word)]:
                    return True
                before = (before + piece[-len(word) :])[-len(word) :]
        return False

    def reread(self, positions: Sequence[Position]) -> Iterator[Job]:
        """Yield the jobs at these positions again: in their order if `is_seekable`, else in file order by one pass.

        Raises:
            JobFileError: The job is not there any more, or the file cannot be read twice.
        """
        if self.is_seekable:
            return (self._fetch(position) for position in positions)
        if not self.is_replayable:
            raise JobFileError("standard input cannot be read twice; send it again", file=self._format.name)
        return self._find(positions)

    def may_grow(self, since: tuple[int, int]) -> bool:
        """True if the file has changed since `last_change`, or before the end of it was read, or is being written."""
        size, _ = since
        end = _end_of(self._unended).offset if self.is_seekable and self._unended is not None else size
        return end != size or self.last_change() != since or self._source.is_being_written()

    def last_change(self) -> tuple[int, int]:
        """Return the file's size in bytes and the time of its last change, in nanoseconds since 1970."""
        with read_errors_named(self._format.name):
            return self._source.last_change()

    def build_unended(self) -> Iterator[Job | BadLine]:
        """Yield what the last line gives; if it opens a quote, the last lines from there on."""
        assert self._unended is not None, "only a line that was held back is built"
        row = self._unended
        before = ReadPoint(offset=row.position.offset, line=row.position.line - 1)
        rows = self._split(BytesIO(row.raw), before) if row.problem == NEVER_CLOSED else [row]
        return self._up_to_limit(made for each in rows for made in self._builder.build(each))

    def is_as_read(self, point: ReadPoint) -> bool:
        """True if the text before a `read_point` of an earlier reading is still the text that was read then.

        What was appended since does not matter. A pipe is not compared, nor a compressed or converted file that an
        older version has read.
        """
        if not self.is_replayable or not point.fingerprint:
            return True
        return self._fingerprint.matches(point.offset, point.fingerprint, is_seekable=self.is_seekable)

    def count_estimate(self) -> int | None:
        """Return about how many jobs the file gives: its lines, times the matrix, up to the limit of `read`.

        The lines of a large plain file are estimated from its first 64 MB. None for a pipe or a large compressed file.
        """
        if not self.is_replayable:
            return None
        rows = sum(1 for _ in self._rows(self._top)) if self._kind == "json" else self._count_lines()
        if rows is None:
            return None
        jobs = rows * self.jobs_per_line
        return jobs if self._left is None else min(jobs, self._left)

    def _read_header(self) -> Header | None:
        if self._kind not in ("csv", "tsv"):
            return None
        encoding = self._source.encoding
        if not self.is_replayable:
            head = self._at_hand(None)
            dialect = find_dialect(head, encoding, self._format, is_whole=False)
            assert self._pipe is not None, "it was looked at"
            return compared_with_rows(read_header(self._pipe, encoding, dialect, self._format.name), head, encoding)
        with read_errors_named(self._format.name), self._source.open() as stream:
            sample = stream.read(SAMPLE_BYTES)
            is_whole = len(sample) < SAMPLE_BYTES
            dialect = find_dialect(sample + stream.readline(SAMPLE_BYTES), encoding, self._format, is_whole=is_whole)
        with read_errors_named(self._format.name), self._source.open() as stream:
            header = read_header(stream, encoding, dialect, self._format.name)
        return compared_with_rows(header, sample, encoding)

    def _rows(self, start: ReadPoint, text_hash: "HASH | None" = None, *, holds_back: bool = False) -> Iterator[Row]:
        """Yield the rows from a point on; `text_hash`, of the text before it, is updated with each row."""
        with read_errors_named(self._format.name):
            stream = self._pipe or self._source.open(start.offset)
            self._pipe = None
            self._streams.add(stream)
            try:
                if start != self._top and self.is_seekable:
                    start = _past_line_end(stream, start, text_hash)
                note = None if text_hash is None else text_hash.update
                for row in self._split(stream, start, note, holds_back=holds_back):
                    is_open = self._kind != "json" and (row.raw[-1:] != b"\n" or row.problem == NEVER_CLOSED)
                    if holds_back and is_open:
                        self._unended = row
                        return
                    yield row
            finally:
                self._streams.discard(stream)
                stream.close()

    def _at_hand(self, within_s: float | None) -> bytes:
        """Return the whole lines that a pipe has given; wait for the first bytes at most so long, or without limit."""
        if self._pipe is None:
            stream = self._source.open()
            assert isinstance(stream, BufferedReader), "a pipe is not compressed"
            self._pipe = stream
        raw = self._pipe.raw
        if within_s is not None and isinstance(raw, PipeReader) and not raw.has_bytes(within_s):
            return b""
        head = self._pipe.peek()
        return head[: head.rfind(b"\n") + 1] or head

    def _split(
        self, stream: BufferedIOBase, start: ReadPoint, note: Note | None = None, *, holds_back: bool = False
    ) -> Iterator[Row]:
        encoding = self._source.encoding
        if self._header is not None:
            return csv_rows(stream, start, encoding, self._header, self._format.name, note, holds_back=holds_back)
        if self._kind == "json":
            file = self._format.copy or self._format.path
            return array_rows(stream, encoding, self._format.name, Path(file).parent, note)
        return line_rows(stream, start, encoding, note)

    def _in_file_order(self, rows: Iterator[Row], end_of: Callable[[Row], ReadPoint]) -> Iterator[Job | BadLine]:
        for row in rows:
            made = self._builder.build(row)
            yield from made[:-1]
            self._point = end_of(row)
            yield made[-1]

    def _look_ahead(self) -> int:
        if self._format.look_ahead is not None:
            return max(1, self._format.look_ahead)
        if not self._uses_priority():
            return 1
        return LOOK_AHEAD_ROWS if self.is_seekable else LOOK_AHEAD_JOBS

    def _uses_priority(self) -> bool:
        if "@priority" in (self._format.template or ()):
            return True
        if self._header is not None:
            return "@priority" in self._header.columns
        if not self.is_replayable:
            # Looking ahead in a pipe means waiting for its writer.
            return False
        # Damage is reported when the rows are read, after the jobs that come before it.
        with suppress(JobFileError), read_errors_named(self._format.name), self._source.open() as stream:
            return _mentions_priority(stream)
        return False

    def _fetch(self, position: Position) -> Job:
        if self._seeker is None:
            self._seeker = self._source.open()
            self._streams.add(self._seeker)
        with read_errors_named(self._format.name):
            self._seeker.seek(position.offset)
            raw = self._seeker.read(position.length)
        before = ReadPoint(offset=position.offset, line=position.line - 1)
        row = next(self._split(BytesIO(raw), before), None)
        if row is None or row.position != replace(position, variant=0):
            raise self._changed(position.line, "the line is not there any more")
        return self._jobs_again(row)[position.variant]

    def _find(self, positions: Sequence[Position]) -> Iterator[Job]:
        wanted: dict[int, set[int]] = {}
        for position in positions:
            wanted.setdefault(position.line, set()).add(position.variant)
        for row in self._rows(self._top):
            if variants := wanted.pop(row.position.line, None):
                jobs = self._jobs_again(row)
                yield from (jobs[variant] for variant in sorted(variants))
            if not wanted:
                return
        raise self._changed(min(wanted), "the line is not there any more")

    def _jobs_again(self, row: Row) -> list[Job]:
        try:
            return self._builder.jobs(row)
        except NotAJob as bad:
            raise self._changed(row.position.line, str(bad)) from None

    def _changed(self, line: int, how: str) -> JobFileError:
        problem = f"was changed after its job was admitted: {how}; restore the line"
        return JobFileError(problem, file=self._format.name, line=line)

    def _count_lines(self) -> int | None:
        with read_errors_named(self._format.name), self._source.open(self._top.offset) as stream:
            lines, read_bytes, last = 0, 0, b"\n"
            while read_bytes < _SAMPLE_BYTES and (piece := stream.read(1 << 20)):
                lines, read_bytes, last = lines + piece.count(b"\n"), read_bytes + len(piece), piece[-1:]
            if not stream.read(1):
                return lines + (last != b"\n")
            if not self.is_seekable:
                return None
            return lines * (stream.seek(0, SEEK_END) - self._top.offset) // read_bytes


def _mentions_priority(stream: BufferedIOBase) -> bool:
    left = HEAD_BYTES
    for _ in range(HEAD_ROWS):
        line = stream.readline(left)
        if b'"@priority"' in line:
            return True
        left -= len(line)
        if not line or not left:
            break
    return False


def _past_line_end(stream: BufferedIOBase, point: ReadPoint, text_hash: "HASH | None") -> ReadPoint:
    """Move past a line end that was appended since: it ends the line before the point, and is no line by itself."""
    stream.seek(point.offset - 1)
    if stream.read(1) != b"\n" and (end := stream.readline(2)) in (b"\n", b"\r\n"):
        if text_hash is not None:
            text_hash.update(end)
        return ReadPoint(offset=point.offset + len(end), line=point.line)
    stream.seek(point.offset)
    return point


def _end_of(row: Row, text_hash: "HASH | None" = None) -> ReadPoint:
    return ReadPoint(
        offset=row.position.offset + row.position.length,
        line=row.last_line,
        fingerprint=b"" if text_hash is None else text_hash.digest(),
    )
