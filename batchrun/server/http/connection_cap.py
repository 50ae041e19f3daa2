"""What connections may take of a process: files, memory, the time of those that ask for nothing, lines of its log."""

import asyncio
import logging
import socket
from collections import OrderedDict, deque
from contextlib import suppress

from aiohttp import web, web_protocol
from aiohttp.http import HttpProcessingError

#: Seconds that an idle connection stays open, and that a request's headers may take: aiohttp's default for servers.
KEEP_ALIVE_S = 75
#: Seconds for reading and dropping the rest of a refused body, so that its sender sees the answer.
LINGER_S = 2
#: Seconds for which a client without a credential may read nothing of its answers.
UNREAD_S = 30
#: Bytes of answers that may wait in this process for a client without a credential before it counts as one that does
#: not read; 16,384 of them hold 256 MB.
_UNREAD_BYTES = 16 << 10
#: Max clients without a credential that do not read. Each holds up to 128 KB of a body, twice: 128 MB together.
MAX_UNREAD = 512
#: Max bytes of requests that all clients without a credential may have sent and that may still be in memory, where they
#: take about twice as much. The headers of one request may have 1 MB.
MAX_UNANSWERED_BYTES = 64 << 20
#: Turns of the event loop from a read to the look at its request's credential: aiohttp wakes the connection's task,
#: which starts one for the request; and one turn more for other reads of the first one.
_TURNS = 3
#: How many times MAX_UNANSWERED_BYTES may come within these turns. A turn reads at most 256 KB of each connection.
_MAX_AT_ONCE = 4
#: Requests of a connection that are parsed while an answer is not read. aiohttp's own number is 32, and no option.
_REQUESTS_AHEAD = 2
web_protocol.MAX_MSG_QUEUE_SIZE = _REQUESTS_AHEAD


def _is_no_stranger(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError)


#: For aiohttp, which else writes a traceback of each request that is not HTTP, or whose sender has gone.
LOGGER = logging.getLogger("batchrun.http")
LOGGER.addFilter(_is_no_stranger)
# It repeats the protocols that anybody asks for.
logging.getLogger("aiohttp.websocket").setLevel(logging.ERROR)


class _Connection(asyncio.Protocol):
    """Counts what the other end sends, on its way to aiohttp's handler of the connection."""

    __slots__ = ("_cap", "_handler", "_sent", "is_unread", "transport", "unanswered")

    def __init__(self, cap: "ConnectionCap", handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        self._cap = cap
        self._handler = handler
        self.transport = transport
        #: Bytes that were sent before each of the last answers, and since. What was sent before earlier ones is of
        #: requests that are answered: those that were ahead of their answers then, and one in part.
        self._sent = deque([0], maxlen=_REQUESTS_AHEAD + 2)
        #: Bytes that may still be in memory.
        self.unanswered = 0
        #: True while too much of the answers waits to be read.
        self.is_unread = False

    def note_answer(self) -> None:
        if len(self._sent) == self._sent.maxlen:
            self.unanswered -= self._sent[0]
        self._sent.append(0)

    def forget(self) -> None:
        self._sent.clear()
        self._sent.append(0)
        self.unanswered = 0

    def data_received(self, data: bytes) -> None:
        self._handler.data_received(data)
        self._sent[-1] += len(data)
        self.unanswered += len(data)
        self._cap.note_received(self._handler, len(data))

    def eof_received(self) -> None:
        self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()
        self.is_unread = True
        self._cap.note_unread(self._handler)

    def resume_writing(self) -> None:
        self._handler.resume_writing()
        self.is_unread = False
        self._cap.note_read(self._handler)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._handler.connection_lost(exc)


class ConnectionCap:
    """Bounds the TCP connections of a server, so that no stranger uses up the open files or the memory of its process.

    Above a number of them, the oldest connection is reset on which no request with a credential is under way. If those
    without a credential have sent too much, the one that has sent most is reset. A client that shows no credential must
    also read its answers: the kernel resets a connection whose other end takes no byte for a while, and of too many
    whose answers wait to be read, the one that has waited longest is reset. Connections through a Unix socket are the
    user's own, and are not counted.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        #: Connections without a request with a credential; first the one that has been so for longest.
        self._idle: OrderedDict[web.RequestHandler, _Connection] = OrderedDict()
        self._spared: dict[web.RequestHandler, _Connection] = {}
        #: Those of `_idle` whose answers wait to be read, the longest first.
        self._unread: OrderedDict[web.RequestHandler, _Connection] = OrderedDict()
        #: Bytes that may be in memory of the requests of `_idle`.
        self._unanswered = 0

    def watch(self, server: web.Server) -> None:
        """Count the connections that a server accepts from now on."""
        made, lost = server.connection_made, server.connection_lost

        def connection_made(handler: web.RequestHandler, transport: asyncio.Transport) -> None:
            made(handler, transport)
            if not isinstance(transport.get_extra_info("sockname"), str | bytes):
                connection = _Connection(self, handler, transport)
                transport.set_protocol(connection)
                self._admit(handler, connection)

        def connection_lost(handler: web.RequestHandler, exc: BaseException | None = None) -> None:
            lost(handler, exc)
            self._take_out(handler)
            self._spared.pop(handler, None)

        # A runner makes the server of an application.
        server.connection_made = connection_made  # type: ignore[method-assign]
        server.connection_lost = connection_lost  # type: ignore[method-assign]

    def _admit(self, handler: web.RequestHandler, connection: _Connection) -> None:
        _limit_silence(connection.transport, UNREAD_S)
        connection.transport.set_write_buffer_limits(_UNREAD_BYTES)
        self._idle[handler] = connection
        if len(self._idle) + len(self._spared) > self._most:
            oldest = self._take_out(next(iter(self._idle)))
            assert oldest is not None, "this one is there"
            # Soon: if it is this one, aiohttp starts its handler after this, and must find its connection.
            asyncio.get_running_loop().call_soon(oldest.transport.abort)

    def _take_out(self, handler: web.RequestHandler) -> _Connection | None:
        self._unread.pop(handler, None)
        if (connection := self._idle.pop(handler, None)) is not None:
            self._unanswered -= connection.unanswered
        return connection

    def note_unread(self, handler: web.RequestHandler) -> None:
        """Note that answers to a connection wait to be read."""
        if (connection := self._idle.get(handler)) is not None:
            self._unread[handler] = connection
            if len(self._unread) > MAX_UNREAD:
                oldest = self._take_out(next(iter(self._unread)))
                assert oldest is not None, "this one is there"
                oldest.transport.abort()

    def note_read(self, handler: web.RequestHandler) -> None:
        """Note that the answers to a connection are read."""
        self._unread.pop(handler, None)

    def note_received(self, handler: web.RequestHandler, size: int) -> None:
        """Note that a connection has sent so many bytes more."""
        if handler not in self._idle:
            return
        self._unanswered += size
        if self._unanswered > _MAX_AT_ONCE * MAX_UNANSWERED_BYTES:
            self._reset_largest()
        elif self._unanswered > MAX_UNANSWERED_BYTES:
            self._reset_largest_after(_TURNS)

    def _reset_largest_after(self, turns: int) -> None:
        if turns:
            asyncio.get_running_loop().call_soon(self._reset_largest_after, turns - 1)
        elif self._unanswered > MAX_UNANSWERED_BYTES:
            self._reset_largest()

    def _reset_largest(self) -> None:
        largest = max(self._idle, key=lambda each: self._idle[each].unanswered)
        if (connection := self._take_out(largest)) is not None:
            connection.transport.abort()

    def spare(self, request: web.BaseRequest) -> None:
        """Keep a request's connection until `release`, however slowly it is read: its sender has shown a credential."""
        if (connection := self._take_out(request.protocol)) is not None:
            _limit_silence(connection.transport, 0)
            connection.transport.set_write_buffer_limits()
            self._spared[request.protocol] = connection

    def release(self, request: web.BaseRequest) -> None:
        """Note that a request is answered. Its connection can be reset again, after those that are idle now."""
        if (connection := self._spared.pop(request.protocol, None)) is not None:
            connection.forget()
            self._idle[request.protocol] = connection
            if connection.is_unread:
                self.note_unread(request.protocol)
        elif (connection := self._idle.get(request.protocol)) is not None:
            before = connection.unanswered
            connection.note_answer()
            self._unanswered += connection.unanswered - before


def _limit_silence(transport: asyncio.Transport, most_s: float) -> None:
    """Bound the seconds for which the other end may take nothing of what is sent; 0: no bound. Linux only."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        with suppress(OSError):  # it is gone
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(most_s * 1000)
            )
