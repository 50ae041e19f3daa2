"""Looks up names of hosts; those under `localhost` are this machine's, whatever a name server says (RFC 6761)."""

import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from batchrun.runtime.loopback import is_loopback_host
from batchrun.runtime.name_lookups import NameLookups

#: A server that listens at the second address alone is rare.
_LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class LocalNames(AbstractResolver):
    """A resolver for clients that send a token over plain HTTP to this machine only."""

    def __init__(self) -> None:
        self._others = NameLookups()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            OSError: it has none.
        """
        if not is_loopback_host(host):
            return await self._others.resolve(host, port, family)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, address in _LOOPBACK.items()
            if family in (socket.AF_UNSPEC, kind)
        ]

    async def close(self) -> None:
        await self._others.close()
