"""The token check: a request needs the worker's token, the key of its page, or a link that the page has got.

A request through the socket in the data directory needs none: who may open it may read the token beside it.
"""

import hmac
from collections import Counter
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from batchrun.runtime.browser_service_workers import end_service_worker, is_for_service_worker
from batchrun.runtime.loopback import is_loopback_host
from batchrun.server.http.connection_cap import ConnectionCap
from batchrun.worker.http.error_envelope import error_answer
from batchrun.worker.http.page_access import PageAccess
from batchrun.worker.http.request_context import IS_LINKED, WORKER
from batchrun.worker.token_file import Token

#: Paths without a token: their answers reveal nothing about the content of batches.
OPEN_PATHS = frozenset({"/health/live", "/health/ready", "/metrics", "/openapi.json"})
#: Where the page shows its link's ticket.
_TICKET_PATH = "/v1/page-session"
#: What a signed link may open of its batch.
_LINKED = frozenset({"costs", "records", "items", "log", "report"})
#: Max downloads by links at once; above it the oldest of the batch with most of them is reset. Each takes a connection
#: and about 0.6 MB.
_MAX_LINKED = 32


def demand_token(token: Token, page: PageAccess, cap: ConnectionCap) -> Middleware:
    """Return the middleware that refuses requests without the token, and spares the connections of those with it."""
    #: Downloads by links that are under way, the oldest first, with the batches that they are of.
    linked: dict[web.RequestHandler, str] = {}

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if not _shows_credential(request, token, page):
                if not _is_linked(request, page):
                    return await _answer_stranger(request, handler)
                _admit_link(request.protocol, request.match_info["ref"], linked)
                request[IS_LINKED] = True
            cap.spare(request)
            answer = await handler(request)
            await answer.prepare(request)
            await answer.write_eof()
            return answer
        finally:
            linked.pop(request.protocol, None)
            cap.release(request)

    return check


def _admit_link(connection: web.RequestHandler, batch_id: str, linked: dict[web.RequestHandler, str]) -> None:
    linked[connection] = batch_id
    if len(linked) > _MAX_LINKED:
        [(crowded, _)] = Counter(linked.values()).most_common(1)
        oldest = next(each for each, of_batch in linked.items() if of_batch == crowded)
        del linked[oldest]
        if oldest.transport is not None:
            oldest.transport.abort()


async def _answer_stranger(request: web.Request, handler: Handler) -> web.StreamResponse:
    if is_for_service_worker(request.headers):
        return end_service_worker()
    # The page without its content is the same for everyone, whatever name leads to it.
    if request.path in ("/", _TICKET_PATH) or request.path.startswith("/page/"):
        return await handler(request)
    if request.path in OPEN_PATHS:
        if _is_rebound(request):
            message = "ask for the worker by a loopback address or as localhost, or send its token"
            return error_answer(403, "host-not-allowed", message)
        return await handler(request)
    if "signature" in request.query:
        return error_answer(
            401, "link-not-valid", "this link is too old, or for another thing; open it from the worker's page"
        )
    return error_answer(
        401, "token-not-valid", "send the worker's token as `Authorization: Bearer …`; it is in DATA/token"
    )


def _is_rebound(request: web.Request) -> bool:
    """True if a worker for this machine alone is asked by another name, as by a web page that rebinds its own."""
    try:
        asked = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        asked = ""
    return is_loopback_host(request.app[WORKER].config.worker.host) and not is_loopback_host(asked)


def _is_local(request: web.Request) -> bool:
    """True if the request came through the Unix socket, whose name is a path; that of a TCP socket is a tuple."""
    transport = request.transport
    return transport is not None and isinstance(transport.get_extra_info("sockname"), str)


def _shows_credential(request: web.Request, token: Token, page: PageAccess) -> bool:
    """True if the request may do what the token may."""
    if _is_local(request):
        return True
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    shown = shown.strip()
    is_token = hmac.compare_digest(shown.encode("utf-8", "replace"), token.encode())
    return scheme.lower() == "bearer" and (is_token or page.is_key(shown))


def _is_linked(request: web.Request, page: PageAccess) -> bool:
    """True if the request is by a signed link, which opens what there is now and follows nothing."""
    batch_id, query = request.match_info.get("ref", ""), request.query
    is_output = request.method == "GET" and request.path.removeprefix(f"/v1/batches/{batch_id}/") in _LINKED
    is_genuine = is_output and page.is_signed(batch_id, query.get("until", ""), query.get("signature", ""))
    return is_genuine and "follow" not in query
