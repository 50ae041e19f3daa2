"""The one place where logging is configured: JSON lines, written to files by a thread.

Nothing is redacted here: no event has a token, overrides or a body. Only `apify/current_token.py` reads the token out
of its `SecretStr`; `policy/secret_fields.py` masks secret values in the platform's texts.
"""

import logging
import os
import queue
import re
import threading
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson
import structlog

from batchrun.runtime.private_files import private_opener

#: Log files that are open at once; the one written to least recently is closed for another.
MAX_OPEN_FILES = 32
#: Bytes at which a log rotates, and how many earlier pieces stay beside it, as NAME.1 (the newest) to NAME.4.
ROTATES_AT_BYTES = 32 << 20
KEPT_PIECES = 4
#: Characters of a library's message, and of the end of its traceback: they may repeat what a stranger sent.
_MAX_MESSAGE = 2000
#: What may be a key in an address that a library quotes: its user, with the password, and its query.
_SECRET_PART = re.compile(r"(?<=//)[^/\s]*@|(?<=\?)\S+")


class _Line(NamedTuple):
    text: bytes
    #: The batch that the line is about, in a process that carries out several.
    batch: str | None = None


_END = _Line(b"")
_Lines = queue.SimpleQueue[_Line]


@contextmanager
def logging_to(
    file: Path,
    *,
    level: str = "info",
    file_of: Callable[[str], Path | None] = lambda _: None,
) -> Iterator[None]:
    """Write log lines of this level and above to a file until the context ends.

    A file is opened with its first line: a command that fails early leaves none. It is opened again after it was moved
    away, as log rotation does. If a log cannot be written, its lines are lost and nothing else happens.

    A full file is renamed, and its oldest piece is removed: a process may run for months, and a batch have millions of
    jobs.

    `file_of` returns the file for lines about a batch; it is called in another thread. Lines go to `file` if it returns
    None or a file that cannot be opened.
    """
    lines = _Lines()
    writer = threading.Thread(target=_Writer(file, file_of).run, args=(lines,), name="log", daemon=True)
    writer.start()
    _configure(level, lines)
    try:
        yield
    finally:
        structlog.reset_defaults()
        lines.put(_END)
        writer.join(timeout=1)


class _File:
    """A log file, opened again when its name no longer leads to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened = _open(path)

    def write(self, text: bytes) -> None:
        if not self._is_in_place():
            opened = _open(self._path)  # if this fails, the old one can still be asked
            self._opened.close()
            self._opened = opened
        self._opened.write(text)
        if os.fstat(self._opened.fileno()).st_size >= ROTATES_AT_BYTES:
            self._rotate()

    def _rotate(self) -> None:
        """Rename the file; the next line opens a new one."""
        pieces = [piece_of(self._path, number) for number in range(KEPT_PIECES + 1)]
        for older, newer in zip(reversed(pieces[1:]), reversed(pieces[:-1]), strict=True):
            with suppress(FileNotFoundError):
                newer.replace(older)

    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._opened.fileno()))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        self._opened.close()


def piece_of(file: Path, number: int) -> Path:
    """Return where the pieces of a log are: 0 is the log itself, 1 the newest of the earlier ones."""
    return file.with_name(f"{file.name}.{number}") if number else file


def _open(path: Path) -> IO[bytes]:
    return open(path, "ab", buffering=0, opener=private_opener)


class _Writer:
    """Writes lines to their files, in a thread: the event loop never waits for a file."""

    def __init__(self, file: Path, file_of: Callable[[str], Path | None]) -> None:
        self._file = file
        self._file_of = file_of
        self._open: OrderedDict[Path, _File] = OrderedDict()

    def run(self, lines: _Lines) -> None:
        """Write lines until the end mark comes."""
        is_open = True
        while is_open:
            # All waiting lines go out in one write: each write takes the interpreter from the event loop.
            waiting = [lines.get()]
            while not lines.empty():
                waiting.append(lines.get())
            is_open = _END not in waiting
            texts: dict[Path, list[bytes]] = {}
            for line in waiting:
                texts.setdefault(self._path_of(line), []).append(line.text)
            for path, parts in texts.items():
                if text := b"".join(parts):
                    self._write(path, text)
        for file in self._open.values():
            file.close()

    def _path_of(self, line: _Line) -> Path:
        return (self._file_of(line.batch) if line.batch is not None else None) or self._file

    def _write(self, path: Path, text: bytes) -> None:
        try:
            self._append(path, text)
        except OSError:
            if path != self._file:
                self._write(self._file, text)

    def _append(self, path: Path, text: bytes) -> None:
        file = self._open.pop(path, None) or _File(path)
        self._open[path] = file
        if len(self._open) > MAX_OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        file.write(text)


class _QueueLogger:
    def __init__(self, lines: _Lines) -> None:
        self._lines = lines

    def msg(self, text: bytes, batch: str | None) -> None:
        self._lines.put(_Line(text, batch))

    debug = info = warning = error = critical = msg


def _configure(level: str, lines: _Lines) -> None:
    logger = _QueueLogger(lines)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            _stamp,
            structlog.processors.format_exc_info,
            _finish,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_args: logger,
        cache_logger_on_first_use=False,
    )


def _stamp(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add the time, which is written as ISO with Z: structlog's own processor makes a text of it, ten times slower."""
    event["timestamp"] = datetime.now(UTC)
    return event


def _finish(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[bytes, str | None], dict[str, Any]]:
    """Return the logger's arguments: the line, and the batch that it is about."""
    batch = event.get("batch")
    return (_dumps(event) + b"\n", batch if isinstance(batch, str) else None), {}


def _dumps(event: MutableMapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_UTC_Z)
    except TypeError:  # a lone surrogate, or a number beyond 64 bits, in foreign text
        return orjson.dumps({key: _plain(value) for key, value in event.items()}, option=orjson.OPT_UTC_Z)


def _plain(value: Any) -> str | datetime:
    is_plain = isinstance(value, datetime) or (isinstance(value, str) and value.isprintable())
    return value if is_plain else ascii(value)


class _LibraryMessages(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if not structlog.is_configured():
            return
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - whatever is wrong with its arguments, the library goes on
            message = str(record.msg)
        said = {"library": record.name, "message": without_secret_parts(message)[:_MAX_MESSAGE]}
        if record.exc_info:
            trace = "".join(traceback.format_exception(*record.exc_info))
            said["exception"] = without_secret_parts(trace)[-_MAX_MESSAGE:]
        log = structlog.get_logger()
        say = log.error if record.levelno >= logging.ERROR else log.warning
        say("library_said", **said)


def without_secret_parts(message: str) -> str:
    """Return a library's message without what may be keys in the addresses that it quotes."""
    return _SECRET_PART.sub("***", message)


def take_library_messages() -> None:
    """Write what libraries log into the log, while there is one: warnings and errors, for the rest of the process.

    By themselves `logging` and `warnings` print on stderr, and the event loop waits until somebody reads that.
    """
    logging.captureWarnings(True)
    root = logging.getLogger()
    if not any(isinstance(each, _LibraryMessages) for each in root.handlers):
        root.addHandler(_LibraryMessages(logging.WARNING))


def silence() -> None:
    """Log nothing: for commands without a batch."""
    structlog.configure(
        processors=[], wrapper_class=structlog.make_filtering_bound_logger("critical"), cache_logger_on_first_use=False
    )
