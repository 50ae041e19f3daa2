"""Who may ask: whoever has the worker's token, in a header, or in the cookie that the page was opened with."""

import hmac

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from batchrun.worker.http.error_envelope import error_answer
from batchrun.worker.http.page_routes import no_entry
from batchrun.worker.token_file import Token

COOKIE = "batchrun_token"
#: What may be asked without a token: nothing of it tells what the batches are about.
OPEN_PATHS = frozenset({"/health/live", "/health/ready", "/metrics", "/openapi.json"})


def demand_token(token: Token) -> Middleware:
    """Return the middleware that lets nobody in without the token."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in OPEN_PATHS or _is_shown(request, token):
            return await handler(request)
        if request.method == "GET" and hmac.compare_digest(request.query.get("token", "").encode(), token.encode()):
            return _with_cookie(request, token)
        if request.path == "/":
            return no_entry()
        return error_answer(
            401, "token-not-valid", "send the worker's token as `Authorization: Bearer …`; it is in DATA/token"
        )

    return check


def _is_shown(request: web.Request, token: Token) -> bool:
    scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return hmac.compare_digest(shown.strip().encode("utf-8", "replace"), token.encode())
    cookie = request.cookies.get(COOKIE, "")
    # A page of somebody else may send our cookie along; what it asks for is not what the user asked for.
    origin = request.headers.get("Origin")
    is_ours = origin is None or origin == f"{request.scheme}://{request.host}"
    return is_ours and hmac.compare_digest(cookie.encode("utf-8", "replace"), token.encode())


def _with_cookie(request: web.Request, token: Token) -> web.Response:
    """Keep the token of the address in a cookie, and out of the address from there on."""
    # One slash: two would lead to another host.
    answer = web.Response(status=303, headers={"Location": f"/{request.path.lstrip('/')}"})
    answer.set_cookie(COOKIE, token, httponly=True, samesite="Strict", path="/")
    return answer
