"""Stopping from outside: the first signal drains, the second one (or a hang-up) leaves Runs running and noted."""

import signal
from collections.abc import Callable

import anyio

from batchrun.cli.terminal import say

_WORDS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "hang-up"}


async def obey_signals(*, drain: Callable[[], int], leave: Callable[[], None], drain_s: float) -> None:
    """Wait for signals until cancelled.

    Args:
        drain: starts nothing more and returns how many Runs are live.
        leave: ends at once; Runs go on.
        drain_s: how long after the first signal `leave` is called anyway.
    """
    async with anyio.create_task_group() as children:
        # What was ignored when we began (nohup) stays ignored.
        heeded = [number for number in _WORDS if signal.getsignal(number) is not signal.SIG_IGN]
        with anyio.open_signal_receiver(*heeded) as signals:
            is_draining = False
            async for number in signals:
                if is_draining or number == signal.SIGHUP:
                    leave()
                    return
                is_draining = True
                live = drain()
                say(f"{_WORDS[number]}: no new starts; waiting up to {drain_s:g} s for {live} live Runs.")
                say("Once more leaves them running.")
                children.start_soon(_leave_later, leave, drain_s)


async def _leave_later(leave: Callable[[], None], drain_s: float) -> None:
    await anyio.sleep(drain_s)
    leave()
