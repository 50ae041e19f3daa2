"""The event loop of a command, and what of the process is set for it."""

import gc
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import anyio

from batchrun.runtime.open_files import raise_limit

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Python's own are 700, 10, 10: with thousands of requests open, a tenth of the time would go into looking through
#: what lives, and each full look would hold up the loop. What cycles may hold in vain stays below two million objects.
_GC_THRESHOLDS = (10_000, 10, 20)


def run_async(function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Run a coroutine function to its end; on uvloop where there is one, which halves the cost of a request."""
    # What was imported lives as long as the process: it need never be looked through again.
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    raise_limit()
    return anyio.run(function, *args, backend_options={"use_uvloop": sys.platform != "win32"})
