"""How much memory JSON takes, and whether this process may still allocate so much."""

import mmap
import re
import sys

#: The most that `parsed_bytes` of a text is, per byte of it: that of a row of `{` before a character of four bytes.
PARSED_BYTES_PER_BYTE = 148
#: Names per object from which on they are hardly the same in several objects, so that each is a text of its own.
_MANY_NAMES = 32
#: Bytes of UTF-8 that begin no character; characters that take four bytes of memory, and two, each also as an escape.
_CONTINUED = bytes(range(0x80, 0xC0))
_WIDE = re.compile(rb"[\xf0-\xff]|\\u[dD][89abAB]")
_BROAD = re.compile(rb"[\xc4-\xff]|\\u(?!00)")


def check_memory(size: int) -> None:
    """Raise MemoryError unless this many bytes can be allocated now: orjson crashes where an allocation fails."""
    if not has_memory(size):
        raise MemoryError


def has_memory(size: int) -> bool:
    """Return whether this many bytes can be allocated now.

    The bytes are reserved, not touched, and given back. Windows is not asked.
    """
    if sys.platform != "win32":
        try:
            mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        except OSError:
            return False
    return True


def parsed_bytes(text: bytes) -> int:
    """Return about how many bytes JSON takes once it is parsed, rather too many: `{}` takes 72, and `{"a":1}` 192.

    Too many by up to four times where some texts are wide and others not: a text takes for each of its characters
    what its widest one needs, and here all texts count as the widest.
    """
    objects, names = text.count(b"{"), text.count(b":")
    filled = objects - text.count(b"{}")
    texts = max(0, text.count(b'"') // 2 - names)
    own_names = names if names > _MANY_NAMES * max(1, filled) else 0
    return (
        decoded_bytes(text)
        + 64 * (objects + text.count(b"["))
        + 80 * filled
        + 32 * text.count(b",")
        + 24 * names
        + 90 * own_names
        + 49 * texts
    )  # fmt: skip


def decoded_bytes(text: bytes) -> int:
    """Return how many bytes UTF-8 takes as a text of Python, with the escapes of JSON decoded; rather too many."""
    is_ascii, escapes = text.isascii(), text.count(b"\\u")
    if is_ascii and not escapes:
        return len(text)
    characters = len(text) if is_ascii else len(text.translate(None, _CONTINUED))
    if escapes and b"\\\\" not in text:
        characters -= 5 * escapes
    return characters * (4 if _WIDE.search(text) else 2 if _BROAD.search(text) else 1)
