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


def read_up_to_the_end(read: Callable[[int], V | None], number: int, at_once: int = READS_AT_ONCE) -> Iterator[V]:
    """Yield what is stored under the numbers from one on, up to the last one that there is.

    At most one more read is in flight than have found something, so that a look at a log that has not grown, or by one
    entry, takes one read or three.
    """
    for found in takewhile(lambda found: found is not None, read_ahead(read, count(number), at_once, first=1)):
        assert found is not None
        yield found


def read_ahead(
    read: Callable[[K], V], numbers: Iterable[K], at_once: int = READS_AT_ONCE, *, first: int | None = None
) -> Iterator[V]:
    """Yield what `read` returns for some numbers or names, in their order, with several calls in flight.

    Args:
        read: called in several threads.
        numbers: what it is called with.
        at_once: max calls in flight.
        first: max calls in flight at first; each result allows one more, up to `at_once`. None: `at_once`.
    """
    left = iter(numbers)
    under_way: deque[Future[V]] = deque()
    with ThreadPoolExecutor(at_once, "batchrun-log") as readers:
        try:
            under_way.extend(readers.submit(read, number) for number in islice(left, first or at_once))
            while under_way:
                yield under_way.popleft().result()
                more = min(2, at_once - len(under_way))
                under_way.extend(readers.submit(read, number) for number in islice(left, more))
        finally:
            for future in under_way:
                future.cancel()
