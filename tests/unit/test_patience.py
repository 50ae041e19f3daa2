"""Waits for the platform's first answer, which are noted again and again."""

import asyncio
from typing import cast

import anyio

from batchrun.account.connect import Wait, on_wait, patiently
from tests.support.scripted_session import Response, client_of
from tests.support.virtual_time import VirtualTimeLoop


async def test_a_process_that_stood_still_waits_on() -> None:
    """A machine that sleeps or swaps for 13 seconds misses the time of its next notes; the answer comes after that."""
    client, _ = client_of(lambda _: Response())
    noted = list[float]()

    def stand_still(wait: Wait) -> None:
        noted.append(wait.waited_s)
        if len(noted) == 1:
            cast("VirtualTimeLoop", asyncio.get_running_loop()).stand_still(13)

    async def answer() -> str:
        await anyio.sleep(20)
        return "answer"

    on_wait.set(stand_still)
    assert await patiently(client, answer()) == "answer"
    assert len(noted) > 2
