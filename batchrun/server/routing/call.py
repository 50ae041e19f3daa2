"""One request as handlers see it, and the answers they give."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio.to_thread
import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.accounts.accounts import ServerAccount
from batchrun.server.accounts.callers import Caller
from batchrun.server.accounts.rate_limits import PER_RESOURCE
from batchrun.server.backend import Backend
from batchrun.server.content.body_spool import BodySpool
from batchrun.server.content.query import Query
from batchrun.server.content.request_bodies import parse_object, receive_body
from batchrun.server.content.sending import send_pieces, send_spool
from batchrun.server.error_answers import token_missing
from batchrun.server.faults.fault_script import NO_QUIRKS, Quirks

JSON_TYPE = "application/json; charset=utf-8"
RATE_LIMIT = "X-RateLimit-Limit"
_EXPOSED = ", ".join(
    (
        "Location",
        RATE_LIMIT,
        *(f"X-Apify-Pagination-{name}" for name in ("Total", "Offset", "Limit", "Count", "Desc")),
    )
)


@dataclass(slots=True, kw_only=True)
class Call:
    """A request that was routed and admitted."""

    request: web.BaseRequest
    backend: Backend
    caller: Caller
    #: On whose behalf; None for nobody.
    account: ServerAccount | None
    #: Decoded parameters of the path.
    path: Mapping[str, str]
    query: Query
    #: Requests per second that the route admits.
    #: Requests per second that the answer announces; None where no limit is kept.
    per_s: int | None = PER_RESOURCE
    #: What a server that was told to misbehave does otherwise.
    quirks: Quirks = NO_QUIRKS
    _body: bytes | BodySpool | None = field(default=None, init=False, repr=False)

    async def receive(self) -> None:
        """Take the body in, ahead of whoever asks for it."""
        self._body = await self.body_or_spool()

    async def body(self) -> bytes:
        """Return the decompressed body, once: for what must be parsed as a whole, once all of it is here."""
        body = await self.body_or_spool()
        return body if isinstance(body, bytes) else await anyio.to_thread.run_sync(body.take)

    async def body_or_spool(self) -> bytes | BodySpool:
        """Return the decompressed body, once; a large one as a Spool that the caller has to take or close."""
        body, self._body = self._body, None
        return body if body is not None else await receive_body(self.request, self.backend.settings.data_dir)

    def header(self, name: str) -> str | None:
        """Return a header as text that can be stored: bytes that are not UTF-8 are read as Latin-1."""
        value = self.request.headers.get(name)
        try:
            return value and value.encode().decode()
        except UnicodeEncodeError:
            return value and value.encode(errors="surrogateescape").decode("latin-1")

    async def json_object(self) -> JsonObject:
        """Return the body as a JSON object; an empty one if there is none."""
        return parse_object(await self.body())

    @property
    def user(self) -> ServerAccount:
        """The account on whose behalf the request comes.

        Raises:
            ErrorAnswer: 401 for nobody.
        """
        if self.account is None:
            raise token_missing()
        return self.account

    def is_by(self, user_id: str) -> bool:
        """Whether the request comes on behalf of this account."""
        return self.account is not None and self.account.id == user_id


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How a path is served."""

    handler: Handler
    #: Requests per second and resource.
    per_s: int
    needs_token: bool
    #: The path's template: names the resource together with its first parameter.
    path: str


def raw_answer(
    body: bytes, status: int = 200, content_type: str = JSON_TYPE, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer with bytes."""
    return web.Response(body=body, status=status, headers={**(headers or {}), "Content-Type": content_type})


def data_answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Answer with the API's envelope."""
    return raw_answer(orjson.dumps({"data": data}), status, headers=headers)


def add_common_headers(response: web.StreamResponse, per_s: int | None) -> None:
    """Add what every answer tells: a rate limit, unless it stands there, and that scripts of any origin may read it."""
    if per_s is not None:
        response.headers.setdefault(RATE_LIMIT, str(per_s))
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED


async def stream_answer(
    call: Call, pieces: AsyncIterator[bytes], status: int, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answer piece by piece, no faster than the caller reads."""
    return await send_pieces(call.request, _begun(call, status, headers), pieces, call.backend.settings.data_dir)


async def spool_answer(call: Call, body: BodySpool, status: int, headers: Mapping[str, str]) -> web.StreamResponse:
    """Answer with what is in a spool, no faster than the caller reads."""
    return await send_spool(call.request, _begun(call, status, headers), body)


def _begun(call: Call, status: int, headers: Mapping[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers=headers)
    add_common_headers(response, call.per_s)
    return response


def empty_answer(status: int = 204) -> web.Response:
    """Answer without a body."""
    return web.Response(status=status)


def page_answer(items: list[Any], total: int, offset: int, limit: int, *, is_descending: bool) -> web.Response:
    """Answer with a page of a list."""
    return data_answer(
        {"total": total, "count": len(items), "offset": offset, "limit": limit, "desc": is_descending, "items": items}
    )


def list_answer(call: Call, docs: list[JsonObject]) -> web.Response:
    """Answer with the page that the query asks for of a list held in memory."""
    offset, limit, is_descending = call.query.page()
    ordered = docs[::-1] if is_descending else docs
    return page_answer(ordered[offset : offset + limit], len(docs), offset, limit, is_descending=is_descending)


def error_answer(status: int, type: str, message: str, data: JsonObject | None = None) -> web.Response:  # noqa: A002
    """Answer with the API's error envelope."""
    error: JsonObject = {"type": type, "message": message}
    if data is not None:
        error["data"] = data
    return raw_answer(orjson.dumps({"error": error}), status)
