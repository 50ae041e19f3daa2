"""A client over an HTTP session whose answers a test scripts: no sockets, virtual time."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp
import anyio
import orjson
import yarl
from pydantic import SecretStr

from batchrun.apify.client import ApifyClient
from batchrun.apify.current_token import ApiToken
from batchrun.apify.transport import Transport


@dataclass(frozen=True)
class Response:
    """One answer."""

    status: int = 200
    #: What the API's envelope holds, where `body` is None.
    data: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    history: tuple[()] = ()

    @property
    def content(self) -> "Response":
        """Return the body as a stream."""
        return self

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        yield await self.read()

    async def read(self) -> bytes:
        """Return the body."""
        return orjson.dumps({"data": self.data}) if self.body is None else self.body


def api_refusal(status: int, error_type: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error answer of the API."""
    body = orjson.dumps({"error": {"type": error_type, "message": "so it is"}})
    return Response(status, headers=headers or {}, body=body)


def page(status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return the HTML page of something between here and the API."""
    body = b"<html><head><title>Just a moment&hellip;</title></head></html>"
    return Response(status, headers={"Content-Type": "text/html", **(headers or {})}, body=body)


@dataclass(frozen=True)
class Sent:
    """One request."""

    at: float
    method: str
    path: str
    authorization: str | None
    query: str = ""


class Session:
    """Answers each request by its path, as the script says; notes each."""

    def __init__(self, script: Callable[[str], Response]) -> None:
        self._script = script
        self.sent: list[Sent] = []

    @asynccontextmanager
    async def request(
        self, method: str, url: yarl.URL, *, headers: Mapping[str, str], **_: Any
    ) -> AsyncIterator[Response]:
        """Take one request."""
        path = url.path.removeprefix("/v2/")
        self.sent.append(Sent(anyio.current_time(), method, path, headers.get("Authorization"), url.query_string))
        await anyio.lowlevel.checkpoint()
        yield self._script(path)

    def get(self, url: yarl.URL, **options: Any) -> Any:
        """Take a GET that is streamed."""
        return self.request("GET", url, **options)

    def times(self, path: str) -> list[float]:
        """Return the times of the requests for a path."""
        return [sent.at for sent in self.sent if sent.path == path]


def client_of(
    script: Callable[[str], Response],
    request_rate_per_s: float = 1000,
    read_token_again: Callable[[], SecretStr | None] | None = None,
) -> tuple[ApifyClient, Session]:
    """Return a client over a scripted session."""
    session = Session(script)
    transport = Transport(
        cast("aiohttp.ClientSession", session),
        "http://api",
        token=ApiToken(SecretStr("old"), read_token_again),
        request_rate_per_s=request_rate_per_s,
    )
    return ApifyClient(transport), session
