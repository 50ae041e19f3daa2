"""How deep the call stack of a start is: a reader follows it downward, function by function."""

import sys
from asyncio import Future
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from batchrun import open_batch
from batchrun.apify import connections
from batchrun.engine.scheduler import Scheduler
from batchrun.runtime.byte_budget import Fits
from batchrun.server import InlineContext
from tests.support.inline_batch import ENVIRON, batch_config, serving

#: Frames that a reader follows from the scheduler's child to the write on the socket.
MAX_FRAMES = 10


async def nothing(context: InlineContext) -> None:
    """Do nothing."""


def _names_up_to(frame: FrameType | None, last: object) -> Iterator[str]:
    while frame is not None:
        yield frame.f_code.co_qualname
        if frame.f_code is last:
            return
        frame = frame.f_back


async def test_a_start_is_ten_frames_from_the_schedulers_child_to_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From `Scheduler._carry_jobs` to the write of the start request, both included, there are at most ten frames."""
    stacks: list[list[str]] = []
    ask = connections._Connection.ask

    def noting(
        connection: connections._Connection, request: bytes, silence_s: float, fits: Fits | None
    ) -> "Future[None]":
        if request.startswith(b"POST /v2/actor-tasks/") and b"/runs?" in request:
            callers = _names_up_to(sys._getframe(1), Scheduler._carry_jobs.__code__)
            stacks.append([ask.__code__.co_qualname, *callers])
        return ask(connection, request, silence_s, fits)

    monkeypatch.setattr(connections._Connection, "ask", noting)
    async with serving(tmp_path, nothing) as server:
        config = batch_config(tmp_path, server, [{"n": 1}, {"n": 2}])
        async with open_batch(config, environ=ENVIRON) as batch:
            await batch.run()
    assert len(stacks) == 2
    for stack in stacks:
        assert stack[-1] == Scheduler._carry_jobs.__qualname__
        assert len(stack) <= MAX_FRAMES, stack
