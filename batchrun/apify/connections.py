"""Requests over kept-alive connections to one address, with only the work per request that HTTP needs.

aiohttp's connector opens the connections (names, addresses, TLS) and its parser reads the answers. Its session is not
used: cookies, redirects, proxies, traces and streams are four fifths of a request's CPU time, and starts, polls and
pages of items need none of them.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import aiohttp
import yarl
from aiohttp.connector import Connection
from aiohttp.http import HttpResponseParser, RawResponseMessage

from batchrun.errors import AnswerTooLarge, ConnectFailed
from batchrun.runtime.byte_budget import Fits

#: Longest wait for a connection to open, in seconds.
CONNECT_TIMEOUT_S = 30.0
#: Longest silence of the server during a request, in seconds, not counting a wait that the request asks for.
READ_TIMEOUT_S = 30.0
#: Seconds of silence on a connection between two probes of the kernel.
KEEPALIVE_S = 10
#: Seconds after which an idle connection is closed; the server may be about to close it too.
MAX_IDLE_S = 15.0
#: Max bytes before the body of an answer: all its headers, and interim answers before it. Company proxies and content
#: networks add large and many of them, but no more than other clients read (Node 16 KB, curl 300 KB). A thousand polls
#: may wait for answers at once.
_MAX_HEAD_BYTES = 256 << 10
#: Of one header, and of headers: the parser's own bounds, which are not to come before that.
_MAX_HEADER_BYTES, _MAX_HEADERS = 1 << 20, 10_000
#: Seconds between two searches for silent and idle connections.
_LOOK_EVERY_S = 1.0
#: Bytes that are decompressed at a time, and half of those after which the parser asks for a pause of a body.
_STEP_BYTES = 1 << 20
#: Bytes at a time that are discarded of a body that is too large.
_DISCARDED_BYTES = 1 << 20


class Answer(NamedTuple):
    """An answer, its body decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Connections:
    """Connections to one address, one request at a time on each; `headers` go into every request.

    Of the URL, only scheme, host and port count. The connector closes no connection that is in use here.
    """

    def __init__(self, connector: aiohttp.TCPConnector, url: yarl.URL, headers: Mapping[str, str]) -> None:
        self._connector = connector
        self._loop = asyncio.get_running_loop()
        self._address = aiohttp.ClientRequest("GET", url, loop=self._loop)
        self._headers = headers
        # The encodings that aiohttp's parser decodes with batchrun's dependencies.
        own = {"Host": url.host_port_subcomponent or "", "Accept-Encoding": "gzip, deflate, br"}
        self._header_lines = _header_lines({**own, **headers})
        self._header_text = "".join(self._header_lines.values())
        self._open: set[_Connection] = set()
        #: Least recently used first. The last is taken, so that surplus connections stay idle until they are closed.
        self._idle: deque[_Connection] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def elsewhere(self, url: yarl.URL) -> "Connections":
        """Return connections to another address, without the headers that were added here: no token goes there."""
        return Connections(self._connector, url, self._headers)

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """Send other values of some headers from now on, in every request."""
        self._header_lines.update(_header_lines(headers))
        self._header_text = "".join(self._header_lines.values())

    async def send(
        self,
        method: str,
        target: str,
        *,
        timeout: aiohttp.ClientTimeout,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        fits: Fits | None = None,
        may_send: Callable[[], bool] | None = None,
    ) -> Answer:
        """Send a request once; a GET once more if the idle connection it was sent on had been closed.

        `target` is path and query, encoded. Of the timeout, `sock_connect` and `sock_read` (silence) count. `fits`
        is asked, while the body grows, whether it may grow to a size; None: it may. `may_send` is asked once a
        connection was opened; None: it may be sent.

        Raises:
            AnswerTooLarge: `fits` said no.
            ConnectFailed: `may_send` said no; nothing was sent.
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
                return await self._exchange(connection, request, silence_s, fits)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # https://www.rfc-editor.org/rfc/rfc9112.html#name-retrying-requests
                if method != "GET":
                    raise
        connection = await self._connect(timeout)
        if may_send is not None and not may_send():
            self._idle.append(connection)
            raise ConnectFailed("while a connection was opened, the time to send the request has passed")
        return await self._exchange(connection, request, silence_s, fits)

    async def _exchange(self, connection: "_Connection", request: bytes, silence_s: float, fits: Fits | None) -> Answer:
        try:
            await connection.ask(request, silence_s, fits)
        except BaseException:
            # Also after a cancellation: the answer is still to come, and the next request must not take it for its own.
            self._close(connection)
            raise
        answer = connection.take_answer()
        if connection.is_usable:
            self._idle.append(connection)
        else:
            self._close(connection)
        return answer

    def _take_idle(self) -> "_Connection | None":
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable and now - connection.heard_at <= MAX_IDLE_S:
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
        """Fail requests whose server is silent, and close connections that were idle for too long."""
        # One timer for all connections: a timer per request would cost more than parsing its answer.
        now = self._loop.time()
        for connection in self._open:
            connection.check_silence(now)
        while self._idle and not (self._idle[0].is_usable and now - self._idle[0].heard_at <= MAX_IDLE_S):
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
    """One connection; it takes the transport over from the handler that aiohttp's connector opened it with."""

    def __init__(self, opened: Connection, loop: asyncio.AbstractEventLoop) -> None:
        assert opened.transport is not None
        assert opened.protocol is not None
        self._opened = opened
        self._handler = opened.protocol
        self._loop = loop
        self._transport = opened.transport
        self._parser = HttpResponseParser(
            # It calls only `pause_reading` and `resume_reading` of a protocol.
            self,  # type: ignore[arg-type]
            loop,
            _STEP_BYTES,
            max_line_size=_MAX_HEADER_BYTES,
            max_field_size=_MAX_HEADER_BYTES,
            max_headers=_MAX_HEADERS,
            payload_exception=aiohttp.ClientPayloadError,
            read_until_eof=True,
        )
        #: Whether one more request may be sent on it.
        self.is_usable = True
        #: When the server was last heard, or asked; an idle connection is idle since then.
        self.heard_at = loop.time()
        self._waiting: asyncio.Future[None] | None = None
        #: The whole answer. It is not the future's result: the loop holds the future for as long as its waiter runs.
        self._answer: Answer | None = None
        self._message: RawResponseMessage | None = None
        self._body: aiohttp.StreamReader | None = None
        self._fits: Fits | None = None
        #: Bytes before the body, as far as they are known; steps of a body whose headers came in the same piece.
        self._head_bytes = self._early_steps = 0
        #: The error for a body that does not fit, found while it was decompressed.
        self._too_large: AnswerTooLarge | None = None
        self._silence_s = 0.0
        self._transport.set_protocol(self)

    def ask(self, request: bytes, silence_s: float, fits: Fits | None) -> asyncio.Future[None]:
        """Send a request; what is returned ends when the answer is there to be taken."""
        self._waiting, self._fits = self._loop.create_future(), fits
        self._head_bytes = self._early_steps = 0
        self._too_large = None
        self._silence_s, self.heard_at = silence_s, self._loop.time()
        self._transport.write(request)
        return self._waiting

    def take_answer(self) -> Answer:
        """Return the answer and hold it no longer."""
        answer, self._answer = self._answer, None
        assert answer is not None
        return answer

    def check_silence(self, now: float) -> None:
        """Fail the request if the server has been silent for too long."""
        if self._waiting is not None and now - self.heard_at > self._silence_s:
            self._fail(aiohttp.SocketTimeoutError(f"the server was silent for {self._silence_s:g} s"))

    def close(self) -> None:
        """Close the connection; a request that waits fails."""
        self.is_usable = False
        self._opened.close()

    def data_received(self, data: bytes) -> None:
        """Take a piece of an answer."""
        self.heard_at = self._loop.time()
        if self._message is None:
            self._head_bytes += len(data)
        try:
            messages, _, _ = self._parser.feed_data(data)
        except MemoryError:
            self._fail(AnswerTooLarge(self._body.total_bytes if self._body is not None else 0))
            return
        except Exception as error:  # noqa: BLE001 - the parser's error, whatever its class: this is no answer
            self._fail(self._too_large or aiohttp.ClientPayloadError(f"it is no HTTP: {error}"))
            return
        for message, body in messages:
            if message.code < 200:
                continue  # an interim answer: the final one is still to come
            if self._waiting is None or self._message is not None:
                self._fail(aiohttp.ClientPayloadError("an answer without a request"))
                return
            self._message, self._body = message, body
        if self._is_within_bounds():
            self._finish()

    def _is_within_bounds(self) -> bool:
        """Fail the request if its answer is too large."""
        if self._too_large is not None:
            self._fail(self._too_large)
        elif self._message is None and self._head_bytes > _MAX_HEAD_BYTES:
            self._fail(aiohttp.ClientPayloadError(f"its headers have more than {_MAX_HEAD_BYTES:,} bytes"))
        else:
            return self._fits is None or self._message is None or self._has_room(self._fits)
        return False

    def _has_room(self, fits: Fits) -> bool:
        """Fail the request if its body does not fit, by what has arrived or by the length that its headers announce."""
        assert self._message is not None
        assert self._body is not None
        size = self._body.total_bytes
        if not self._body.is_eof():
            size = max(size, _announced_bytes(self._message.headers))
        if fits(size):
            return True
        self._discard()
        self._fail(AnswerTooLarge(size))
        return False

    def _discard(self) -> None:
        # The parser, which is part of a reference cycle, holds the body for longer than the connection lives.
        while self._body is not None and self._body.read_nowait(_DISCARDED_BYTES):
            pass

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
                self._answer = Answer(message.code, message.headers, body.read_nowait())
                waiting.set_result(None)

    def _fail(self, error: BaseException) -> None:
        self.is_usable = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the request that waits: an answer without a length is complete now, any other fails."""
        self.is_usable = False
        self._handler.connection_lost(exc)  # the connector waits for it
        if self._waiting is None:
            return
        if self._message is None:
            self._fail(aiohttp.ServerDisconnectedError() if exc is None else aiohttp.ClientOSError(*exc.args))
            return
        try:
            self._parser.feed_eof()
        except Exception as error:  # noqa: BLE001 - the parser's error, whatever its class
            self._fail(aiohttp.ClientPayloadError(f"the answer is cut off: {error}"))
            return
        self._finish()

    def pause_writing(self) -> None:
        """Count no silence while the server reads a large request."""
        self.heard_at = float("inf")

    def resume_writing(self) -> None:
        """Count silence from now on."""
        self.heard_at = self._loop.time()

    def pause_reading(self) -> None:
        """Do not pause: large bodies are read whole. But a few bytes may be gigabytes when they are decompressed.

        The parser asks for a pause whenever another piece has been added to a large body.

        Raises:
            AnswerTooLarge: the body does not fit.
        """
        if self._body is None:
            self._early_steps += 1
        size = self._body.total_bytes if self._body is not None else self._early_steps * _STEP_BYTES
        if self._fits is not None and not self._fits(size):
            self._discard()
            self._too_large = AnswerTooLarge(size)
            raise self._too_large

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Do nothing: reading is never paused."""


def _announced_bytes(headers: Mapping[str, str]) -> int:
    """Return the size of a body by its headers; 0 if they do not show it, or only that of its compressed form."""
    text = "" if "Content-Encoding" in headers else headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else 0


def _header_lines(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers by name, each as the line to send.

    Raises:
        ValueError: a value holds a line break or another control character.
    """
    for name, value in headers.items():
        if not value.isprintable():
            raise ValueError(f"{name} holds characters that are not allowed in a header")
    return {name: f"{name}: {value}\r\n" for name, value in headers.items()}


@lru_cache
def timeouts(silence_s: float) -> aiohttp.ClientTimeout:
    """Return the time limits of a request: for its connection to open, and of silence."""
    return aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s)


def open_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket whose kernel drops unacknowledged bytes after a while, instead of delivering them minutes later.

    A start request that is given up must not reach the platform long after the search for its Run.
    """
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(READ_TIMEOUT_S * 1000))
        # A poll sends nothing for a minute: probes keep its connection known on the way, and notice that it is lost.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S)
    return made
