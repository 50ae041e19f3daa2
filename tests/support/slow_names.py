"""A system whose look-ups of some host names take as long as a test wants."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio


@contextmanager
def slow_names(**known: list[str]) -> Iterator[list[str]]:
    """Let each look-up of another name than the known ones last as long as the context; give the names looked up.

    Args:
        known: the IPv4 addresses of names.
    """
    asked: list[str] = []
    is_over, real = threading.Event(), socket.getaddrinfo

    def look(host: Any, *rest: Any, **named: Any) -> Any:
        asked.append(str(host))
        if host not in known:
            is_over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, rest[0] or 0)) for each in known[host]]

    socket.getaddrinfo = look
    try:
        yield asked
    finally:
        socket.getaddrinfo = real
        is_over.set()


async def until_looked_up(asked: list[str], count: int) -> None:
    """Wait until the system was asked for so many names."""
    with anyio.fail_after(30):
        while len(asked) < count:  # noqa: ASYNC110 - a thread wakes nobody here
            await anyio.sleep(0.005)
