"""Signals that stop a batch: the first one drains; a second one, or a hang-up, exits and leaves Runs running."""

import signal

import anyio

from batchrun.batch.opened_batch import Batch
from batchrun.cli.terminal import say
from batchrun.report.number_words import counted

_WORDS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "hang-up"}


async def obey_signals(batch: Batch, running: anyio.CancelScope, drain_s: float) -> None:
    """Wait for signals until cancelled; `running` is cancelled to exit, at the latest `drain_s` after the first one."""
    # Signals ignored at our start (nohup) stay ignored.
    handled = [number for number in _WORDS if signal.getsignal(number) is not signal.SIG_IGN]
    with anyio.open_signal_receiver(*handled) as signals:
        is_draining = False
        async for number in signals:
            batch.stop_starting()
            if is_draining or number == signal.SIGHUP:
                running.cancel()
                return
            is_draining = True
            running.deadline = anyio.current_time() + drain_s
            live = counted(batch.live_runs, "live Run")
            say(f"{_WORDS[number]}: no new starts; waiting up to {drain_s:g} s for {live}.")
            say("Press Ctrl-C again to exit and leave them running.")
