"""Turns for many callers: none's many requests hold up another's one."""

import anyio

from batchrun.runtime.fair_turns import FairTurns


async def test_a_caller_waits_for_no_more_than_the_turns_that_are_taken() -> None:
    """Fifty requests of one caller are before it, and two turns at once."""
    turns, ended = FairTurns(2), list[str]()

    async def take(caller: str) -> None:
        async with turns.turn(caller):
            await anyio.sleep(1)
        ended.append(caller)

    async with anyio.create_task_group() as children:
        for _ in range(50):
            children.start_soon(take, "many")
        await anyio.sleep(0.5)
        began_at = anyio.current_time()
        await take("one")
        assert anyio.current_time() - began_at == 1
        assert ended.count("many") == 1


async def test_no_more_turns_at_once_than_there_are() -> None:
    """Also of many callers; those who give up leave nothing behind."""
    turns, now, most = FairTurns(3), 0, 0

    async def take(caller: int) -> None:
        nonlocal now, most
        with anyio.move_on_after(2.5):
            async with turns.turn(caller):
                now += 1
                most = max(most, now)
                try:
                    await anyio.sleep(1)
                finally:
                    now -= 1

    async with anyio.create_task_group() as children:
        for n in range(20):
            children.start_soon(take, n)
    assert (now, most, turns._lines) == (0, 3, {})
