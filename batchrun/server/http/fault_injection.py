"""Applies a fault plan to a real request: waits, refuses, lets the handler run, spoils the answer.

The route's handler runs whole or not at all: nothing here changes the server's state.
"""

import socket
import struct
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import anyio
import anyio.abc
import structlog
from aiohttp import web

from batchrun.server.accounts.callers import Caller
from batchrun.server.error_answers import ErrorAnswer, thing_missing
from batchrun.server.faults.fault_kinds import (
    DropAnswer,
    ErrorAfter,
    ErrorBefore,
    Fresh404,
    Garbage,
    NoCapacity,
    RateLimit,
    Refusal,
    ResetBefore,
    SlowBody,
    Spoiler,
    Truncate,
)
from batchrun.server.faults.fault_script import Asked, FaultPlan, FaultScript
from batchrun.server.ids import now_ms, parse_iso
from batchrun.server.routing.call import Call, Route, error_answer

_log = structlog.get_logger()

#: Carries out a request; returns an answer also if that fails.
Work = Callable[[], Awaitable[web.StreamResponse]]
#: Statuses that a gateway answers, not the API: their body is HTML.
_GATEWAY_STATUSES = frozenset({502, 504})
_CAPACITY_MESSAGES = {
    "actor-memory-limit-exceeded": "By launching this job you will exceed the memory limit of all your Actor runs",
    "concurrent-runs-limit-exceeded": "By launching this job you will exceed your limit of concurrent Actor runs",
}


class FaultInjection:
    def __init__(self, script: FaultScript, children: anyio.abc.TaskGroup) -> None:
        self._script, self._children = script, children

    async def answer(self, call: Call, route: Route, method: str, work: Work) -> web.StreamResponse:
        plan = await self._decide(call, route, "GET" if method == "HEAD" else method)
        if plan.refusal is not None:
            _log.info("fault_struck", kind=plan.refusal.kind, method=method, route=route.path)
            return await _refuse(call, plan, plan.refusal)
        call.faults = plan
        if plan.is_repeated:
            body = await call.peek()
            await work()
            call.put_back(body)
        response = await (self._carry_out_apart(call, plan, work) if plan.is_apart else work())
        if plan.date_skew_s and not response.prepared:
            at = datetime.now(UTC) + timedelta(seconds=plan.date_skew_s)
            response.headers["Date"] = format_datetime(at, usegmt=True)
        if plan.delay_after_s:
            await anyio.sleep(plan.delay_after_s)
        if plan.spoiler is None or not isinstance(response, web.Response):
            return response
        _log.info("fault_struck", kind=plan.spoiler.kind, method=method, route=route.path)
        return await _spoil(call.request, response, plan.spoiler)

    async def _decide(self, call: Call, route: Route, method: str) -> FaultPlan:
        if route.is_page:
            return FaultPlan()
        age_s = await _run_age_s(call) if self._script.needs_run_age(method, route.path) else None
        subject = await _subject(call) if self._script.needs_subject(method, route.path) else b""
        is_from_actor = call.caller is Caller.RUN
        return self._script.decide(
            Asked(method=method, template=route.path, is_from_actor=is_from_actor, run_age_s=age_s, subject=subject)
        )

    async def _carry_out_apart(self, call: Call, plan: FaultPlan, work: Work) -> web.StreamResponse:
        """Carry out a request, late if so planned, even if its caller has hung up by then, as a platform does."""
        await call.receive()  # a body that has not arrived is lost with the connection
        response: web.StreamResponse | None = None
        is_done = anyio.Event()

        async def carry_out() -> None:
            nonlocal response
            await anyio.sleep(plan.delay_before_s)
            response = await work()
            is_done.set()

        self._children.start_soon(carry_out)
        with anyio.move_on_after(plan.gateway_timeout_s):
            await is_done.wait()
        return _error(504, "") if response is None else response


async def _subject(call: Call) -> bytes:
    return await call.peek() or next(iter(call.path.values()), "").encode(errors="surrogateescape")


async def _run_age_s(call: Call) -> float | None:
    if (run_id := call.path.get("run")) is None:
        return None
    try:
        doc = await call.backend.runs.read(run_id)
    except ErrorAnswer:
        return None
    return (now_ms() - parse_iso(doc["startedAt"], "startedAt")) / 1000


async def _refuse(call: Call, plan: FaultPlan, refusal: Refusal) -> web.StreamResponse:
    await anyio.sleep(plan.delay_before_s)
    match refusal:
        case ResetBefore():
            return _reset(call.request)
        case ErrorBefore(status=status, type=type):
            return _error(status, type)
        case RateLimit(retry_after_s=wait_s):
            headers = {"Retry-After": str(wait_s)} if wait_s is not None else None
            raise ErrorAnswer(429, "rate-limit-exceeded", "You have exceeded the rate limit", headers=headers)
        case NoCapacity(status=status, type=type):
            raise ErrorAnswer(status, type, _CAPACITY_MESSAGES[type])
        case Fresh404():
            raise thing_missing("Actor run")
    raise AssertionError(refusal)


async def _spoil(request: web.BaseRequest, response: web.Response, spoiler: Spoiler) -> web.StreamResponse:
    match spoiler:
        case DropAnswer():
            return _reset(request)
        case ErrorAfter(status=status, type=type):
            return _error(status, type)
        case Garbage(body=body, content_type=content_type):
            status = response.status if response.status in (200, 201) else 200
            return web.Response(status=status, text=body, content_type=content_type)
        case Truncate() | SlowBody() if not _content(request, response):
            return response
        case Truncate(keep=keep):
            return await _truncate(request, response, keep)
        case SlowBody(chunk_bytes=chunk_bytes, pause_s=pause_s):
            return await _trickle(request, response, chunk_bytes, pause_s)
    raise AssertionError(spoiler)


def _error(status: int, type: str) -> web.Response:  # noqa: A002 - the API's own word
    if status in _GATEWAY_STATUSES or not type:
        page = f"<html><head><title>{status}</title></head><body>The server did not answer in time</body></html>"
        return web.Response(status=status, text=page, content_type="text/html")
    return error_answer(status, type, "There was an unexpected error on the server")


def _reset(request: web.BaseRequest) -> web.Response:
    """Reset the connection. The returned answer is never sent."""
    if (transport := request.transport) is not None:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=500)


async def _truncate(request: web.BaseRequest, response: web.Response, keep: float) -> web.StreamResponse:
    content = _content(request, response)
    begun = await _begun(request, response)
    await begun.write(content[: int(len(content) * keep)])
    if request.transport is not None:
        request.transport.close()
    return begun


async def _trickle(
    request: web.BaseRequest, response: web.Response, chunk_bytes: int, pause_s: float
) -> web.StreamResponse:
    content = _content(request, response)
    begun = await _begun(request, response)
    for start in range(0, len(content), chunk_bytes):
        await begun.write(content[start : start + chunk_bytes])
        await anyio.sleep(pause_s)
    await begun.write_eof()
    return begun


async def _begun(request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
    headers = {name: value for name, value in response.headers.items() if name.lower() != "content-length"}
    begun = web.StreamResponse(status=response.status, headers=headers)
    begun.content_length = len(_content(request, response))
    await begun.prepare(request)
    return begun


def _content(request: web.BaseRequest, response: web.Response) -> bytes:
    if request.method == "HEAD" or not isinstance(response.body, bytes | bytearray):
        return b""
    return bytes(response.body)
