"""Keeps an unexpected error at what it belongs to, where many of different people are served by one process."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

_log = structlog.get_logger()


@contextmanager
def contained(event: str, *, is_known: Callable[[Exception], bool] = lambda _: False, **keys: str) -> Iterator[None]:
    """Log an error as `event` and go on after the block: a boundary, within which one thing fails alone.

    Args:
        event: of the log.
        is_known: true for an error, such as that of a full disk, that needs no traceback.
        keys: of the log.
    """
    try:
        yield
    except Exception as error:  # noqa: BLE001 - the errors of one thing, whatever they are, must not end the others
        if is_known(error):
            _log.warning(event, reason=str(error), **keys)
        else:
            _log.exception(event, **keys)
