"""HTTP/1.1 with next to no cost, so that a benchmark's client does not hold up the server that it measures."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson


class Connection:
    """One kept-alive connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, method: str, target: str, body: bytes = b"") -> bytes:
        """Send a request and return the body of its answer, which must have a length and be a success."""
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAuthorization: Bearer bench\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        _, _, rest = answer.lower().partition(b"content-length: ")
        received = await self._reader.readexactly(int(rest[: rest.index(b"\r")]))
        assert answer[9:10] == b"2", received
        return received

    async def data(self, method: str, target: str, body: bytes = b"") -> Any:
        """Send a request and return what its answer holds."""
        return orjson.loads(await self.send(method, target, body))["data"]


@asynccontextmanager
async def open_connection(base_url: str) -> AsyncIterator[Connection]:
    """Connect to a server."""
    host, _, port = base_url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()
