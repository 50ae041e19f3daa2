"""One request as handlers see it, and the answers they give."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.accounts import Account
from batchrun.server.auth import Caller, token_missing
from batchrun.server.bodies import parse_object, read_body
from batchrun.server.misbehaviour import NO_QUIRKS, Quirks
from batchrun.server.platform import Platform
from batchrun.server.query import Query

JSON_TYPE = "application/json; charset=utf-8"


@dataclass(slots=True, kw_only=True)
class Call:
    """A request that was routed and admitted."""

    request: web.BaseRequest
    platform: Platform
    caller: Caller
    #: On whose behalf; None for nobody.
    account: Account | None
    #: Decoded parameters of the path.
    path: Mapping[str, str]
    query: Query
    #: What a server that was told to misbehave does otherwise.
    quirks: Quirks = NO_QUIRKS
    _body: bytes | None = field(default=None, init=False, repr=False)

    async def body(self) -> bytes:
        """Return the decompressed body."""
        if self._body is None:
            self._body = await read_body(self.request)
        return self._body

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
    def user(self) -> Account:
        """The account on whose behalf the request comes.

        Raises:
            Fault: 401 for nobody.
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


def empty_answer(status: int = 204) -> web.Response:
    """Answer without a body."""
    return web.Response(status=status)


def page_answer(items: list[Any], total: int, offset: int, limit: int, *, is_descending: bool) -> web.Response:
    """Answer with a page of a list."""
    return data_answer(
        {"total": total, "count": len(items), "offset": offset, "limit": limit, "desc": is_descending, "items": items}
    )


def error_answer(status: int, type: str, message: str, data: JsonObject | None = None) -> web.Response:  # noqa: A002
    """Answer with the API's error envelope."""
    error: JsonObject = {"type": type, "message": message}
    if data is not None:
        error["data"] = data
    return raw_answer(orjson.dumps({"error": error}), status)
