"""Reads that take a round trip each: several are in flight."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count, islice, takewhile
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

#: Reads of entries in flight while a log is replayed.
READS_AT_ONCE = 32


def read_up_to_the_end(read: Callable[[int], bytes | None], number: int) -> Iterator[bytes]:
    """Yield the entries of a log from one on, up to the last one that there is."""
    first = read(number)
    if first is None:
        return
    yield first
    for entry in takewhile(lambda found: found is not None, read_ahead(read, count(number + 1))):
        assert entry is not None
        yield entry


def read_ahead(read: Callable[[K], V], numbers: Iterable[K], at_once: int = READS_AT_ONCE) -> Iterator[V]:
    """Yield what `read` returns for some numbers or names, in their order, with several calls in flight."""
    left = iter(numbers)
    under_way: deque[Future[V]] = deque()
    with ThreadPoolExecutor(at_once, "batchrun-log") as readers:
        try:
            under_way.extend(readers.submit(read, number) for number in islice(left, at_once))
            while under_way:
                yield under_way.popleft().result()
                under_way.extend(readers.submit(read, number) for number in islice(left, 1))
        finally:
            for future in under_way:
                future.cancel()
