"""The demo site's pages; no token needed."""

from aiohttp import web

from batchrun.server.routing.call import Call, raw_answer
from batchrun.server.routing.route_table import RouteTable

_HTML = "text/html; charset=utf-8"
#: No sandbox: browsers that scrape these pages of our own may run scripts in them.
_POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


def add_routes(table: RouteTable) -> None:
    table.add("GET", "/demo", show_index, needs_token=False)
    table.add("GET", "/demo/{page}", show_page, needs_token=False)


async def show_index(call: Call) -> web.Response:
    return raw_answer(call.backend.demo.index(), content_type=_HTML, headers=_POLICY)


async def show_page(call: Call) -> web.Response:
    return raw_answer(await call.backend.demo.page(call.path["page"]), content_type=_HTML, headers=_POLICY)
