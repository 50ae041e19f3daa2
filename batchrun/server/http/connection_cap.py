"""What connections may take of a process: their number, and the time of those that ask for nothing."""

import asyncio

from aiohttp import web

#: Seconds that an idle connection stays open, and that a request's headers may take: aiohttp's default for servers.
KEEP_ALIVE_S = 75
#: Seconds for reading and dropping the rest of a refused body, so that its sender sees the answer.
LINGER_S = 2


def cap_connections(server: web.Server, most: int) -> None:
    """Reset connections above a number, so that no stranger uses up the open files of this process.

    Those through a Unix socket are its user's own, and are not reset.
    """
    note = server.connection_made

    def connection_made(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        note(handler, transport)
        is_local = isinstance(transport.get_extra_info("sockname"), str | bytes)
        if len(server.connections) > most and not is_local:
            # Soon: aiohttp starts the handler after this, and it must find its connection.
            asyncio.get_running_loop().call_soon(transport.abort)

    server.connection_made = connection_made  # type: ignore[method-assign]  # a runner makes the server of an application
