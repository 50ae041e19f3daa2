"""The byte streams under a job file: a pipe whose reader can be stopped, compression, any encoding as UTF-8."""

import codecs
import gzip
import os
import select
import sys
from collections.abc import Callable, Iterator
from io import BufferedIOBase, BufferedReader, FileIO, RawIOBase
from pathlib import Path
from typing import Any

import zstandard

from batchrun.jobs.job_format import Compression
from batchrun.runtime.long_reads import pause
from batchrun.runtime.private_files import input_opener

#: Is called with each piece of a text, in its order.
Note = Callable[[bytes], object]

#: Bytes of a read from the operating system.
_BUFFER_BYTES = 128 << 10
#: Bytes that a zstd decoder is fed at once. A block of 4 bytes can unfold to 128 KB, so this bounds memory, to 8 MB.
_ZSTD_FEED_BYTES = 256
#: Bytes of a read whose content is thrown away.
_SKIP_BYTES = 1 << 20


def open_bytes(path: Path | None, compression: Compression, max_window_bytes: int) -> BufferedReader:
    """Open a file, or standard input if None, as uncompressed bytes; a decoder of zstd takes a file's own window."""
    if path is None:
        return _buffered(PipeReader(sys.stdin.fileno()))
    stream = _buffered(_PlainFile(path, opener=input_opener))
    match compression:
        case "gz":
            unpacked = gzip.GzipFile(fileobj=stream, mode="rb")
            return _buffered(_PieceReader(stream, iter(lambda: unpacked.read1(_BUFFER_BYTES), b"")))
        case "zst":
            return _buffered(_PieceReader(stream, _decompress(stream, max_window_bytes)))
    return stream


def as_utf8(stream: BufferedIOBase, encoding: str) -> BufferedReader:
    """Return text in any encoding as a stream of UTF-8, which owns the given one."""
    return _buffered(_PieceReader(stream, _convert(stream, encoding)))


def skip_bytes(stream: BufferedIOBase, count: int) -> None:
    """Read that many bytes and keep nothing.

    Raises:
        EOFError: the stream ends earlier.
    """
    while count:
        piece = stream.read(min(count, _SKIP_BYTES))
        if not piece:
            raise EOFError
        count -= len(piece)


class PipeReader(RawIOBase):
    """A pipe whose reader, waiting in a thread for bytes, can be stopped."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._stopped, self._stop = os.pipe()

    def readable(self) -> bool:
        """Return that it is for reading."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for bytes, or for `stop`, which reads as the end."""
        ready, _, _ = select.select([self._fd, self._stopped], [], [])
        if self._stopped in ready:
            return 0
        data = os.read(self._fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def has_bytes(self, within_s: float) -> bool:
        """Return whether a read gives bytes, or the end, at once; wait for that a limited time."""
        return bool(select.select([self._fd], [], [], within_s)[0])

    def stop(self) -> None:
        """Let a waiting reader see the end; `close` alone would wait until the pipe has bytes."""
        os.write(self._stop, b"x")

    def close(self) -> None:
        """Close what is ours; the pipe itself is not."""
        if not self.closed:
            os.close(self._stopped)
            os.close(self._stop)
        super().close()


def _buffered(raw: RawIOBase) -> BufferedReader:
    return BufferedReader(raw, _BUFFER_BYTES)


class _PlainFile(FileIO):
    """A file whose reader can be cancelled."""

    def readinto(self, buffer: Any) -> int | None:
        pause()
        return super().readinto(buffer)


class _PieceReader(RawIOBase):
    """Bytes that come piece by piece out of another stream, which it owns."""

    def __init__(self, source: BufferedIOBase, pieces: Iterator[bytes]) -> None:
        self._source, self._pieces = source, pieces
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        pause()
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        taken, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def close(self) -> None:
        self._source.close()
        super().close()


def _decompress(source: BufferedIOBase, max_window_bytes: int) -> Iterator[bytes]:
    """Decompress zstd, frame after frame.

    Raises:
        zstandard.ZstdError: it is damaged, or a frame has a larger window.
        EOFError: the last frame is cut off. The library's own reader takes that for the end of the file.
    """
    frame = None
    while fed := source.read(_ZSTD_FEED_BYTES):
        while fed:
            frame = frame or zstandard.ZstdDecompressor(max_window_size=max_window_bytes).decompressobj()
            yield frame.decompress(fed)
            frame, fed = (None, frame.unused_data) if frame.eof else (frame, b"")
    if frame is not None:
        raise EOFError


def _convert(source: BufferedIOBase, encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    while piece := source.read(_BUFFER_BYTES):
        yield decoder.decode(piece).encode()
    yield decoder.decode(b"", final=True).encode()
