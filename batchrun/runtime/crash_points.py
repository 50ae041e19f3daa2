"""Named points in the life of a job at which a crash test kills the process.

BATCHRUN_KILL_AT=intended:3 kills the process with SIGKILL the third time it reaches the point `intended`;
intended:3:SIGSTOP stops it there. Without the variable, a point costs one comparison.
"""

import os
import signal
from itertools import count

_name, _, _rest = os.environ.get("BATCHRUN_KILL_AT", "").partition(":")
_at, _, _signal = _rest.partition(":")
_reached = count(1)


def crash_point(name: str) -> None:
    """Kill or stop this process if BATCHRUN_KILL_AT names this point and it has been reached often enough."""
    if name == _name and next(_reached) == int(_at or 1):
        os.kill(os.getpid(), signal.Signals[_signal or "SIGKILL"])
