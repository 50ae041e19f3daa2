"""Named points of the start protocol at which a crash test kills the process; without one named, they cost nothing.

BATCHRUN_KILL_AT=intended:3 kills the process, as a power cut would, the third time it reaches the point `intended`.
"""

import os
import signal
from itertools import count

_name, _, _at = os.environ.get("BATCHRUN_KILL_AT", "").partition(":")
_reached = count(1)


def crash_point(name: str) -> None:
    """Kill this process if BATCHRUN_KILL_AT names this point and it has been reached often enough."""
    if name == _name and next(_reached) == int(_at or 1):
        os.kill(os.getpid(), signal.SIGKILL)
