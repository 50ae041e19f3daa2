"""Opens connections of clients that send a token; by plain HTTP within this machine, to its server's user only.

Any user of a machine can listen at the port of a server that has ended, and would get the token of its clients. Over
https the certificate tells them apart.
"""

import os
import pwd
from typing import Any

import aiohttp
import anyio.to_thread
from aiohttp.client_proto import ResponseHandler

from batchrun.runtime.socket_owner import nameless_users, owner_in_tables, owner_of_peer


class GuardedConnector(aiohttp.TCPConnector):
    """A connector whose connections by plain HTTP lead to programs of this user, of root, or of the first one's user.

    A server may run as a user of its own: whose program answered first at an address is not refused later.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        #: User ids by host and port; None: unknown, as of a container's program.
        self._first_owners: dict[tuple[str | None, int | None], int | None] = {}
        self._nameless_users: set[int] | None = None

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Any], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        handler = await super()._create_connection(req, traces, timeout)
        transport = handler.transport
        if transport is None or req.is_ssl() or req.proxy is not None:
            return handler
        try:
            if (refusal := await self._refusal(req, transport.get_extra_info("socket"))) is not None:
                raise aiohttp.ClientConnectorError(req.connection_key, OSError(0, refusal))
        except BaseException:
            transport.abort()
            raise
        return handler

    async def _refusal(self, req: aiohttp.ClientRequest, connection: Any) -> str | None:
        """Return why nothing may be sent by a connection; None: it may."""
        port = req.url.port
        try:
            owner = owner_of_peer(connection)
            if owner is None:
                owner = await anyio.to_thread.run_sync(owner_in_tables, connection)
        except OSError as error:
            return f"nothing was sent to port {port}: whose program answers there cannot be asked ({error.strerror})"
        if self._nameless_users is None:
            self._nameless_users = await anyio.to_thread.run_sync(nameless_users)
        if owner in self._nameless_users:
            return (
                f"nothing was sent to port {port}: a program of another user answers there, and this user namespace"
                " does not tell of which; start both as one user, or outside of the namespace"
            )
        first = self._first_owners.setdefault((req.url.host, port), owner)
        if owner in (os.geteuid(), 0, first):
            return None
        user = await anyio.to_thread.run_sync(_whose, owner)
        return f"{user} has taken port {port}, and nothing was sent to it; end it, or start the server at another port"


def _whose(uid: int | None) -> str:
    if uid is None:
        return "a program of an unknown user"
    try:
        return f"a program of another user ({pwd.getpwuid(uid).pw_name}, uid {uid})"
    except KeyError:
        return f"a program of another user (uid {uid})"
