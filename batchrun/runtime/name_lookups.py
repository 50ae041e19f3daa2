"""Looks host names up without the event loop's own few threads, where slow ones hold up those of everybody else.

There a look-up that is given up is carried out all the same: others wait for it, and so does the end of the process.
"""

import asyncio
import errno
import socket
import threading
from contextlib import suppress

import anyio
from aiohttp.abc import AbstractResolver, ResolveResult

#: Max look-ups of one owner at once.
_MAX_AT_ONCE = 8


class NameLookups(AbstractResolver):
    """Looks host names up for one owner. Its slow look-ups delay those of no other owner."""

    def __init__(self) -> None:
        self._free = anyio.Semaphore(_MAX_AT_ONCE)

    async def find(
        self, host: str, family: int = socket.AF_UNSPEC, flags: int = 0
    ) -> list[tuple[socket.AddressFamily, str]]:
        """Return a host's addresses, best first, each with its family; the flags are those of `getaddrinfo`.

        Cancelled, it leaves its thread behind, which keeps its place among the owner's until the system has answered.

        Raises:
            OSError: it has none, or the system does not say; of a name that is not known, `socket.gaierror`.
            ValueError: no host has such a name.
        """
        await self._free.acquire()
        loop, is_over = asyncio.get_running_loop(), anyio.Event()
        found: list[tuple[socket.AddressFamily, str]] = []
        failed: list[Exception] = []

        def end() -> None:
            self._free.release()
            is_over.set()

        def look() -> None:
            try:
                answers = socket.getaddrinfo(host, None, family, socket.SOCK_STREAM, flags=flags)
                found.extend((kind, _text(*address)) for kind, _, _, _, address in answers)
            except (OSError, ValueError) as error:
                failed.append(error)
            finally:
                with suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(end)

        try:
            # A daemon, so that no process waits for it to end.
            threading.Thread(target=look, name="look-up", daemon=True).start()
        except RuntimeError as error:
            self._free.release()
            raise OSError(errno.EAGAIN, f"{host} is not looked up: {error}") from error
        await is_over.wait()
        if failed:
            raise failed[0]
        return found

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return a host's addresses, of families that this machine has itself, to a client of aiohttp.

        Raises:
            OSError, ValueError: as `find`.
        """
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, address in await self.find(host, family, socket.AI_ADDRCONFIG)
        ]

    async def close(self) -> None:
        """Do nothing: a look-up ends with the system's answer."""


def _text(host: str | int, _port: int | bytes, _flow: int = 0, interface: int = 0) -> str:
    """Return an address with the interface that it is reached by, which those of IPv6 that are link-local need."""
    return f"{host}%{interface}" if interface else str(host)
