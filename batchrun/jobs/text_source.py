"""Bytes of a job file: plain or compressed, from a file or from stdin, as UTF-8 or one byte per character."""

import codecs
import gzip
import os
import re
import select
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader, FileIO, RawIOBase
from pathlib import Path
from typing import Any

import zstandard

from batchrun.errors import ConfigError, JobFileError
from batchrun.jobs.job_format import Compression, JobFormat

UTF8_BOM = codecs.BOM_UTF8

_BUFFER_BYTES = 128 << 10
#: What a zstd decoder is fed at once. A block of 4 bytes can unfold to 128 KB, so this bounds memory.
_ZSTD_FEED_BYTES = 2048
#: In these every character is one byte, and ASCII is ASCII: they can be cut and sought like UTF-8.
_ONE_BYTE = re.compile(r"ascii|iso8859-\d+|cp125\d|cp437|cp85\d|cp866|koi8-[rtu]|mac-\w+")
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
_MAGIC = {
    b"\x1f\x8b": "is compressed with gzip; add .gz to its name",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; add .zst to its name",
    b"PK\x03\x04": "is a zip archive or an Excel workbook; save it as CSV",
}


_NO_TEXT = "holds no text; a job file is JSON lines, a JSON array, or CSV"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the bytes come from and how they become text."""

    name: str
    #: None: standard input.
    path: Path | None
    compression: Compression
    #: What the opened stream is coded in: UTF-8, or one byte per character.
    encoding: str
    #: What the file is coded in, if that must be converted while reading.
    convert_from: str | None

    @property
    def is_replayable(self) -> bool:
        """Whether it can be opened more than once."""
        return self.path is not None

    @property
    def is_seekable(self) -> bool:
        """Whether an offset in the text is an offset in the file."""
        return self.is_replayable and self.compression == "none" and self.convert_from is None

    def open(self, offset: int = 0) -> BufferedIOBase:
        """Open the text at an offset; where that cannot be sought, by reading up to there.

        Raises:
            JobFileError: The file cannot be opened, or ends or is damaged before the offset; stdin holds no text.
        """
        with damage_named(self.name), ExitStack() as on_error:
            stream = _open_bytes(self.path, self.compression)
            on_error.push(stream)
            if self.convert_from is not None:
                stream = _buffered(_Converted(stream, self.convert_from))
                on_error.push(stream)
            if self.is_seekable:
                stream.seek(offset)
            else:
                _skip(stream, offset)
            if not self.is_replayable and _is_binary(stream.peek(1)):
                raise JobFileError(_NO_TEXT, file=self.name)
            on_error.pop_all()
            return stream


def find_source(job_format: JobFormat) -> Source:
    """Look at the file, and say how it is to be read.

    Raises:
        JobFileError: It is missing, unreadable, or holds no text.
        ConfigError: `encoding` names none.
    """
    encoding = None if job_format.encoding is None else _known_encoding(job_format.encoding)
    path = None if job_format.is_stdin else Path(job_format.path)
    with damage_named(job_format.name):
        if path is not None:
            _check_regular(path)
            encoding = _check_text(path, job_format, encoding)
    encoding = encoding or "utf-8"
    is_direct = encoding == "utf-8" or _ONE_BYTE.fullmatch(encoding) is not None
    return Source(
        name=job_format.name,
        path=path,
        compression=job_format.compression,
        encoding=encoding if is_direct else "utf-8",
        convert_from=None if is_direct else encoding,
    )


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Turn what goes wrong while reading into a JobFileError that says what to do."""
    try:
        yield
    except EOFError as error:
        raise JobFileError("is cut off: the compressed data ends too early; copy it again", file=name) from error
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise JobFileError(f"is damaged or not compressed as its name says ({error})", file=name) from error
    except UnicodeError as error:
        raise JobFileError(f"does not hold what its encoding promises ({error})", file=name) from error
    except FileNotFoundError as error:
        raise JobFileError("there is no such file", file=name) from error
    except OSError as error:
        raise JobFileError(f"cannot be read: {error.strerror or error}", file=name) from error


def skip_line(stream: BufferedIOBase) -> int:
    """Read up to the end of the line, keeping nothing; return how many bytes that were."""
    skipped = 0
    while piece := stream.readline(1 << 20):
        skipped += len(piece)
        if piece[-1] == 0x0A:
            break
    return skipped


def _open_bytes(path: Path | None, compression: Compression) -> BufferedReader | gzip.GzipFile:
    if path is None:
        return _buffered(PipeReader(sys.stdin.fileno()))
    if compression == "gz":
        return gzip.GzipFile(path, "rb")
    if compression == "zst":
        return _buffered(_ZstdReader(_buffered(FileIO(path))))
    return _buffered(FileIO(path))


class PipeReader(RawIOBase):
    """A pipe whose reader, waiting in a thread for somebody to write, can be told to stop."""

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

    def stop(self) -> None:
        """Let whoever reads meet the end; closing before that would wait for the pipe to speak."""
        os.write(self._stop, b"x")

    def close(self) -> None:
        """Close what is ours; the pipe itself is not."""
        if not self.closed:
            os.close(self._stopped)
            os.close(self._stop)
        super().close()


def _buffered(raw: RawIOBase) -> BufferedReader:
    return BufferedReader(raw, _BUFFER_BYTES)


def _skip(stream: BufferedIOBase, count: int) -> None:
    while count:
        piece = stream.read(min(count, 1 << 20))
        if not piece:
            raise EOFError
        count -= len(piece)


def _check_regular(path: Path) -> None:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise JobFileError("is a directory; name a file", file=path)
    if not stat.S_ISREG(mode):
        raise JobFileError("is a pipe or a device; send its JSON lines to standard input, named '-'", file=path)


def _known_encoding(name: str) -> str:
    try:
        "".encode(name)
        codecs.getincrementaldecoder(name)
        normal = codecs.lookup(name).name
    except LookupError:
        problem = f"{name!r} is no text encoding; leave it out for UTF-8, or try cp1252, utf-16"
        raise ConfigError(problem, key="jobs.encoding") from None
    return "utf-8" if normal == "utf-8-sig" else normal


def _check_text(path: Path, job_format: JobFormat, encoding: str | None) -> str | None:
    """Refuse a file that holds no text; return its encoding, if given or known by a byte order mark."""
    with _open_bytes(path, job_format.compression) as stream:
        head = stream.read(4096)
    if encoding is None and head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    for magic, problem in _MAGIC.items():
        if head.startswith(magic):
            raise JobFileError(problem, file=job_format.name)
    if (encoding is None or _ONE_BYTE.fullmatch(encoding)) and _is_binary(head):
        raise JobFileError(_NO_TEXT, file=job_format.name)
    return encoding


def _is_binary(head: bytes) -> bool:
    if b"\0" in head:
        return True
    if _CONTROL.search(head) is None:
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return True
    return False


class _Unfolded(RawIOBase):
    """Bytes that are made piece by piece from the bytes of another stream, which it owns."""

    def __init__(self, source: BufferedIOBase) -> None:
        self._source = source
        self._rest = memoryview(b"")

    def _next_piece(self) -> bytes | None:
        """Return more bytes, perhaps none yet; None at the end."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = self._next_piece()
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        taken, self._rest = self._rest[: len(buffer)], self._rest[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def close(self) -> None:
        self._source.close()
        super().close()


class _ZstdReader(_Unfolded):
    """Decompress zstd, frame after frame, and notice when the last one is cut off.

    The library's own reader takes a cut-off frame for the end of the file.
    """

    #: The decoder of the frame that is not finished, if there is one.
    _frame: Any = None

    def _next_piece(self) -> bytes | None:
        fed = self._source.read(_ZSTD_FEED_BYTES)
        if not fed and self._frame is not None:
            raise EOFError
        pieces = []
        while fed:
            frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            pieces.append(frame.decompress(fed))
            self._frame, fed = (None, frame.unused_data) if frame.eof else (frame, b"")
        return b"".join(pieces) if pieces else None


class _Converted(_Unfolded):
    """Read any encoding as UTF-8."""

    def __init__(self, source: BufferedIOBase, encoding: str) -> None:
        super().__init__(source)
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def _next_piece(self) -> bytes | None:
        piece = self._source.read(_BUFFER_BYTES)
        text = self._decoder.decode(piece, not piece).encode()
        return text if piece or text else None
