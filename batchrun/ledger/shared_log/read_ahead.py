"""Reads of a log in which each takes a round trip: several are in flight."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

#: Reads in flight while a log is replayed.
READS_AT_ONCE = 16


def read_ahead(read: Callable[[int], bytes | None], number: int) -> Iterator[bytes]:
    """Yield the entries of a log from one on, with several reads in flight, up to the last one that there is."""
    first = read(number)
    if first is None:
        return
    yield first
    with ThreadPoolExecutor(READS_AT_ONCE, "batchrun-log") as readers:
        while True:
            for entry in readers.map(read, range(number + 1, number + 1 + READS_AT_ONCE)):
                if entry is None:
                    return
                yield entry
                number += 1
