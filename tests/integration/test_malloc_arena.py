import os
import platform
import subprocess
import sys

import pytest

#: Lets four threads take memory, each while the others hold theirs, and prints glibc's own account of its arenas.
THREADS = """
import ctypes, sys, threading
from batchrun.runtime.malloc_arena import share_one_arena
if sys.argv[1] == "share":
    share_one_arena()
all_hold = threading.Barrier(4)
def hold():
    held = [bytes(5000) for _ in range(100)]
    all_hold.wait()
threads = [threading.Thread(target=hold) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has arenas")
@pytest.mark.parametrize(
    ("mode", "variables", "are_many"),
    [("share", {}, False), ("-", {}, True), ("share", {"MALLOC_ARENA_MAX": "8"}, True)],
)
def test_all_threads_share_one_arena(mode: str, variables: dict[str, str], are_many: bool) -> None:
    """What one thread gives back serves the others; only a user's own setting is left as it is."""
    environ = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | variables
    done = subprocess.run(
        [sys.executable, "-c", THREADS, mode], env=environ, capture_output=True, text=True, check=True, timeout=60
    )
    arenas = done.stdout.count("<heap nr=")
    assert (arenas > 1) is are_many, done.stdout
