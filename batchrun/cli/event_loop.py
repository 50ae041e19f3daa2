"""The event loop of a command, and the process settings that it needs."""

import gc
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

import anyio

from batchrun.account.connect import Wait, on_wait
from batchrun.cli.terminal import say
from batchrun.runtime.logs import take_library_messages
from batchrun.runtime.malloc_arena import share_one_arena
from batchrun.runtime.open_files import raise_limit

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: Thresholds of the cyclic garbage collector. With Python's own (700, 10, 10) and thousands of open requests, a tenth
#: of the time goes into collections, and each full one blocks the loop. Cyclic garbage stays below two million objects.
_GC_THRESHOLDS = (10_000, 10, 20)
#: Stack of a worker thread, in bytes: what Rust gives its threads. The system's own 8 MB count against `ulimit -v` and
#: `ulimit -d`, and a slow disk takes many threads. Checks of the deepest JSON that is read need less than 1 MB.
_THREAD_STACK_BYTES = 2 << 20


def _say_wait(wait: Wait) -> None:
    waited = f"{wait.waited_s:.0f} s, " if wait.waited_s >= 1 else ""
    found = f"no usable answer yet: {wait.reason}" if wait.reason else "no answer yet"
    what = "Waiting for the embedded server" if wait.base_url is None else f"Connecting to {wait.base_url}"
    say(f"{what} ({waited}{found})")


def run_async(function: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Run a coroutine function to its end; on uvloop, except on Windows: it halves the cost of a request."""
    on_wait.set(_say_wait)
    take_library_messages()
    # Imported objects live as long as the process: the collector need not visit them again.
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    raise_limit()
    share_one_arena()
    threading.stack_size(_THREAD_STACK_BYTES)
    return anyio.run(function, *args, backend_options={"use_uvloop": sys.platform != "win32"})
