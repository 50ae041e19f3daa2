"""What connections may take of a process: their number, the time of those that ask for nothing, lines of its log."""

import asyncio
import logging
import socket
from collections import OrderedDict
from contextlib import suppress

from aiohttp import web
from aiohttp.http import HttpProcessingError

#: Seconds that an idle connection stays open, and that a request's headers may take: aiohttp's default for servers.
KEEP_ALIVE_S = 75
#: Seconds for reading and dropping the rest of a refused body, so that its sender sees the answer.
LINGER_S = 2
#: Seconds for which a client without a credential may read nothing of its answers.
UNREAD_S = 30


def _is_no_stranger(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError)


#: For aiohttp, which else prints a traceback of each request that is not HTTP.
LOGGER = logging.getLogger("batchrun.http")
LOGGER.addFilter(_is_no_stranger)


class ConnectionCap:
    """Keeps the TCP connections of a server to a number, so that no stranger uses up the open files of its process.

    Above it the oldest connection is reset on which no request with a credential is under way. A client that shows no
    credential must also read its answers: the kernel resets a connection whose other end takes no byte for a while.
    Connections through a Unix socket are the user's own, and are not counted.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        #: Connections without a request with a credential; first the one that has been so for longest.
        self._idle: OrderedDict[web.RequestHandler, asyncio.Transport] = OrderedDict()
        self._spared: dict[web.RequestHandler, asyncio.Transport] = {}

    def watch(self, server: web.Server) -> None:
        """Count the connections that a server accepts from now on."""
        made, lost = server.connection_made, server.connection_lost

        def connection_made(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
            made(handler, transport)
            if not isinstance(transport.get_extra_info("sockname"), str | bytes):
                self._admit(handler, transport)

        def connection_lost(handler: web.RequestHandler, exc: BaseException | None = None) -> None:
            lost(handler, exc)
            self._idle.pop(handler, None)
            self._spared.pop(handler, None)

        # A runner makes the server of an application.
        server.connection_made = connection_made  # type: ignore[method-assign]
        server.connection_lost = connection_lost  # type: ignore[method-assign]

    def _admit(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        _limit_silence(transport, UNREAD_S)
        self._idle[handler] = transport
        if len(self._idle) + len(self._spared) > self._most:
            _, oldest = self._idle.popitem(last=False)
            # Soon: if it is this one, aiohttp starts its handler after this, and must find its connection.
            asyncio.get_running_loop().call_soon(oldest.abort)

    def spare(self, request: web.BaseRequest) -> None:
        """Keep a request's connection until `release`, however slowly it is read: its sender has shown a credential."""
        if (transport := self._idle.pop(request.protocol, None)) is not None:
            _limit_silence(transport, 0)
            self._spared[request.protocol] = transport

    def release(self, request: web.BaseRequest) -> None:
        """Let a request's connection be reset again, after those that are idle now."""
        if (transport := self._spared.pop(request.protocol, None)) is not None:
            self._idle[request.protocol] = transport


def _limit_silence(transport: asyncio.Transport, most_s: float) -> None:
    """Bound the seconds for which the other end may take nothing of what is sent; 0: no bound. Linux only."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with suppress(OSError):  # it is gone
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(most_s * 1000)
            )
