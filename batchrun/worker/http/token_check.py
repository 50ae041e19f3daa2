"""The token check: a request needs the worker's token, in a header or in the cookie of the live page."""

import hmac
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from batchrun.runtime.loopback import is_loopback_host
from batchrun.worker.http.error_envelope import error_answer
from batchrun.worker.http.page_routes import missing_token_page
from batchrun.worker.http.request_context import WORKER
from batchrun.worker.token_file import Token

COOKIE = "batchrun_token"
#: Paths without a token: their answers reveal nothing about the content of batches.
OPEN_PATHS = frozenset({"/health/live", "/health/ready", "/metrics", "/openapi.json"})


def demand_token(token: Token) -> Middleware:
    """Return the middleware that refuses requests without the token."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if _has_token(request, token):
            return await handler(request)
        if request.path in OPEN_PATHS:
            if _is_rebound(request):
                message = "ask for the worker by a loopback address or as localhost, or send its token"
                return error_answer(403, "host-not-allowed", message)
            return await handler(request)
        if request.method == "GET" and hmac.compare_digest(request.query.get("token", "").encode(), token.encode()):
            return _with_cookie(request, token)
        if request.path == "/":
            return missing_token_page()
        return error_answer(
            401, "token-not-valid", "send the worker's token as `Authorization: Bearer …`; it is in DATA/token"
        )

    return check


def _is_rebound(request: web.Request) -> bool:
    """True if a worker for this machine alone is asked by another name, as by a web page that rebinds its own."""
    try:
        asked = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        asked = ""
    return is_loopback_host(request.app[WORKER].config.worker.host) and not is_loopback_host(asked)


def _has_token(request: web.Request, token: Token) -> bool:
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return hmac.compare_digest(shown.strip().encode("utf-8", "replace"), token.encode())
    cookie = request.cookies.get(COOKIE, "")
    # Another site's page may send our cookie along: its requests are not the user's.
    origin = request.headers.get("Origin")
    is_ours = origin is None or origin == f"{request.scheme}://{request.host}"
    return is_ours and hmac.compare_digest(cookie.encode("utf-8", "replace"), token.encode())


def _with_cookie(request: web.Request, token: Token) -> web.Response:
    """Move the token from the address to a cookie."""
    # One slash: two would redirect to another host.
    answer = web.Response(status=303, headers={"Location": f"/{request.path.lstrip('/')}"})
    answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict", path="/")
    return answer
