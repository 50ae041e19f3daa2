"""Whether this process may still allocate so much memory."""

import mmap
import sys


def check_memory(size: int) -> None:
    """Raise MemoryError unless this many bytes can be allocated now: orjson crashes where an allocation fails.

    The bytes are reserved, not touched, and given back. Windows is not asked.
    """
    if sys.platform != "win32":
        try:
            mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        except OSError as error:
            raise MemoryError from error
