"""Reads of job files that would take hours: of a line without an end, and of nothing but blank lines."""

from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from threading import Event

import anyio
import pytest
import zstandard

from batchrun.jobs.json_rows import line_rows
from batchrun.jobs.raw_streams import open_bytes, skip_line
from batchrun.jobs.rows import ReadPoint
from batchrun.runtime.long_reads import read_in_thread

_READERS = 4
#: Bytes of a text: so many that a read of all fails the test, and does not hang it.
_TEXT_BYTES = 4 << 30
_FRAME_BYTES = 64 << 20


class _Read:
    """A read of a text that gives no row, in a thread; it notes how far it comes."""

    def __init__(self, opened: Callable[[], BufferedIOBase], *, is_line: bool) -> None:
        self._opened, self._is_line = opened, is_line
        self.bytes = 0
        self.has_begun = Event()

    async def run(self) -> None:
        await read_in_thread(self._read)

    def _read(self) -> None:
        with self._opened() as stream:
            if self._is_line:
                skip_line(stream, self._note)
            else:
                assert next(line_rows(stream, ReadPoint(), "utf-8", self._note), None) is None

    def _note(self, piece: bytes) -> None:
        self.bytes += len(piece)
        self.has_begun.set()


def _packed(file: Path, text: bytes) -> Path:
    frame = zstandard.compress(text * (_FRAME_BYTES // len(text)))
    file.write_bytes(frame * (_TEXT_BYTES // _FRAME_BYTES))
    return file


@pytest.fixture
def endless(tmp_path: Path) -> Callable[[], BufferedIOBase]:
    """What opens a packed text of one line."""
    file = _packed(tmp_path / "line.jsonl.zst", b"a")
    return lambda: open_bytes(file, "zst", 8 << 20)


async def _cancelled(reads: list[_Read]) -> None:
    async with anyio.create_task_group() as tasks:
        for read in reads:
            tasks.start_soon(read.run)
        for read in reads:
            await anyio.to_thread.run_sync(read.has_begun.wait)
        tasks.cancel_scope.cancel()


async def test_a_cancelled_read_ends_in_the_middle_of_a_plain_line(tmp_path: Path) -> None:
    """Claim: a read that finds no line end stops soon after it was cancelled, far from the end of its file."""
    file = tmp_path / "line.jsonl"
    with file.open("wb") as sparse:
        sparse.truncate(_TEXT_BYTES)
    read = _Read(lambda: open_bytes(file, "none", 0), is_line=True)
    await _cancelled([read])
    assert 0 < read.bytes < _TEXT_BYTES


async def test_a_cancelled_read_ends_among_packed_blank_lines(tmp_path: Path) -> None:
    """Claim: a read of blank lines stops soon after it was cancelled, although it has found no row."""
    file = _packed(tmp_path / "blank.jsonl.zst", b" " * 4095 + b"\n")
    read = _Read(lambda: open_bytes(file, "zst", 8 << 20), is_line=False)
    await _cancelled([read])
    assert 0 < read.bytes < _TEXT_BYTES


async def test_endless_lines_leave_the_readers_to_others(endless: Callable[[], BufferedIOBase]) -> None:
    """Claim: while as many reads as there are readers find no line end, another read takes place."""
    reads = [_Read(endless, is_line=True) for _ in range(_READERS)]
    async with anyio.create_task_group() as tasks:
        for read in reads:
            tasks.start_soon(read.run)
        for read in reads:
            await anyio.to_thread.run_sync(read.has_begun.wait)
        assert await read_in_thread(lambda: "read") == "read"
        were_at = [read.bytes for read in reads]
        tasks.cancel_scope.cancel()
    assert max(were_at) < _TEXT_BYTES


async def test_a_read_that_waits_for_its_next_slice_can_be_cancelled(endless: Callable[[], BufferedIOBase]) -> None:
    """Claim: more endless reads than readers end when they are cancelled, those that wait in a thread included."""
    reads = [_Read(endless, is_line=True) for _ in range(2 * _READERS)]
    await _cancelled(reads)
    assert max(read.bytes for read in reads) < _TEXT_BYTES
