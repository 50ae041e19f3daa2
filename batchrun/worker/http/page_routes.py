"""The live page: one frame, and the modules and the style that it loads; the same for everyone, and without data."""

from functools import cache
from importlib import resources
from pathlib import PurePath

import anyio
from aiohttp import web

from batchrun.style_sheet import CONTROLS, STYLE
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.request_context import PAGE, submission_of

#: Where the modules and the style are.
ASSETS = "/page/"
_HEADERS = {
    # The page runs its own modules and sends requests to its own worker only; no text can become markup.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
        " require-trusted-types-for 'script'; trusted-types 'none';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


async def get_page(_request: web.Request) -> web.Response:
    """Return the frame of the page."""
    return await _asset("page.html")


async def get_asset(request: web.Request) -> web.Response:
    """Return a module of the page, or its style."""
    return await _asset(request.match_info["name"])


async def get_page_key(request: web.Request) -> web.Response:
    """Return what opens the live page once, for its address: `/#key=…`; and its name on the worker's machine."""
    access = request.app[PAGE]
    return web.json_response({"key": access.ticket(), "host": access.host})


async def open_page(request: web.Request) -> web.Response:
    """Return the key of the live page for what its address holds, which opens nothing from now on."""
    access = request.app[PAGE]
    if not access.take_ticket(request.headers.get("Authorization", "").removeprefix("Bearer ")):
        raise Refused(401, "link-not-valid", "this link was opened before; `batchrun worker page` prints another")
    return web.json_response({"key": access.key})


async def get_access(request: web.Request) -> web.Response:
    """Return a query that opens the output of a batch by a link, which sends no header, for some minutes."""
    return web.json_response({"access": request.app[PAGE].sign(submission_of(request).id)})


async def _asset(name: str) -> web.Response:
    text = (await anyio.to_thread.run_sync(_assets)).get(name)
    if text is None:
        raise Refused(404, "page-not-found", "the live page has no such part")
    return web.Response(text=text, content_type=_TYPES[PurePath(name).suffix], headers=_HEADERS)


@cache
def _assets() -> dict[str, str]:
    assets = resources.files("batchrun.worker.http").joinpath("assets")
    names = [file.name for file in assets.iterdir() if PurePath(file.name).suffix in _TYPES]
    found = {name: assets.joinpath(name).read_text("utf-8") for name in names}
    found["page.css"] = STYLE + CONTROLS + found["page.css"]
    return found


ROUTES = [
    web.get("/", get_page),
    web.get(f"{ASSETS}{{name}}", get_asset),
    web.get("/v1/page-key", get_page_key),
    web.post("/v1/page-session", open_page),
    web.get("/v1/batches/{ref}/access", get_access),
]
