"""Signals that stop a batch: the first one drains; a second one, or a hang-up, exits and leaves Runs running."""

import signal
from collections.abc import Callable

import anyio

from batchrun.cli.terminal import say

_WORDS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "hang-up"}


async def obey_signals(*, drain: Callable[[], int], leave: Callable[[], None], drain_s: float) -> None:
    """Wait for signals until cancelled.

    Args:
        drain: stops new starts and returns the number of live Runs.
        leave: exits at once and leaves Runs running.
        drain_s: `leave` is called this many seconds after the first signal.
    """
    async with anyio.create_task_group() as children:
        # Signals ignored at our start (nohup) stay ignored.
        handled = [number for number in _WORDS if signal.getsignal(number) is not signal.SIG_IGN]
        with anyio.open_signal_receiver(*handled) as signals:
            is_draining = False
            async for number in signals:
                if is_draining or number == signal.SIGHUP:
                    leave()
                    return
                is_draining = True
                live = drain()
                say(f"{_WORDS[number]}: no new starts; waiting up to {drain_s:g} s for {live} live Runs.")
                say("Press Ctrl-C again to exit and leave them running.")
                children.start_soon(_leave_later, leave, drain_s)


async def _leave_later(leave: Callable[[], None], drain_s: float) -> None:
    await anyio.sleep(drain_s)
    leave()
