"""Every request's way in and out: route, caller, rate limit, handler; and errors as the API's envelope."""

from collections.abc import Awaitable, Callable

import structlog
import anyio.abc
from aiohttp import web

from batchrun.server.api import (
    actors,
    datasets,
    demo_site,
    events,
    key_value_stores,
    logs,
    request_queues,
    runs,
    tasks,
    users,
)
from batchrun.server.auth import Caller, token_missing
from batchrun.server.call import Call, Route, empty_answer, error_answer
from batchrun.server.faults import Fault
from batchrun.server.platform import Platform
from batchrun.server.query import Query
from batchrun.server.route_table import RouteTable

_log = structlog.get_logger()

_CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Content-Encoding, User-Agent",
    "Access-Control-Max-Age": "86400",
}
_EXPOSED = ", ".join(
    (
        "Location",
        "X-RateLimit-Limit",
        *(f"X-Apify-Pagination-{name}" for name in ("Total", "Offset", "Limit", "Count", "Desc")),
    )
)


def make_handler(platform: Platform) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
    """Return the handler of all requests."""
    table = RouteTable()
    for module in (actors, datasets, demo_site, events, key_value_stores, logs, request_queues, runs, tasks, users):
        module.add_routes(table)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "OPTIONS":
            response: web.StreamResponse = empty_answer()
            response.headers.update(_CORS)
            return response
        try:
            response = await _answer(request, platform, table)
        except Fault as fault:
            response = error_answer(fault.status, fault.type, fault.message, fault.data)
            response.headers.update(fault.headers)
        except Exception:  # noqa: BLE001 - the one place where a bug becomes a 500
            # A caller learns nothing of the inside; the path is logged without its query, which may hold a token.
            _log.exception("request_failed", method=request.method, path=request.path)
            response = error_answer(500, "internal-server-error", "There was an unexpected error on the server")
        if not response.prepared:
            response.headers["Access-Control-Allow-Origin"] = "*"
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED
        return response

    return handle


async def _answer(request: web.BaseRequest, platform: Platform, table: RouteTable) -> web.StreamResponse:
    query = Query(request.rel_url.raw_query_string)
    method = _method(request, query)
    route, path = table.router.find(method, request.rel_url.raw_path)
    caller = platform.tokens.recognise(_token(request, query), lambda run_id: _is_live(platform, run_id))
    if route.needs_token and caller is Caller.NOBODY:
        raise token_missing()
    _admit(platform, route, path)
    call = Call(request=request, platform=platform, caller=caller, path=path, query=query)
    response = await route.handler(call)
    if not response.prepared:
        response.headers["X-RateLimit-Limit"] = str(route.per_s)
    return response


def _method(request: web.BaseRequest, query: Query) -> str:
    """Return the method, as `?method=` may override it for clients that can only GET or POST."""
    override = query.text("method") if request.method in ("GET", "POST") else None
    return override.upper() if override else request.method


def _token(request: web.BaseRequest, query: Query) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else query.text("token")


def _is_live(platform: Platform, run_id: str) -> bool:
    return platform.runs.find_live(run_id) is not None


def _admit(platform: Platform, route: Route, path: dict[str, str]) -> None:
    if route.path.startswith("/demo"):
        return
    resource = next(iter(path.values()), "")
    platform.rate_limits.admit(f"{route.path.split('/', 3)[2]}/{resource}", route.per_s)
