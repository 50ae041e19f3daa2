"""A proxy on loopback in the place of Apify Proxy, which needs an account: it goes out directly.

Actors that ask for a proxy work unmodified. It hides no address and has no groups and no countries. Its password is the
id of a live Run, so that no other program of this machine goes out through it. It reports failures with the statuses of
Apify Proxy. Source: the proxy's error codes.
"""

import base64
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from urllib.parse import unquote, urlsplit
from weakref import WeakValueDictionary

import anyio
import anyio.abc
from anyio.streams.buffered import BufferedByteReceiveStream

from batchrun.runtime.error_containment import contained
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.name_lookups import NameLookups
from batchrun.runtime.open_files import connections_within_limit

#: Host that SDKs ask, through the proxy, whether the proxy may be used.
STATUS_HOST = "proxy.apify.com"
_STATUS = b'{"connected":true,"connectionError":null,"isManInTheMiddle":false}'
#: Max bytes of a request's head, and seconds for it to arrive.
_MAX_HEAD, _HEAD_WITHIN_S = 65_536, 30
#: Max clients at once; each has two connections, one of them to a site. Above it the oldest without a password goes.
_MAX_CLIENTS = 512
#: Seconds for the connection to a site.
_CONNECT_WITHIN_S = 30
#: Seconds for a site's address to answer, if there is another one.
_NEXT_ADDRESS_AFTER_S = 1
#: Seconds until connections are accepted again after a failure, which a client may have caused.
_ACCEPT_AGAIN_S = 0.05
_WORDS = {400: "Bad Request", 407: "Proxy Authentication Required", 593: "Not Found", 594: "Connection Refused"}
_BROKEN = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream)


@dataclass(frozen=True, slots=True)
class _Head:
    method: str
    target: str
    version: str
    headers: list[tuple[str, str]]

    @property
    def password(self) -> str:
        """The password of the Proxy-Authorization header; empty without one."""
        given = next((value for name, value in self.headers if name.lower() == "proxy-authorization"), "")
        try:
            text = base64.b64decode(given.partition(" ")[2], validate=True).decode()
        except ValueError:
            return ""
        return unquote(text.partition(":")[2])

    def passed_on(self) -> bytes:
        """Return the head of a plain request as the site gets it. One request per connection."""
        parts = urlsplit(self.target)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        dropped = ("proxy-authorization", "proxy-connection", "connection", "keep-alive")
        kept = [f"{name}: {value}" for name, value in self.headers if name.lower() not in dropped]
        if not any(name.lower() == "host" for name, _ in self.headers):
            kept.append(f"Host: {parts.netloc.rpartition('@')[2]}")
        lines = (f"{self.method} {path} {self.version}", *kept, "Connection: close", "", "")
        return "\r\n".join(lines).encode("latin-1")


async def serve_forward_proxy(
    listener: anyio.abc.Listener[anyio.abc.SocketStream], admit: Callable[[str, bool], Awaitable[bool]]
) -> None:
    """Serve until cancelled; `admit` is asked about each password, and whether a site is to be reached."""
    proxy = _ForwardProxy(admit)
    async with listener, anyio.create_task_group() as clients:
        while True:
            try:
                await listener.serve(proxy.attend, clients)
            except* OSError:  # no file descriptor is free, or a connection was reset; it may come in a group
                pass
            await anyio.sleep(_ACCEPT_AGAIN_S)


class _ForwardProxy:
    def __init__(self, admit: Callable[[str, bool], Awaitable[bool]]) -> None:
        self._admit = admit
        #: Clients that are connected.
        self._count = 0
        #: The work for those that have shown no password, the oldest first.
        self._strangers: dict[anyio.CancelScope, None] = {}
        #: By password; kept while a look-up or a client needs it.
        self._lookups = WeakValueDictionary[str, NameLookups]()

    async def attend(self, client: anyio.abc.SocketStream) -> None:
        with contained("proxy_client_broken"), anyio.CancelScope() as scope:
            self._count += 1
            self._strangers[scope] = None
            if self._count > connections_within_limit(_MAX_CLIENTS, eighths=1):
                oldest = next(iter(self._strangers))
                del self._strangers[oldest]
                oldest.cancel()
            try:
                await self._attend(client, scope)
            finally:
                self._count -= 1
                self._strangers.pop(scope, None)

    async def _attend(self, client: anyio.abc.SocketStream, scope: anyio.CancelScope) -> None:
        with suppress(*_BROKEN, anyio.DelimiterNotFound, anyio.IncompleteRead):
            async with client:
                reader = BufferedByteReceiveStream(client)
                if (head := await _receive_head(reader)) is None:
                    await _refuse(client, 400)
                elif not await self._admit(head.password, _address(head)[0] != STATUS_HOST):
                    await _refuse(client, 407)
                else:
                    self._strangers.pop(scope, None)
                    await self._serve(client, reader, head)

    async def _serve(self, client: anyio.abc.SocketStream, reader: BufferedByteReceiveStream, head: _Head) -> None:
        is_tunnel = head.method == "CONNECT"
        host, port = _address(head)
        if not host:
            await _refuse(client, 400)
        elif host == STATUS_HOST:
            if is_tunnel:
                await client.send(b"HTTP/1.1 200 OK\r\n\r\n")
                await _receive_head(reader)
            await _answer(client, "200 OK", _STATUS)
        else:
            try:
                lookups = self._lookups.setdefault(head.password, NameLookups())
                with anyio.fail_after(_CONNECT_WITHIN_S):
                    site = await _connect([address for _, address in await lookups.find(host)], port)
            except (OSError, TimeoutError, ValueError) as error:
                await _refuse(client, _failure(error))
                return
            async with site:
                await (client.send(b"HTTP/1.1 200 OK\r\n\r\n") if is_tunnel else site.send(head.passed_on()))
                await _join(client, reader, site)


async def _receive_head(reader: BufferedByteReceiveStream) -> _Head | None:
    """Return a request's head; None if it is no HTTP, too long or too slow."""
    with anyio.move_on_after(_HEAD_WITHIN_S):
        text = (await reader.receive_until(b"\r\n\r\n", _MAX_HEAD)).decode("latin-1")
        first, *lines = text.split("\r\n")
        words = first.split(" ")
        headers = [(name, value.strip()) for name, colon, value in (line.partition(":") for line in lines) if colon]
        if len(words) == 3 and words[2].startswith("HTTP/1.") and len(headers) == len(lines):
            return _Head(words[0], words[1], words[2], headers)
    return None


def _address(head: _Head) -> tuple[str, int]:
    """Return host and port that a request is for; an empty host if it names none."""
    is_tunnel = head.method == "CONNECT"
    with suppress(ValueError):
        parts = urlsplit(f"//{head.target}" if is_tunnel else head.target)
        if is_tunnel or parts.scheme == "http":
            return parts.hostname or "", parts.port or 80
    return "", 0


async def _connect(addresses: Sequence[str], port: int) -> anyio.abc.SocketStream:
    """Connect to the first address that answers."""
    for address in addresses[:-1]:
        with suppress(OSError), anyio.move_on_after(_NEXT_ADDRESS_AFTER_S):
            return await anyio.connect_tcp(address, port)
    return await anyio.connect_tcp(addresses[-1], port)


def _failure(error: Exception) -> int:
    """Return the status of Apify Proxy for a site that cannot be reached."""
    cause = error.__cause__ or error
    if isinstance(cause, socket.gaierror | ValueError):
        return 593
    return 594 if isinstance(cause, ConnectionRefusedError) else 599


async def _join(
    client: anyio.abc.SocketStream, reader: BufferedByteReceiveStream, site: anyio.abc.SocketStream
) -> None:
    """Copy both ways until the site has sent all, or either side is gone."""
    async with anyio.create_task_group() as children:
        children.start_soon(_copy, reader, site)
        await _copy(site, client)
        children.cancel_scope.cancel()


async def _copy(source: anyio.abc.ByteReceiveStream, target: anyio.abc.SocketStream) -> None:
    with suppress(*_BROKEN):
        while True:
            await target.send(await source.receive())
    with suppress(*_BROKEN, OSError):
        await target.send_eof()


async def _refuse(client: anyio.abc.SocketStream, status: int) -> None:
    headers = 'Proxy-Authenticate: Basic realm="batchrun"\r\n' if status == 407 else ""
    await _answer(client, f"{status} {_WORDS.get(status, 'Error')}", b"", headers)


async def _answer(client: anyio.abc.SocketStream, status: str, body: bytes, headers: str = "") -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}"
    await client.send(f"{head}Connection: close\r\n\r\n".encode() + body)
