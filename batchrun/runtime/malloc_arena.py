"""Where the C library takes memory from: one arena for all threads of a command."""

import ctypes
import os
import sys
from contextlib import suppress

#: `M_ARENA_MAX` in glibc's malloc.h; the variable by which a user sets the same.
_M_ARENA_MAX, _VARIABLE = -8, "MALLOC_ARENA_MAX"


def share_one_arena() -> None:
    """Let all threads take memory from one arena, where the C library is glibc; called before there is a thread.

    glibc gives each thread an arena of its own, up to eight per core, and what is free in one serves no other thread.
    That is for threads that take memory at the same time, which Python's lock leaves few of.
    """
    if sys.platform == "linux" and _VARIABLE not in os.environ:
        with suppress(AttributeError):  # another C library has no such setting
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
