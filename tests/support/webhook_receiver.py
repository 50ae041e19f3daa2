"""A receiver of webhooks on loopback: it keeps what it gets, and answers as it is told."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from tests.support.worker_life import until


@dataclass
class Received:
    """One call."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """The body as JSON."""
        found: dict[str, Any] = orjson.loads(self.body)
        return found


@dataclass
class WebhookReceiver:
    """A receiver that listens."""

    url: str = ""
    #: Answers to the next calls; after them, 204.
    statuses: list[int] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)

    @property
    def events(self) -> list[str]:
        """The events of all calls."""
        return [each.fields["event"] for each in self.received]

    async def handle(self, request: web.Request) -> web.Response:
        """Take a call."""
        self.received.append(Received(dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 204
        return web.Response(status=status, headers={"Location": self.url} if status // 100 == 3 else {})

    async def until(self, count: int) -> None:
        """Wait until there were this many calls."""
        await until(lambda: len(self.received) >= count, lambda: f"{count} calls: {self.received}", limit_s=30)


@asynccontextmanager
async def receiving(port: int = 0) -> AsyncIterator[WebhookReceiver]:
    """Listen while the context lasts, on a free port or a given one."""
    receiver = WebhookReceiver()
    runner = web.ServerRunner(web.Server(receiver.handle))  # type: ignore[arg-type]  # a low-level handler
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook/s3cret-path"
    try:
        yield receiver
    finally:
        await runner.cleanup()
