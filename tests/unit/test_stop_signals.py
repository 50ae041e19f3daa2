"""What a first signal is answered with."""

import signal

from batchrun.cli.stop_signals import draining_words


def test_a_drain_without_live_runs_waits_for_none() -> None:
    """Nothing can be left running then, so a second Ctrl-C is not offered."""
    assert draining_words(0, 60, signal.SIGTERM) == "no new starts; no Run is live."
    assert draining_words(1, 60, signal.SIGINT).splitlines() == [
        "no new starts; waiting up to 60 s for 1 live Run.",
        "Press Ctrl-C again to exit and leave them running.",
    ]
    # Who sends SIGTERM has no terminal, as a rule.
    assert draining_words(1, 60, signal.SIGTERM).endswith("Send SIGTERM again to exit and leave them running.")
