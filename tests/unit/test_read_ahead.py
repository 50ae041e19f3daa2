"""Reads of a log that take a round trip each: several are in flight, and few are in vain."""

import threading
from collections.abc import Callable

import pytest

from batchrun.ledger.shared_log.read_ahead import read_ahead, read_up_to_the_end


def entries(count: int, asked: list[int]) -> Callable[[int], str | None]:
    """Return what reads a log with some entries, and notes which ones it is asked for."""

    def read(number: int) -> str | None:
        asked.append(number)
        return f"entry {number}" if number < count else None

    return read


@pytest.mark.parametrize(("count", "begin", "reads"), [(5, 5, 1), (6, 5, 3), (7, 5, 5), (0, 0, 1), (500, 0, 532)])
def test_a_log_is_read_to_its_end_with_few_reads_beyond_it(count, begin, reads):
    """A standby and each worker of a fleet look again and again, and each read has a price."""
    asked: list[int] = []
    found = list(read_up_to_the_end(entries(count, asked), begin))
    assert found == [f"entry {n}" for n in range(begin, count)]
    assert sorted(asked) == list(range(begin, begin + len(asked)))
    assert count - begin < len(asked) <= reads


def test_a_long_log_is_read_with_several_reads_in_flight():
    """As many as are allowed, once that many entries were found; results come in order."""
    at_once, all_at_once = 4, threading.Barrier(4)

    def read(number: int) -> int | None:
        if 10 <= number < 14:
            all_at_once.wait(60)
        return number if number < 20 else None

    assert list(read_up_to_the_end(read, 0, at_once)) == list(range(20))


def test_what_is_known_to_be_there_is_read_at_once():
    """The parts of a snapshot have names."""
    all_at_once = threading.Barrier(3)

    def read(name: str) -> str:
        all_at_once.wait(60)
        return name.upper()

    assert list(read_ahead(read, "abc", 3)) == ["A", "B", "C"]
