"""A clock that cannot be set, and that goes on while the machine is suspended."""

import asyncio
import sys
import time
from collections.abc import Callable


def loop_time() -> float:
    """Return what `anyio.current_time` does, in a quarter of the time."""
    return asyncio.get_running_loop().time()


def loop_clock() -> Callable[[], float]:
    """Return the running loop's clock, for those that ask often: `loop_time` looks up the loop, with a system call."""
    return asyncio.get_running_loop().time


def steady_time() -> float:
    """Return the loop's time in seconds, plus the time for which the machine was suspended, where it counts that."""
    return loop_time() + _suspended_s()


if sys.platform == "linux":

    def boot_time() -> float:
        """Return the seconds since the machine was started, those for which it was suspended included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def _suspended_s() -> float:
        # In this order, a pause of this process between the two makes the time too early, never too late.
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)

elif sys.platform == "darwin":

    def boot_time() -> float:
        return time.clock_gettime(time.CLOCK_MONOTONIC)

    def _suspended_s() -> float:
        return time.clock_gettime(time.CLOCK_MONOTONIC) - time.clock_gettime(time.CLOCK_UPTIME_RAW)

else:

    def boot_time() -> float:
        return time.monotonic()

    def _suspended_s() -> float:
        return 0.0
