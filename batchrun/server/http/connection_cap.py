"""What connections may take of a process: their number, the time of those that ask for nothing, lines of its log."""

import asyncio
import logging

from aiohttp import web
from aiohttp.http import HttpProcessingError

#: Seconds that an idle connection stays open, and that a request's headers may take: aiohttp's default for servers.
KEEP_ALIVE_S = 75
#: Seconds for reading and dropping the rest of a refused body, so that its sender sees the answer.
LINGER_S = 2


def _is_no_stranger(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


#: For aiohttp, which else prints a traceback of each request that is not HTTP.
LOGGER = logging.getLogger("batchrun.http")
LOGGER.addFilter(_is_no_stranger)


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
