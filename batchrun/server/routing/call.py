"""A request as handlers see it, and the answers that they give."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import field
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.runtime.byte_budget import Room
from batchrun.runtime.content_security import STRANGER_POLICY, is_shown
from batchrun.runtime.fair_turns import FairTurns
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.free_memory import check_memory, parsed_bytes
from batchrun.server.accounts.accounts import ServerAccount
from batchrun.server.accounts.callers import Caller
from batchrun.server.accounts.rate_limits import PER_RESOURCE
from batchrun.server.backend import Backend
from batchrun.server.content.body_spool import BodySpool
from batchrun.server.content.large_answers import send_pieces, send_spool
from batchrun.server.content.query_parameters import Query
from batchrun.server.content.request_bodies import SMALL_BYTES, parse_object, receive_body
from batchrun.server.error_answers import disk_full, token_invalid, token_missing
from batchrun.server.faults.fault_plan import FaultPlan
from batchrun.server.runs.hosted_run import HostedRun

T = TypeVar("T")

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
    request: web.BaseRequest
    backend: Backend
    caller: Caller
    #: The Run whose Actor calls; None for another caller.
    live: HostedRun | None
    #: The account that the caller acts for; None for an anonymous caller.
    account: ServerAccount | None
    #: The path's parameters, decoded.
    path: Mapping[str, str]
    query: Query
    #: The rate limit that the answer announces, in requests per second; None if none is enforced.
    per_s: int | None = PER_RESOURCE
    #: Injected faults that change how it is handled.
    faults: FaultPlan = field(default_factory=FaultPlan)
    _body: bytes | BodySpool | None = field(default=None, init=False, repr=False)
    #: What a large body and its values take of the memory for all such bodies.
    _room: Room | None = field(default=None, init=False, repr=False)

    @property
    def who(self) -> str:
        """The account, whose requests share its turns; all anonymous callers are one: addresses are free."""
        return self.account.id if self.account is not None else ""

    async def aside(self, work: Callable[[], T]) -> T:
        """Call in a thread, in the caller's turn, what takes the interpreter for long."""
        return await self._in_turn(self.backend.showing, work)

    async def _in_turn(self, turns: FairTurns, work: Callable[[], T]) -> T:
        async with turns.turn(self.who):
            return await anyio.to_thread.run_sync(work)

    async def receive(self) -> None:
        """Receive the body now, so that `body` needs no connection."""
        self._body = await self.body_or_spool()

    async def peek(self) -> bytes:
        """Return the decompressed body, which stays to be taken."""
        body = self._body = await self.body_or_spool()
        return body if isinstance(body, bytes) else await anyio.to_thread.run_sync(body.read)

    def put_back(self, body: bytes) -> None:
        self._body = body

    async def body(self) -> bytes:
        """Return the decompressed body as a whole, once; a large one when there is room for it and its values.

        Raises:
            MemoryError: this process has no memory for them.
        """
        body = await self.body_or_spool()
        if (len(body) if isinstance(body, bytes) else body.size) <= SMALL_BYTES:
            return body if isinstance(body, bytes) else await anyio.to_thread.run_sync(body.take)
        room = self._room = self.backend.bodies.room()
        if isinstance(body, BodySpool):
            await room.grow(body.size)
            body = await anyio.to_thread.run_sync(body.take)
        values_bytes = parsed_bytes(body)
        await room.grow(len(body) + values_bytes)
        check_memory(values_bytes)
        return body

    def leave_room(self) -> None:
        """Give back what the body took: nothing of it is in memory any more."""
        if self._room is not None:
            self._room.shrink(0)

    async def body_or_spool(self) -> bytes | BodySpool:
        """Return the decompressed body, once. The caller must take or close a spool (a large body).

        Refuses the body of a Run that has ended meanwhile, as it refuses its token.
        """
        body, self._body = self._body, None
        if body is None:
            body = await self._received()
        if self.live is not None and self.live.is_ended:
            if isinstance(body, BodySpool):
                await anyio.to_thread.run_sync(body.close)
            raise token_invalid()
        return body

    async def _received(self) -> bytes | BodySpool:
        if self.request.body_exists and not await self.backend.space.has_room():
            raise disk_full()
        return await receive_body(
            self.request, self.backend.settings.data_dir, partial(self._in_turn, self.backend.unpacking)
        )

    def header(self, name: str) -> str | None:
        """Return a header as valid text: bytes that are not UTF-8 are read as Latin-1."""
        value = self.request.headers.get(name)
        try:
            return value and value.encode().decode()
        except UnicodeEncodeError:
            return value and value.encode(errors="surrogateescape").decode("latin-1")

    async def json_object(self) -> JsonObject:
        """Return the body as a JSON object; without a body, an empty one."""
        return parse_object(await self.body())

    @property
    def user(self) -> ServerAccount:
        """The account that the caller acts for. Refuses an anonymous caller."""
        if self.account is None:
            raise token_missing()
        return self.account

    def is_by(self, user_id: str) -> bool:
        return self.account is not None and self.account.id == user_id


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The handler of a path, and who may call it how often."""

    handler: Handler
    #: Max requests per second and resource.
    per_s: int
    needs_token: bool
    #: The path's template. Its second segment and first parameter name the resource.
    path: str
    #: True for what reads megabytes, which may be ten times as many as objects, or many rows: few are done at once.
    reads_much: bool = False

    @property
    def is_sync_run(self) -> bool:
        """True for what starts a Run and waits for it, also by GET."""
        return "/run-sync" in self.path

    @property
    def is_page(self) -> bool:
        """True for a page for people or to scrape: it has no rate limit and no injected faults."""
        return self.path == "/" or self.path.startswith("/demo")


def raw_answer(
    body: bytes, status: int = 200, content_type: str = JSON_TYPE, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(body=body, status=status, headers={**(headers or {}), "Content-Type": content_type})


def data_answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return raw_answer(orjson.dumps({"data": data}), status, headers=headers)


def add_common_headers(response: web.StreamResponse, per_s: int | None) -> None:
    """Add the headers of every answer: the rate limit, unless it is there, CORS for any origin, and no scripts.

    What an Actor or a caller has stored may hold scripts: a browser must not run them with the server's origin. Of a
    type that it does not show, it saves the answer.
    """
    if per_s is not None:
        response.headers.setdefault(RATE_LIMIT, str(per_s))
    response.headers["Access-Control-Allow-Origin"] = "*"
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    response.headers.setdefault("Content-Security-Policy", STRANGER_POLICY)
    response.headers["X-Content-Type-Options"] = "nosniff"
    if not is_shown(response.headers.get("Content-Type", JSON_TYPE)):
        response.headers.setdefault("Content-Disposition", "attachment")


async def stream_answer(
    call: Call, pieces: AsyncIterator[bytes], status: int, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Answer piece by piece, no faster than the caller reads."""
    return await send_pieces(call.request, _begun(call, status, headers), pieces, call.backend.settings.data_dir)


async def spool_answer(call: Call, body: BodySpool, status: int, headers: Mapping[str, str]) -> web.StreamResponse:
    """Answer with the content of a spool, no faster than the caller reads."""
    return await send_spool(call.request, _begun(call, status, headers), body)


def _begun(call: Call, status: int, headers: Mapping[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers=headers)
    add_common_headers(response, call.per_s)
    return response


def empty_answer() -> web.Response:
    return web.Response(status=204)


def page_answer(items: list[Any], total: int, offset: int, limit: int, *, is_descending: bool) -> web.Response:
    return data_answer(
        {"total": total, "count": len(items), "offset": offset, "limit": limit, "desc": is_descending, "items": items}
    )


def list_answer(call: Call, docs: list[JsonObject]) -> web.Response:
    """Answer with a page, chosen by the query, of a list in memory."""
    offset, limit, is_descending = call.query.page()
    ordered = docs[::-1] if is_descending else docs
    return page_answer(ordered[offset : offset + limit], len(docs), offset, limit, is_descending=is_descending)


def error_answer(status: int, type: str, message: str) -> web.Response:  # noqa: A002
    return raw_answer(orjson.dumps({"error": {"type": type, "message": message}}), status)
