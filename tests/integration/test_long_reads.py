"""Reads of job files that would take hours."""

from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from threading import Event

import anyio
import pytest
import zstandard

from batchrun.jobs.raw_streams import open_bytes
from batchrun.runtime.long_reads import read_in_thread

_READERS = 4
#: Bytes of a text: so many that a read of all fails the test, and does not hang it.
_TEXT_BYTES = 4 << 30
_FRAME_BYTES = 64 << 20


class _Read:
    """A read of a text in a thread; it notes how far it comes."""

    def __init__(self, opened: Callable[[], BufferedIOBase]) -> None:
        self._opened = opened
        self.bytes = 0
        self.has_begun = Event()

    async def run(self) -> None:
        await read_in_thread(self._read)

    def _read(self) -> None:
        with self._opened() as stream:
            while piece := stream.readline(1 << 20):
                self.bytes += len(piece)
                self.has_begun.set()


@pytest.fixture
def endless(tmp_path: Path) -> Callable[[], BufferedIOBase]:
    """What opens a packed text of one line."""
    file = tmp_path / "line.jsonl.zst"
    file.write_bytes(zstandard.compress(b"a" * _FRAME_BYTES) * (_TEXT_BYTES // _FRAME_BYTES))
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
    read = _Read(lambda: open_bytes(file, "none", 0))
    await _cancelled([read])
    assert 0 < read.bytes < _TEXT_BYTES


async def test_a_cancelled_read_ends_in_the_middle_of_a_packed_line(endless: Callable[[], BufferedIOBase]) -> None:
    """Claim: so does a read of a few KB that unfold to such a line."""
    read = _Read(endless)
    await _cancelled([read])
    assert 0 < read.bytes < _TEXT_BYTES


async def test_endless_lines_leave_the_readers_to_others(endless: Callable[[], BufferedIOBase]) -> None:
    """Claim: while as many reads as there are readers find no line end, another read takes place."""
    reads = [_Read(endless) for _ in range(_READERS)]
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
    reads = [_Read(endless) for _ in range(2 * _READERS)]
    await _cancelled(reads)
    assert max(read.bytes for read in reads) < _TEXT_BYTES
