"""The page at `GET /`: one file with its script and style; the same for everyone, without a token and without data.

The script asks the API with the token of the person in front of it. Stored bytes of strangers have the same origin, so
the policy allows this one script and style by their hashes, not all of the origin's.
"""

import base64
import hashlib
from functools import cache
from importlib import resources

import anyio.to_thread
from aiohttp import web

from batchrun.server.accounts.callers import Caller
from batchrun.server.error_answers import not_permitted
from batchrun.server.routing.call import Call, data_answer, raw_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.style_sheet import CONTROLS, STYLE


def add_routes(table: RouteTable) -> None:
    table.add("GET", "/", show_page, needs_token=False)
    table.add("POST", "/page/session", give_page_token)


async def show_page(_: Call) -> web.Response:
    page, policy = await anyio.to_thread.run_sync(_page_and_policy)
    headers = {"Content-Security-Policy": policy, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return raw_answer(page, content_type="text/html; charset=utf-8", headers=headers)


async def give_page_token(call: Call) -> web.Response:
    """Return a token for the page in the place of one that was typed into it, and that outlives the server."""
    if call.caller is not Caller.ACCOUNT:
        raise not_permitted("page")
    return data_answer({"token": call.backend.tokens.of_page(call.user.id)})


@cache
def _page_and_policy() -> tuple[bytes, str]:
    style, script = STYLE + CONTROLS + _asset("page.css"), _asset("page.js")
    page = _asset("page.html").replace("<!-- style -->", f"<style>{style}</style>")
    page = page.replace("<!-- script -->", f'<script type="module">{script}</script>')
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; connect-src 'self'; img-src data:;"
        " require-trusted-types-for 'script'; trusted-types 'none';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), policy


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return resources.files("batchrun.server.page").joinpath("assets", name).read_text("utf-8")
