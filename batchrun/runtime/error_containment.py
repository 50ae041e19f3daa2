"""Keeps an unexpected error at what it belongs to, where many of different people are served by one process."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

_log = structlog.get_logger()


@contextmanager
def contained(event: str, **keys: str) -> Iterator[None]:
    """Log an unexpected error as `event` and go on after the block: a boundary, within which one thing fails alone."""
    try:
        yield
    except Exception:  # noqa: BLE001 - the errors of one thing, whatever they are, must not end the others
        _log.exception(event, **keys)
