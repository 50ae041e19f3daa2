"""Signals that stop a batch: the first one drains; a second one, or a hang-up, exits and leaves Runs running."""

import signal

import anyio

from batchrun.batch.running_batch import Batch
from batchrun.cli.terminal import say_text
from batchrun.words.number_words import counted

_WORDS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "hang-up"}


def heeded_signals() -> list[signal.Signals]:
    """Return the signals that stop a process; one that was ignored at its start (nohup) stays ignored."""
    return [number for number in _WORDS if signal.getsignal(number) is not signal.SIG_IGN]


async def obey_signals(batch: Batch, running: anyio.CancelScope, drain_s: float) -> None:
    """Wait for signals until cancelled; `running` is cancelled to exit, at the latest `drain_s` after the first one."""
    with anyio.open_signal_receiver(*heeded_signals()) as signals:
        is_draining = False
        async for number in signals:
            batch.stop_starting()
            if is_draining or number == signal.SIGHUP:
                running.cancel()
                return
            is_draining = True
            running.deadline = anyio.current_time() + drain_s
            say_text(f"{_WORDS[number]}: {draining_words(batch.live_runs, drain_s, number)}")


def draining_words(live: int, drain_s: float, number: signal.Signals) -> str:
    """Return what a first signal brings about, with what a second one would, where Runs are live."""
    if not live:
        return "no new starts; no Run is live."
    again = "Press Ctrl-C again to exit" if number == signal.SIGINT else f"Send {_WORDS[number]} again to exit"
    return (
        f"no new starts; waiting up to {drain_s:g} s for {counted(live, 'live Run')}.\n{again} and leave them running."
    )
