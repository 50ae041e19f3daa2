"""The one place where logging is configured: JSON lines to the batch's log file, written by a thread of its own."""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import structlog

FILE_NAME = "batch.log"
_END = b""


@contextmanager
def logging_to(file: Path, *, level: str = "info") -> Iterator[None]:
    """Write log lines of this level and above to a file until the context ends.

    The file is opened with the first line, so that a command which fails before it did anything leaves none.
    A log that cannot be written costs log lines and nothing else.
    """
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    writer = threading.Thread(target=_write, args=(file, lines), name=FILE_NAME, daemon=True)
    writer.start()
    _configure(level, lines)
    try:
        yield
    finally:
        structlog.reset_defaults()
        lines.put(_END)
        writer.join(timeout=1)


def _write(file: Path, lines: "queue.SimpleQueue[bytes]") -> None:
    opened: BinaryIO | None = None
    is_open = True
    while is_open:
        # What waits goes out at once: a write for each line would take the interpreter from the loop for each line.
        waiting = [lines.get()]
        while not lines.empty():
            waiting.append(lines.get())
        is_open = _END not in waiting
        with suppress(OSError):
            opened = opened or (file.open("ab", buffering=0) if any(waiting) else None)
            if opened is not None:
                opened.write(b"".join(waiting))
    if opened is not None:
        opened.close()


class _QueueLogger:
    """What structlog hands finished lines to; the event loop never waits for a file."""

    def __init__(self, lines: "queue.SimpleQueue[bytes]") -> None:
        self._lines = lines

    def msg(self, line: bytes) -> None:
        self._lines.put(line + b"\n")

    debug = info = warning = error = critical = msg


def _configure(level: str, lines: "queue.SimpleQueue[bytes]") -> None:
    logger = _QueueLogger(lines)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_args: logger,
        cache_logger_on_first_use=False,
    )


def _dumps(event: dict[str, Any], **_options: Any) -> bytes:
    try:
        return orjson.dumps(event, default=str)
    except TypeError:  # a lone surrogate, or a number beyond 64 bits, in what somebody else said
        return orjson.dumps({key: _plain(value) for key, value in event.items()})


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else ascii(value)


def silence() -> None:
    """Log nothing, for commands that have no batch to log for."""
    structlog.configure(
        processors=[], wrapper_class=structlog.make_filtering_bound_logger("critical"), cache_logger_on_first_use=False
    )
