"""When a file or directory was made: of two with the same inode, the later one is another one."""

import ctypes
import os
import sys
from pathlib import Path

#: Of linux/stat.h: paths relative to the current directory, the field that is wanted, its place, the whole's size.
_AT_FDCWD, _STATX_BTIME, _BTIME_AT, _STATX_BYTES = -100, 0x800, 80, 256


def birth_time_ns(path: Path) -> int:
    """Return when a file or directory was made, in nanoseconds since 1970; 0: this system or file system does not tell.

    Before 3.15, Python does not ask Linux.
    """
    if sys.platform != "linux":
        return int(getattr(path.stat(), "st_birthtime", 0) * 1e9)
    try:
        statx = ctypes.CDLL(None).statx
    except AttributeError:  # glibc before 2.28
        return 0
    found = ctypes.create_string_buffer(_STATX_BYTES)
    is_refused = statx(_AT_FDCWD, os.fsencode(path), 0, _STATX_BTIME, found)
    fields = found.raw
    if is_refused or not int.from_bytes(fields[:4], sys.byteorder) & _STATX_BTIME:
        return 0
    seconds = int.from_bytes(fields[_BTIME_AT : _BTIME_AT + 8], sys.byteorder, signed=True)
    return seconds * 10**9 + int.from_bytes(fields[_BTIME_AT + 8 : _BTIME_AT + 12], sys.byteorder)
