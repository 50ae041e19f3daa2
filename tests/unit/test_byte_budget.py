import json
import sys
import tracemalloc
from functools import partial

import anyio
import orjson
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import AnswerTooLarge
from batchrun.runtime.byte_budget import MIN_BODY_BYTES, ByteBudget, Fits, Room
from batchrun.runtime.free_memory import PARSED_BYTES_PER_BYTE, check_memory, parsed_bytes

MB = 1 << 20


class _Bodies:
    """Reads bodies into rooms; each goes on, piece by piece, as `go_on` says."""

    def __init__(self, total_mb: int) -> None:
        self.budget = ByteBudget.of_megabytes(total_mb)
        self.reads = 0
        self.in_memory = self.peak = 0

    async def read(self, size: int, fits: Fits) -> int:
        """Let a body grow, a megabyte at a time, while others grow too."""
        self.reads += 1
        grown = 0
        try:
            while grown < size:
                await checkpoint()
                if not fits(grown + MB):
                    raise AnswerTooLarge(grown + MB)
                grown += MB
                self.in_memory += MB
                self.peak = max(self.peak, self.in_memory)
        except AnswerTooLarge:
            self.in_memory -= grown
            raise
        return size

    async def collect(self, *sizes: int, expected_bytes: int = 0, is_kept: bool = False) -> None:
        """Read bodies one after another into one room; with `is_kept`, all stay there to the end."""
        held = 0
        with self.budget.room() as room:
            for size in sizes:
                _, read = await room.fill(partial(self.read, size), expected_bytes=expected_bytes, weight=1)
                assert (room.held, read) == (held + size, size)
                await anyio.sleep(1)
                if is_kept:
                    held += size
                else:
                    room.shrink(0)
                    self.in_memory -= size
            self.in_memory -= held


async def test_bodies_of_unknown_size_stay_within_the_budget() -> None:
    """Each grows as long as there is room; one that has to give way is read once more, and all are read."""
    bodies = _Bodies(10)
    async with anyio.create_task_group() as children:
        for _ in range(20):
            children.start_soon(bodies.collect, 4 * MB)
    assert bodies.peak == 10 * MB or bodies.peak == 8 * MB
    assert 20 < bodies.reads < 60
    assert not any([bodies.in_memory, bodies.budget.room().held])


async def test_bodies_of_the_expected_size_are_read_once() -> None:
    """They wait before they are asked for, not in the middle."""
    bodies = _Bodies(10)
    async with anyio.create_task_group() as children:
        for _ in range(20):
            children.start_soon(lambda: bodies.collect(4 * MB, expected_bytes=4 * MB))
    assert (bodies.reads, bodies.peak) == (20, 8 * MB)


async def test_a_body_larger_than_the_budget_is_read_alone() -> None:
    """It waits until nothing else is in memory, and others wait for it."""
    bodies = _Bodies(10)
    async with anyio.create_task_group() as children:
        for size in (3, 30, 3, 25, 3):
            children.start_soon(bodies.collect, size * MB)
    assert bodies.peak == 30 * MB
    assert bodies.in_memory == 0


async def test_rooms_that_keep_what_they_have_do_not_wait_for_each_other_for_ever() -> None:
    """If all wait, the one that holds most goes on: it gives everything back soonest."""
    bodies = _Bodies(10)
    with anyio.fail_after(1000):
        async with anyio.create_task_group() as children:
            for _ in range(5):
                children.start_soon(lambda: bodies.collect(*[2 * MB] * 6, is_kept=True))
    assert bodies.peak <= (12 + 4 * 2) * MB


async def test_a_body_that_is_not_allowed_to_be_so_large_is_given_up() -> None:
    """That has nothing to do with the budget, and is not tried again."""
    bodies = _Bodies(10)
    with bodies.budget.room() as room, pytest.raises(AnswerTooLarge):
        await room.fill(lambda fits: bodies.read(5 * MB, fits), expected_bytes=0, weight=1, max_bytes=4 * MB)
    assert bodies.reads == 1


async def test_without_memory_a_body_is_tried_once_more_alone() -> None:
    """Other bodies may have had the memory; alone, the error is final."""
    budget = ByteBudget.of_megabytes(10)
    held_by_others: list[int] = []

    async def read(fits: Fits) -> int:
        assert fits(MB)
        held_by_others.append(other.held)
        raise AnswerTooLarge(MB)

    async def leave() -> None:
        await anyio.wait_all_tasks_blocked()
        other.shrink(0)

    with budget.room() as other, budget.room() as room:
        await other.fill(_nothing, expected_bytes=MB, weight=1)
        budget.take(other, MB)
        async with anyio.create_task_group() as children:
            children.start_soon(leave)
            with pytest.raises(AnswerTooLarge):
                await room.fill(read, expected_bytes=0, weight=1)
    assert held_by_others == [MB, 0]


async def test_a_wait_that_is_cancelled_lets_the_next_one_in() -> None:
    """Nothing stays reserved for it."""
    budget = ByteBudget.of_megabytes(10)
    passed: list[str] = []

    async def wait(room: Room, size: int, name: str) -> None:
        await budget.wait(room, size)
        passed.append(name)

    async with anyio.create_task_group() as children:
        first = budget.room()
        assert budget.enter(first, 9 * MB)
        with anyio.move_on_after(1):
            await budget.wait(budget.room(), 5 * MB)
        children.start_soon(wait, budget.room(), MB, "small")
        await anyio.wait_all_tasks_blocked()
        assert passed == ["small"]


async def _nothing(fits: Fits) -> None:
    assert fits(MIN_BODY_BYTES)


def test_memory_that_cannot_be_had_is_noticed_beforehand() -> None:
    """Two to the fiftieth bytes are more than any address space holds."""
    check_memory(1 << 20)
    with pytest.raises(MemoryError):
        check_memory(1 << 50)


async def test_an_answer_waits_for_room_for_what_it_holds() -> None:
    """It is read again once there is; what would take several times the whole budget is too large, even alone."""
    budget = ByteBudget.of_megabytes(4)
    reads: list[int] = []

    async def read(parsed_bytes: int, fits: Fits) -> None:
        reads.append(parsed_bytes)
        if not fits(MB // 2, parsed_bytes):
            raise AnswerTooLarge(parsed_bytes)

    with budget.room() as other, budget.room() as room:
        await other.fill(partial(read, 0), expected_bytes=0, weight=2)
        async with anyio.create_task_group() as children:
            children.start_soon(partial(room.fill, partial(read, 4 * MB), expected_bytes=0, weight=2))
            await anyio.wait_all_tasks_blocked()
            assert (reads, room.held) == ([0, 4 * MB], 0)
            other.shrink(0)
        assert (reads, room.held) == ([0, 4 * MB, 4 * MB], 4 * MB)
        await room.fill(partial(read, 12 * MB), expected_bytes=0, weight=2)
        with pytest.raises(AnswerTooLarge):
            await room.fill(partial(read, 17 * MB), expected_bytes=0, weight=2)
    assert reads[-1] == 17 * MB


@pytest.mark.parametrize(
    "element",
    [
        *({}, [], {"a": 1}, {"a": {}}, "", "ab", 1000, 1.5, None, {f"name_{n}": n for n in range(20)}, [[], []]),
        *(
            "It\u2019s well " * 4,
            "\u4e2d\u6587" * 8,
            "\u041f\u0440" * 8,
            "caf\u00e9 " * 8,
            "\U0001f600 hello world " * 4,
        ),
    ],
)
def test_the_memory_of_json_is_reckoned_from_its_text(element: object) -> None:
    """At least what it takes, and not so much more that usual items would have to wait."""
    text = orjson.dumps([element] * 2_000)
    tracemalloc.start()
    value = orjson.loads(text)
    takes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(value) == 2_000
    assert takes < parsed_bytes(text) < 3 * takes + 30 * len(text)


@pytest.mark.parametrize("is_escaped", [False, True])
@pytest.mark.parametrize("text", ["It\u2019s " * 500, "\u4e2d\u6587" * 900, "\u00e9a" * 900, "\U0001f600 hello " * 500])
def test_texts_of_one_kind_are_reckoned_within_a_half(text: str, is_escaped: bool) -> None:
    """A text takes for each of its characters what its widest one needs, however it is written."""
    written = json.dumps([text] * 100, ensure_ascii=is_escaped).encode()
    takes = 100 * sys.getsizeof(text)
    assert takes < parsed_bytes(written) < 1.5 * takes


@given(st.lists(st.text(min_size=1), min_size=1), st.booleans())
def test_no_text_takes_more_than_what_is_reckoned(texts: list[str], is_escaped: bool) -> None:
    """Whatever it holds: quotes, backslashes and control characters are written longer than they are."""
    written = json.dumps(texts, ensure_ascii=is_escaped).encode(errors="surrogatepass")
    assert sum(len(each) * (sys.getsizeof(each + each) - sys.getsizeof(each)) // len(each) for each in texts) <= (
        parsed_bytes(written)
    )


def test_names_that_are_all_different_are_texts() -> None:
    """An object of very many is reckoned with them."""
    text = orjson.dumps({f"name_{n}": 1 for n in range(100_000)})
    tracemalloc.start()
    value = orjson.loads(text)
    takes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(value) == 100_000
    assert takes < parsed_bytes(text) < 3 * takes


@given(st.text('{}[],:" a\U0001f600').map(str.encode))
def test_what_is_reckoned_from_a_text_has_a_bound(text: bytes) -> None:
    """Of a short one it need not be reckoned, whatever it holds."""
    assert parsed_bytes(text) <= PARSED_BYTES_PER_BYTE * len(text)
