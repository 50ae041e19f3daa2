"""Where the text of a job file comes from: file or stdin, how it is compressed, how it is encoded."""

import codecs
import fcntl
import gzip
import re
import signal
import stat
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedIOBase
from pathlib import Path

import zstandard

from batchrun.errors import JobFileError, JobFileLost
from batchrun.jobs.job_format import Compression, JobFormat
from batchrun.jobs.raw_streams import as_utf8, open_bytes, skip_bytes
from batchrun.jobs.skipped_lines import NoRow
from batchrun.jobs.text_encoding import ONE_BYTE, known_encoding, marked_encoding
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.open_files import TOO_MANY, too_many_words
from batchrun.runtime.private_files import input_opener

#: Seconds without a change after which a job file counts as finished, unless a process has it open for writing.
QUIET_S = 2.0
#: Bytes at the beginning of a file that show what it is.
_HEAD_BYTES = 4096
_CONTROL = re.compile(rb"[\x01-\x08\x0e-\x1a\x1c-\x1f]")
#: The first bytes of files that are no text.
_MAGIC = {
    b"\x1f\x8b": "is compressed with gzip; add .gz to its name",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; add .zst to its name",
    b"PK\x03\x04": "is a zip archive or an Excel workbook; save it as CSV",
}
_HTML = re.compile(rb"(?:\xef\xbb\xbf)*\s*<(?:!doctype html|html|head|body)\b", re.IGNORECASE)
_NO_TEXT = "is not text; a job file is JSON lines, a JSON array or CSV"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """Where the text of a job file comes from, and how it is decoded."""

    name: str
    #: None: standard input.
    path: Path | None
    compression: Compression
    #: Most memory that decompressing it may take.
    max_window_bytes: int
    #: The encoding of the opened stream: UTF-8, or one byte per character.
    encoding: str
    #: The encoding of the file where the opened stream converts it to UTF-8; else None.
    convert_from: str | None

    @property
    def is_replayable(self) -> bool:
        """True if it can be opened more than once."""
        return self.path is not None

    @property
    def is_seekable(self) -> bool:
        """True if an offset in the text is an offset in the file."""
        return self.is_replayable and self.compression == "none" and self.convert_from is None

    def open(self, offset: int = 0) -> BufferedIOBase:
        """Open the text at an offset; a source that is not seekable is read up to there.

        Raises:
            JobFileError: The file cannot be opened, is damaged or ends before the offset; stdin is not text.
        """
        with read_errors_named(self.name), ExitStack() as on_error:
            stream = open_bytes(self.path, self.compression, self.max_window_bytes)
            on_error.push(stream)
            if self.convert_from is not None:
                stream = as_utf8(stream, self.convert_from)
                on_error.push(stream)
            if self.is_seekable:
                stream.seek(offset)
            else:
                skip_bytes(stream, offset)
            if not self.is_replayable and _is_binary(stream.peek(1)):
                raise JobFileError(_NO_TEXT, file=self.name)
            on_error.pop_all()
            return stream

    def last_change(self) -> tuple[int, int]:
        """Return the file's size in bytes and the time of its last change, in nanoseconds since 1970."""
        assert self.path is not None, "a pipe has neither"
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns

    def is_being_written(self) -> bool:
        """True if a process has the file open for writing; False also where the system does not say it.

        Linux refuses a read lease then. If a process begins to write while we hold it, it waits for an instant.
        """
        assert self.path is not None, "a pipe is read to its end"
        try:
            with open(self.path, "rb", opener=input_opener) as opened:
                # The default signal for a broken lease would end this process.
                fcntl.fcntl(opened, fcntl.F_SETSIG, signal.SIGURG)
                fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_RDLCK)
                fcntl.fcntl(opened, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except (AttributeError, OSError) as error:
            return isinstance(error, BlockingIOError)
        return False


def find_text(job_format: JobFormat) -> TextSource:
    """Look at the beginning of a job file to learn how it is decoded.

    Raises:
        JobFileError: It is missing, unreadable or not text.
        ConfigError: `encoding` is unknown.
    """
    encoding = None if job_format.encoding is None else known_encoding(job_format.encoding)
    path = None if job_format.is_stdin else job_format.copy or Path(job_format.path)
    with read_errors_named(job_format.name, is_first=True):
        if path is not None:
            _check_regular(path)
            encoding = _check_text(path, job_format, encoding)
    encoding = encoding or "utf-8"
    is_direct = encoding == "utf-8" or ONE_BYTE.fullmatch(encoding) is not None
    return TextSource(
        name=job_format.name,
        path=path,
        compression=job_format.compression,
        max_window_bytes=job_format.max_window_bytes,
        encoding=encoding if is_direct else "utf-8",
        convert_from=None if is_direct else encoding,
    )


@contextmanager
def read_errors_named(name: str, *, is_first: bool = False) -> Iterator[None]:
    """Turn an error of reading into one that names the file and says what to do.

    Args:
        name: of the file, as the user named it.
        is_first: whether the file is opened for the first time; else it could be read before.

    Raises:
        JobFileError: the file is damaged, goes on without a row, or is missing from the beginning.
        JobFileLost: this machine cannot read it any more.
    """
    try:
        yield
    except NoRow as error:
        raise JobFileError(str(error), file=name) from error
    except EOFError as error:
        raise JobFileError("is cut off: the compressed data ends too early; copy it again", file=name) from error
    except (gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        if "too much memory" in str(error):
            problem = (
                "needs more memory to be decompressed than jobs.max_window_mb, which is 8 at most in a worker; compress"
                " it again without --long and --ultra"
            )
            raise JobFileError(problem, file=name) from error
        raise JobFileError(f"is damaged or not compressed as its name says ({error})", file=name) from error
    except UnicodeError as error:
        problem = f"is damaged or not in the encoding that jobs.encoding or its first bytes name ({error})"
        raise JobFileError(problem, file=name) from error
    except OSError as error:
        if is_first and error.errno not in TOO_MANY:
            what = (
                "there is no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
            )
            raise JobFileError(what, file=name) from error
        raise JobFileLost(f"{name}: {_lost_words(error)}") from error


def _lost_words(error: OSError) -> str:
    if error.errno in TOO_MANY:
        return too_many_words()
    if isinstance(error, FileNotFoundError):
        return "was moved or removed while this batch used it; put it back and run the same command: nothing is lost"
    return f"cannot be read any further: {error.strerror or error}; mend that and run the same command: nothing is lost"


def _check_regular(path: Path) -> None:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise JobFileError("is a directory; name a file", file=path)
    if not stat.S_ISREG(mode):
        raise JobFileError("is a pipe or a device; send its JSON lines to standard input, named '-'", file=path)


def _check_text(path: Path, job_format: JobFormat, encoding: str | None) -> str | None:
    """Refuse a file that is not text; return its encoding, if given or known by a byte order mark."""
    with open_bytes(path, job_format.compression, job_format.max_window_bytes) as stream:
        head = stream.read(_HEAD_BYTES)
    if encoding is None and (marked := marked_encoding(head)) is not None:
        return marked
    for magic, problem in _MAGIC.items():
        if head.startswith(magic):
            raise JobFileError(problem, file=job_format.name)
    if _HTML.match(head):
        raise JobFileError(
            "is a web page (HTML), perhaps one to sign in; download the file again", file=job_format.name
        )
    if (encoding is None or ONE_BYTE.fullmatch(encoding)) and _is_binary(head):
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
