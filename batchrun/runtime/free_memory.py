"""How much memory JSON takes, and whether this process may still allocate so much."""

import mmap
import sys

#: `parsed_bytes` of a text is at most so many times its length: that of a row of `{`.
PARSED_BYTES_PER_BYTE = 145


def check_memory(size: int) -> None:
    """Raise MemoryError unless this many bytes can be allocated now: orjson crashes where an allocation fails.

    The bytes are reserved, not touched, and given back. Windows is not asked.
    """
    if sys.platform != "win32":
        try:
            mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        except OSError as error:
            raise MemoryError from error


def parsed_bytes(text: bytes) -> int:
    """Return about how many bytes JSON takes once it is parsed, rather too many: `{}` takes 72, and `{"a":1}` 192."""
    objects, names = text.count(b"{"), text.count(b":")
    filled = objects - text.count(b"{}")
    texts = max(0, text.count(b'"') // 2 - names)
    return (
        len(text)
        + 64 * (objects + text.count(b"["))
        + 80 * filled
        + 32 * text.count(b",")
        + 24 * names
        + 49 * texts
    )  # fmt: skip
