"""Each request's way in and out: route, caller, rate limit, handler; errors become the API's envelope."""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import cache, partial

import anyio
import anyio.abc
import structlog
from aiohttp import web

from batchrun.runtime.browser_service_workers import end_service_worker, is_for_service_worker
from batchrun.runtime.loopback import network_of
from batchrun.server.accounts.rate_limits import PER_RESOURCE
from batchrun.server.api import (
    actor_routes,
    build_routes,
    dataset_routes,
    demo_routes,
    event_routes,
    key_value_store_routes,
    log_routes,
    request_queue_routes,
    run_routes,
    task_routes,
    unserved_routes,
    usage_routes,
    user_routes,
    webhook_routes,
)
from batchrun.server.backend import Backend
from batchrun.server.content.large_answers import is_large, send_large
from batchrun.server.content.query_parameters import Query
from batchrun.server.error_answers import ErrorAnswer, disk_full, token_missing
from batchrun.server.faults.fault_script import FaultScript
from batchrun.server.http.connection_cap import ConnectionCap
from batchrun.server.http.fault_injection import FaultInjection
from batchrun.server.page import front_page
from batchrun.server.routing.call import RATE_LIMIT, Call, Route, add_common_headers, empty_answer, error_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.store.database import is_of_a_full_disk

_log = structlog.get_logger()

_MODULES = (
    actor_routes, build_routes, dataset_routes, demo_routes, event_routes, front_page, key_value_store_routes,
    log_routes, request_queue_routes, run_routes, task_routes, usage_routes, user_routes, webhook_routes,
)  # fmt: skip

#: Methods that change nothing.
_READING = frozenset({"GET", "HEAD"})
_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Content-Encoding, User-Agent",
    "Access-Control-Max-Age": "86400",
}


@cache
def make_table() -> RouteTable:
    """Return all routes, which are the same for all servers of a process."""
    table = RouteTable()
    for module in _MODULES:
        module.add_routes(table)
    unserved_routes.add_routes(table)
    return table


def make_handler(
    backend: Backend, children: anyio.abc.TaskGroup, cap: ConnectionCap
) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """Return the function that handles all requests; `cap` spares the connections of those with a valid token.

    Raises:
        ConfigError: a fault names a route that does not exist.
    """
    table = make_table()
    injection = _injection(backend, table, children)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        try:
            if request.method == "OPTIONS":
                preflight = empty_answer()
                preflight.headers.update(_CORS)
                add_common_headers(preflight, backend.rate_limits.announced(PER_RESOURCE))
                return preflight
            if is_for_service_worker(request.headers):
                return end_service_worker()
            response = await _guarded(request, lambda: _answer(request, backend, table, injection, cap, children))
            if response.prepared:
                return response
            add_common_headers(response, backend.rate_limits.announced(PER_RESOURCE))
            if is_large(response):
                return await _guarded(request, lambda: send_large(request, response, backend.settings.data_dir))
            return response
        finally:
            cap.release(request)

    return handle


def _injection(backend: Backend, table: RouteTable, children: anyio.abc.TaskGroup) -> FaultInjection | None:
    if backend.settings.faults is None:
        return None
    script = FaultScript(backend.settings.faults)
    script.check(table.served)
    return FaultInjection(script, children)


async def _guarded(request: web.BaseRequest, work: Callable[[], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
    try:
        return await work()
    except ErrorAnswer as error:
        return _refused(error)
    except Exception as error:  # noqa: BLE001 - the one place where a bug becomes a 500
        if is_of_a_full_disk(error):
            _log.warning("request_not_stored", method=request.method, path=request.path, reason=str(error))
            return _refused(disk_full())
        if isinstance(error, ConnectionError) and (request.transport is None or request.transport.is_closing()):
            return error_answer(400, "request-aborted-prematurely", "The connection was closed")  # nobody reads this
        # The caller gets no details. The path is logged without its query, which may hold a token.
        _log.exception("request_failed", method=request.method, path=request.path)
        return error_answer(500, "internal-server-error", "There was an unexpected error on the server")


def _refused(error: ErrorAnswer) -> web.Response:
    response = error_answer(error.status, error.type, error.message)
    response.headers.update(error.headers)
    return response


async def _answer(
    request: web.BaseRequest,
    backend: Backend,
    table: RouteTable,
    injection: FaultInjection | None,
    cap: ConnectionCap,
    children: anyio.abc.TaskGroup,
) -> web.StreamResponse:
    query = Query(request.rel_url.raw_query_string)
    method = _method(request, query)
    route, path = table.find(method, request.rel_url.raw_path)
    announced = backend.rate_limits.announced(route.per_s)
    headers = {} if announced is None else {RATE_LIMIT: str(announced)}
    try:
        response = await _routed(request, backend, route, path, query, method, injection, cap, children)
    except ErrorAnswer as error:
        error.headers.update(headers)
        raise
    if not response.prepared:
        response.headers.update(headers)
    return response


async def _routed(
    request: web.BaseRequest,
    backend: Backend,
    route: Route,
    path: dict[str, str],
    query: Query,
    method: str,
    injection: FaultInjection | None,
    cap: ConnectionCap,
    children: anyio.abc.TaskGroup,
) -> web.StreamResponse:
    caller, account, run_id = backend.tokens.recognise(_token(request, query), backend.runs.owner_of_live)
    if account is not None:
        cap.spare(request)
    elif route.needs_token:
        raise token_missing()
    _admit(backend, route, path, account.id if account is not None else network_of(request.remote or ""))
    call = Call(
        request=request,
        backend=backend,
        caller=caller,
        live=backend.runs.find_live(run_id),
        account=account,
        path=path,
        query=query,
        per_s=backend.rate_limits.announced(route.per_s),
    )

    async def carry_out() -> web.StreamResponse:
        try:
            async with backend.reading_much.turn(call.who) if route.reads_much else nullcontext():
                return await route.handler(call)
        finally:
            call.leave_room()

    work = partial(_guarded, request, carry_out)
    if method not in _READING or route.is_sync_run:
        work = partial(_to_its_end, children, work)
    return await (work() if injection is None else injection.answer(call, route, method, work))


async def _to_its_end(
    children: anyio.abc.TaskGroup, work: Callable[[], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Carry out what changes something to its end, also if its caller hangs up meanwhile, as the platform does."""
    answers: list[web.StreamResponse] = []
    is_over = anyio.Event()

    async def carry_out() -> None:
        try:
            answers.append(await work())
        finally:
            is_over.set()

    children.start_soon(carry_out)
    await is_over.wait()
    return answers[0] if answers else error_answer(503, "operation-canceled", "The server closes")


def _method(request: web.BaseRequest, query: Query) -> str:
    """Return the method. `?method=` overrides it, for clients that can only GET or POST."""
    override = query.text("method") if request.method in ("GET", "POST") else None
    return override.upper() if override else request.method


def _token(request: web.BaseRequest, query: Query) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else query.text("token")


def _admit(backend: Backend, route: Route, path: dict[str, str], who: str) -> None:
    if route.is_page:
        return
    resource = next(iter(path.values()), "")
    backend.rate_limits.admit(who, f"{route.path.split('/', 3)[2]}/{resource}", route.per_s)
