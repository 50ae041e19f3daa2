"""Requests over kept-alive connections to one address, with no more for each than HTTP itself asks for.

aiohttp's connector opens the connections (names, addresses, TLS) and its parser reads the answers. What its session
does for each request besides (cookies, redirects, proxies, traces, streams) is left out here: it is four fifths of what
a request costs, and starts, polls and pages of items have no use for it.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import aiohttp
import yarl
from aiohttp.connector import Connection
from aiohttp.http import HttpResponseParser, RawResponseMessage

#: A connection that was idle for longer is not used again: the server may be about to close it.
MAX_IDLE_S = 15.0
#: How often silent and idle connections are looked for.
_LOOK_EVERY_S = 1.0
#: No answer is held back: its whole body is wanted in memory, and there is one at a time.
_NO_LIMIT = 1 << 30


class Answer(NamedTuple):
    """An answer, its body decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connections:
    """Connections to one address, one request at a time on each; open them with `open_connections`.

    Args:
        connector: opens them; it closes nothing that is in use here.
        url: where to; only scheme, host and port count.
        headers: of every request.
    """

    def __init__(self, connector: aiohttp.TCPConnector, url: yarl.URL, headers: Mapping[str, str]) -> None:
        self._connector = connector
        self._loop = asyncio.get_running_loop()
        self._address = aiohttp.ClientRequest("GET", url, loop=self._loop)
        # The codings are those that aiohttp's parser decodes with what batchrun brings along.
        own = {"Host": url.host_port_subcomponent or "", "Accept-Encoding": "gzip, deflate, br"}
        self._header_lines = _header_lines({**own, **headers})
        self._header_text = "".join(self._header_lines.values())
        self._open: set[_Connection] = set()
        #: The last one used is at the end and goes first, so that those that are not needed any more run out.
        self._idle: deque[_Connection] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def send(
        self,
        method: str,
        target: str,
        *,
        timeout: aiohttp.ClientTimeout,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send a request, once; one that changes nothing once more where its connection turns out to be closed.

        Args:
            method: of the request.
            target: path and query, encoded.
            timeout: how long to wait for a connection (`sock_connect`), and for a silent server (`sock_read`).
            headers: in place of and beside those of every request.
            body: of the request.

        Raises:
            aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError: there is no connection; nothing was sent.
            aiohttp.ClientError: the request was sent, at least in part, and its answer did not come whole.
        """
        fields = self._header_text
        if headers is not None:
            fields = "".join({**self._header_lines, **_header_lines(headers)}.values())
        if method != "GET":
            fields += f"Content-Length: {len(body or b'')}\r\n"
        request = f"{method} {target} HTTP/1.1\r\n{fields}\r\n".encode() + (body or b"")
        silence_s = timeout.sock_read or 0.0
        connection = self._take_idle()
        if connection is not None:
            try:
                return await self._exchange(connection, request, silence_s)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # https://www.rfc-editor.org/rfc/rfc9112.html#name-retrying-requests
                if method != "GET":
                    raise
        return await self._exchange(await self._connect(timeout), request, silence_s)

    async def _exchange(self, connection: "_Connection", request: bytes, silence_s: float) -> Answer:
        try:
            answer = await connection.ask(request, silence_s)
        except BaseException:
            # Also when who asked is cancelled: the answer is still to come, and nobody else may take it for theirs.
            self._close(connection)
            raise
        if connection.is_usable:
            connection.idle_since = self._loop.time()
            self._idle.append(connection)
        else:
            self._close(connection)
        return answer

    def _take_idle(self) -> "_Connection | None":
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and now - connection.idle_since <= MAX_IDLE_S:
                return connection
            self._close(connection)
        return None

    async def _connect(self, timeout: aiohttp.ClientTimeout) -> "_Connection":
        try:
            opened = await self._connector.connect(self._address, [], timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"connection timeout to {self._address.url.host}") from error
        connection = _Connection(opened, self._loop)
        self._open.add(connection)
        if self._timer is None:
            self._timer = self._loop.call_later(_LOOK_EVERY_S, self._look)
        return connection

    def _look(self) -> None:
        """Give up requests whose server is silent, and connections that nobody needs."""
        # One timer for all: one for each request would cost more than its parsing.
        now = self._loop.time()
        for connection in self._open:
            connection.check_silence(now)
        while self._idle and not (self._idle[0].is_usable and now - self._idle[0].idle_since <= MAX_IDLE_S):
            self._close(self._idle.popleft())
        self._timer = self._loop.call_later(_LOOK_EVERY_S, self._look) if self._open else None

    def _close(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        connection.close()

    def close(self) -> None:
        """Close all connections; requests that wait for an answer fail."""
        if self._timer is not None:
            self._timer.cancel()
        self._idle.clear()
        for connection in tuple(self._open):
            self._close(connection)


class _Connection(asyncio.Protocol):
    """One connection, taken over from the handler that aiohttp's connector has opened it with."""

    def __init__(self, opened: Connection, loop: asyncio.AbstractEventLoop) -> None:
        assert opened.transport is not None
        assert opened.protocol is not None
        self._opened = opened
        self._handler = opened.protocol
        self._loop = loop
        self._transport = opened.transport
        self._parser = HttpResponseParser(
            # What it calls of a protocol is `pause_reading` and `resume_reading`.
            self,  # type: ignore[arg-type]
            loop,
            _NO_LIMIT,
            payload_exception=aiohttp.ClientPayloadError,
            read_until_eof=True,
        )
        #: Whether a request may be sent on it.
        self.is_usable = True
        self.idle_since = 0.0
        self._waiting: asyncio.Future[Answer] | None = None
        self._message: RawResponseMessage | None = None
        self._body: aiohttp.StreamReader | None = None
        self._silence_s = 0.0
        self._heard_at = 0.0
        self._transport.set_protocol(self)

    def ask(self, request: bytes, silence_s: float) -> asyncio.Future[Answer]:
        """Send a request; its answer is to come."""
        self._waiting = self._loop.create_future()
        self._silence_s, self._heard_at = silence_s, self._loop.time()
        self._transport.write(request)
        return self._waiting

    def check_silence(self, now: float) -> None:
        """Give the request up if the server has been silent for too long."""
        if self._waiting is not None and now - self._heard_at > self._silence_s:
            self._fail(aiohttp.SocketTimeoutError(f"the server was silent for {self._silence_s:g} s"))

    def close(self) -> None:
        """Close the connection; a request that waits fails."""
        self.is_usable = False
        self._opened.close()

    def data_received(self, data: bytes) -> None:
        """Take a piece of an answer."""
        self._heard_at = self._loop.time()
        try:
            messages, _, _ = self._parser.feed_data(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, this is no answer
            self._fail(aiohttp.ClientPayloadError(f"it is no HTTP: {error}"))
            return
        for message, body in messages:
            if message.code < 200:
                continue  # an interim answer: the final one is still to come
            if self._waiting is None or self._message is not None:
                self._fail(aiohttp.ClientPayloadError("an answer that nobody has asked for"))
                return
            self._message, self._body = message, body
        self._finish()

    def _finish(self) -> None:
        message, body, waiting = self._message, self._body, self._waiting
        if message is None or body is None or waiting is None:
            return
        if (error := body.exception()) is not None:
            self._fail(error)
        elif body.is_eof():
            self._message = self._body = self._waiting = None
            self.is_usable = self.is_usable and not message.should_close
            if not waiting.done():
                waiting.set_result(Answer(message.code, message.headers, body.read_nowait()))

    def _fail(self, error: BaseException) -> None:
        self.is_usable = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits; an answer whose end is the end of the connection is whole now."""
        self.is_usable = False
        self._handler.connection_lost(exc)  # the connector waits for it
        if self._waiting is None:
            return
        if self._message is None:
            self._fail(aiohttp.ServerDisconnectedError() if exc is None else aiohttp.ClientOSError(*exc.args))
            return
        try:
            self._parser.feed_eof()
        except Exception as error:  # noqa: BLE001 - likewise
            self._fail(aiohttp.ClientPayloadError(f"the answer is cut off: {error}"))
            return
        self._finish()

    def pause_writing(self) -> None:
        """Count no silence while the server takes its time to read a large request."""
        self._heard_at = float("inf")

    def resume_writing(self) -> None:
        """Count silence from here on."""
        self._heard_at = self._loop.time()

    def pause_reading(self) -> None:
        """Do nothing: asked for by the parser when much is waiting to be read, which is what we want."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Do nothing: asked for by the parser."""


def _header_lines(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers as they are sent, by name.

    Raises:
        ValueError: one of them would be several lines.
    """
    for name, value in headers.items():
        if not value.isprintable():
            raise ValueError(f"{name} holds characters that are not allowed in a header")
    return {name: f"{name}: {value}\r\n" for name, value in headers.items()}


@contextmanager
def open_connections(
    connector: aiohttp.TCPConnector, url: yarl.URL, headers: Mapping[str, str]
) -> Iterator[Connections]:
    """Keep connections to an address; they close with the context."""
    connections = Connections(connector, url, headers)
    try:
        yield connections
    finally:
        connections.close()
