"""The live page: its frame and its script. Its content comes as events, in pieces of HTML."""

from functools import cache
from importlib import resources

import anyio
from aiohttp import web

from batchrun.report.html_elements import Html, join, page, tag
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.request_context import PAGE

#: Content-Security-Policy: the page runs its own script and sends requests to its own worker only.
POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; img-src data:;"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_ORDERS = {"pause": "Pause", "resume": "Resume", "cancel": "Cancel…", "limits": "Limits…", "delete": "Delete…"}
#: Fields of the two forms for limits, with their labels.
_BATCH_LIMITS = {
    "weight": "Weight",
    "priority": "Priority",
    "max_concurrent_runs": "Max live Runs",
    "start_rate": "Max starts per second",
    "budget_usd": "Budget, US dollars",
}
_WORKER_LIMITS = {
    "max_concurrent_runs": "Max live Runs",
    "max_total_memory_mb": "Max memory, MB",
    "request_rate": "Max requests per second",
    "budget_usd": "Budget, US dollars",
}


async def get_page(_request: web.Request) -> web.Response:
    """Return the frame of the page."""
    return web.Response(text=await anyio.to_thread.run_sync(_frame), content_type="text/html", headers=_HEADERS)


async def get_script(_request: web.Request) -> web.Response:
    """Return the script of the page."""
    return web.Response(
        text=await anyio.to_thread.run_sync(_asset, "page.js"), content_type="text/javascript", headers=_HEADERS
    )


async def get_page_key(request: web.Request) -> web.Response:
    """Return what opens the live page once, for its address: `/#key=…`."""
    return web.json_response({"key": request.app[PAGE].ticket()})


async def open_page(request: web.Request) -> web.Response:
    """Return the key of the live page for what its address holds, which opens nothing from now on."""
    access = request.app[PAGE]
    if not access.take_ticket(request.headers.get("Authorization", "").removeprefix("Bearer ")):
        raise Refused(401, "link-not-valid", "this link was opened before; `batchrun worker page` prints another")
    return web.json_response({"key": access.key})


@cache
def _frame() -> Html:
    head = join([tag("style", Html(_asset("page.css"))), tag("script", type="module", src="/page.js")])
    return page(
        "batchrun",
        tag("div", tag("h1", "batchrun"), tag("p", "Connecting…", id="connection", role="status"), class_="head"),
        tag(
            "div",
            _card("Worker", tag("div", id="worker"), _button("limits", "Limits…", id="worker-limits")),
            _card("Slot use over time", tag("div", id="slots", class_="live")),
            _card("Batches", tag("p", id="none", class_="soft"), tag("ul", id="batches")),
            class_="cards",
        ),
        tag("p", id="said", role="status", aria_live="polite"),
        _batch_template(),
        _confirm_dialog(),
        _limits_dialog("batch-limits-form", _BATCH_LIMITS, "An empty field stays unchanged; none removes a limit."),
        _limits_dialog("worker-limits-form", _WORKER_LIMITS, "Changes hold until the next start or reload."),
        head=head,
        policy=POLICY.replace("; frame-ancestors 'none'", ""),  # only a header may contain this
    )


def _card(title: str, *content: Html) -> Html:
    return tag("section", tag("header", tag("h2", title)), *content, class_="card")


def _button(order: str, text: str, **attributes: str) -> Html:
    return tag("button", text, type="button", data_order=order, **attributes)


def _batch_template() -> Html:
    """Return the template of a batch; its buttons are never replaced, so that the focus stays."""
    buttons = (_button(order, text) for order, text in _ORDERS.items())
    links = tag("span", class_="links")
    more = tag("details", tag("summary", "More"), tag("div", class_="details"), links)
    item = tag("li", tag("div", class_="batch-head"), tag("div", *buttons, class_="buttons"), more, class_="batch")
    return tag("template", item, id="batch")


def _confirm_dialog() -> Html:
    buttons = (
        tag("button", "No", value="no", autofocus=True),
        tag("button", "Yes", value="yes", class_="danger"),
    )
    form = tag("form", tag("p", id="question"), tag("div", *buttons, class_="buttons"), method="dialog")
    return tag("dialog", form, id="sure", aria_labelledby="question")


def _limits_dialog(name: str, fields: dict[str, str], note: str) -> Html:
    rows = (
        tag("label", tag("span", text), tag("input", name=field, autocomplete="off", inputmode="text"))
        for field, text in fields.items()
    )
    buttons = (
        tag("button", "Close", type="button", class_="close"),
        tag("button", "Change", type="submit", class_="main"),
    )
    content = (
        tag("h2", id=f"{name}-title"),
        tag("p", note, class_="soft small"),
        *rows,
        tag("p", class_="trouble", role="alert"),
        tag("div", *buttons, class_="buttons"),
    )
    return tag("dialog", tag("form", *content), id=name, aria_labelledby=f"{name}-title")


def _asset(name: str) -> str:
    return resources.files("batchrun.worker.http").joinpath("assets", name).read_text("utf-8")


ROUTES = [
    web.get("/", get_page),
    web.get("/page.js", get_script),
    web.get("/v1/page-key", get_page_key),
    web.post("/v1/page-session", open_page),
]
