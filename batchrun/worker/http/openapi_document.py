"""The OpenAPI document of the API: operations from the routes, schemas from the views."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any, get_args, get_origin

import orjson
from aiohttp import web
from pydantic import TypeAdapter

from batchrun.config.jobs_settings import MAX_SHARDS
from batchrun.config.worker_config import WorkerLimitsConfig
from batchrun.ledger.protocol import CostRow
from batchrun.maintenance.repair import Repaired
from batchrun.maintenance.resolve import ShownDoubt
from batchrun.model import Outcome
from batchrun.preflight.plan import Plan
from batchrun.report.cost_sums import CostSums
from batchrun.report.shown_failures import ShownFailures
from batchrun.version import __version__
from batchrun.worker.batch_list import BatchGroup, BatchSort
from batchrun.worker.http import (
    batch_routes,
    batch_upload,
    history_routes,
    line_routes,
    list_query,
    live_event_routes,
    live_run_routes,
    output_routes,
    page_routes,
    plan_routes,
    submit_routes,
    submitted_form,
    worker_routes,
)
from batchrun.worker.http.request_context import MAX_KEY, MAX_SEARCH
from batchrun.worker.http.token_check import OPEN_PATHS
from batchrun.worker.status_views import (
    BatchPage,
    BatchView,
    NotifyTestView,
    NotifyView,
    ResolveRequest,
    RetryRequest,
    RetryView,
    WorkerView,
)

_MODELS = (
    BatchPage,
    BatchView,
    WorkerView,
    RetryRequest,
    RetryView,
    ResolveRequest,
    WorkerLimitsConfig,
    ShownFailures,
    CostSums,
    Plan,
    ShownDoubt,
    Repaired,
    NotifyView,
    NotifyTestView,
)
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["type", "message"],
            "properties": {
                "type": {"type": "string", "description": "A code for programs, like `bad-value`."},
                "message": {"type": "string", "description": "The error and what to do about it."},
            },
        }
    },
}
_JSON, _LINES = "application/json", "application/x-ndjson"


def _query(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": description, "schema": schema or {"type": "string"}}


def _fields(*names: str) -> dict[str, Any]:
    """Return the body of a PATCH: numbers; null restores a default."""
    number = {"type": ["number", "null"]}
    content = {"schema": {"type": "object", "properties": dict.fromkeys(names, number), "additionalProperties": False}}
    return {"required": True, "content": {_JSON: content}}


_TEXT = {"type": "string", "maxLength": batch_upload.MAX_TEXT_BYTES}
_FORM = {
    "type": "object",
    "description": "Either config or profile.",
    "properties": {
        "config": {**_TEXT, "description": "The text of a batch file (TOML)."},
        "profile": {"type": "string", "description": "The name of a batch file in DATA/profiles."},
        "jobs": {"type": "string", "format": "binary", "description": "The job file; its name shows its format."},
        "schema": {**_TEXT, "description": "The JSON Schema of an item, for output.expect_item_schema."},
        "name": {"type": "string", "maxLength": submitted_form.MAX_NAME},
        "weight": {"type": "number", "minimum": 0.001, "maximum": 1000},
        "priority": {"type": "integer", "minimum": -1000, "maximum": 1000},
        "shards": {
            "type": "integer",
            "minimum": 2,
            "maximum": MAX_SHARDS,
            "description": "In a fleet: the number of parts, which its workers carry out side by side.",
        },
        "settings": {**_TEXT, "description": "A JSON object by dotted key; it overrides the batch file."},
    },
}
_LIST = [
    _query("state", "States, separated by commas."),
    _query("group", "Which batches.", enum=list(BatchGroup)),
    _query("search", "Part of a name or id.", type="string", maxLength=MAX_SEARCH),
    _query("sort", "The order; a - before it reverses it.", enum=[*BatchSort, *(f"-{each}" for each in BatchSort)]),
    _query("limit", "Max batches in the answer.", type="integer", minimum=0, maximum=list_query.MAX_PAGE),
    _query("offset", "Number of batches to skip.", type="integer", minimum=0),
]
_LINE_PAGE = [
    _query("before", "Only lines before this position.", type="integer", minimum=0),
    _query("limit", "Max lines in the answer.", type="integer", minimum=0, maximum=line_routes.MAX_LINES),
    _query("search", "What a line must contain.", type="string", maxLength=MAX_SEARCH),
]
_OUTCOME = _query("outcome", "The outcome that its job must have.", enum=list(Outcome))
_RUNS = [
    _query("limit", "Max Runs in the answer.", type="integer", minimum=0, maximum=live_run_routes.MAX_RUNS),
    _query("offset", "Number of Runs to skip.", type="integer", minimum=0),
    _query("search", "A Run's id, or a part of a job's key or group.", type="string", maxLength=MAX_SEARCH),
]
_LAST = _query("last_s", "Only the last seconds.", type="integer", minimum=0, maximum=history_routes.MAX_LAST_S)
_FORMAT = _query("format", "The format.", enum=["jsonl", "csv", "xlsx"])
_DOWNLOAD = _query("download", "Given: a browser saves the answer as a file.")
_OFFSET = _query("offset", "Number of bytes to skip.", type="integer", minimum=0)
_PIECE = _query("piece", "Of a log: X-Log-Piece of the last answer, in which `offset` counts; it ends with the piece.")
_FOLLOW = _query("follow", "1: continue until the batch rests.", enum=["0", "1"])
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A repeated key returns the batch that was submitted with it, with 200; other content is refused.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY},
}
_RETRY_KEY = {**_KEY, "description": "A retry with a repeated key is carried out once."}

#: The answer of each handler: a model, or a media type.
_ANSWERS: dict[Any, Any] = {
    batch_routes.list_batches: BatchPage,
    submit_routes.submit: BatchView,
    plan_routes.plan: Plan,
    batch_routes.get_batch: BatchView,
    batch_routes.delete_batch: None,
    batch_routes.patch_batch: BatchView,
    batch_routes.pause_batch: BatchView,
    batch_routes.resume_batch: BatchView,
    batch_routes.cancel_batch: BatchView,
    batch_routes.retry_batch: RetryView,
    batch_routes.get_doubts: list[ShownDoubt],
    batch_routes.resolve_doubt: BatchView,
    batch_routes.repair_batch: Repaired,
    batch_routes.read_last_costs: CostRow,
    output_routes.get_records: _LINES,
    output_routes.get_items: _LINES,
    output_routes.get_log: _LINES,
    output_routes.get_costs: _LINES,
    output_routes.get_cost: CostSums,
    output_routes.get_failures: ShownFailures,
    output_routes.get_report: "text/html",
    live_event_routes.get_events: "text/event-stream",
    line_routes.get_record_page: _JSON,
    line_routes.get_item_page: _JSON,
    line_routes.get_log_page: _JSON,
    history_routes.get_history: _JSON,
    history_routes.get_worker_history: _JSON,
    live_run_routes.get_runs: _JSON,
    live_run_routes.get_run_log: "text/plain",
    live_run_routes.abort_run: None,
    batch_routes.get_config: _JSON,
    page_routes.get_page_key: _JSON,
    page_routes.open_page: _JSON,
    page_routes.get_access: _JSON,
    worker_routes.list_profiles: _JSON,
    worker_routes.get_worker: WorkerView,
    worker_routes.get_limits: WorkerLimitsConfig,
    worker_routes.patch_limits: WorkerLimitsConfig,
    worker_routes.get_notify: NotifyView,
    worker_routes.post_notify_test: NotifyTestView,
    worker_routes.live: _JSON,
    worker_routes.ready: _JSON,
}
_PARAMETERS: dict[Any, list[dict[str, Any]]] = {
    batch_routes.list_batches: _LIST,
    live_event_routes.get_events: [_query("batch", "Show one batch instead of a list: its name or id."), *_LIST],
    line_routes.get_record_page: [*_LINE_PAGE, _OUTCOME],
    line_routes.get_item_page: [*_LINE_PAGE, _OUTCOME],
    line_routes.get_log_page: _LINE_PAGE,
    history_routes.get_history: [_LAST],
    live_run_routes.get_runs: _RUNS,
    submit_routes.submit: [_KEY],
    plan_routes.plan: [
        _query("inputs", "Number of inputs to show.", type="integer", minimum=0, maximum=plan_routes.MAX_INPUTS)
    ],
    batch_routes.retry_batch: [_RETRY_KEY],
    output_routes.get_cost: [
        _query("by", "Columns to sum by, separated by commas: group, day, outcome."),
        _query("most", "Only the highest sums.", type="integer", minimum=0, maximum=output_routes.MAX_COST_ROWS),
    ],
    **{
        each: [_OFFSET, _PIECE, _FOLLOW, _FORMAT, _DOWNLOAD]
        for each in (output_routes.get_records, output_routes.get_items, output_routes.get_log)
    },
}
_BODIES: dict[Any, dict[str, Any]] = {
    submit_routes.submit: {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}},
    plan_routes.plan: {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}},
    batch_routes.retry_batch: {
        "required": False,
        "content": {_JSON: {"schema": {"$ref": "#/components/schemas/RetryRequest"}}},
    },
    batch_routes.resolve_doubt: {
        "required": True,
        "content": {_JSON: {"schema": {"$ref": "#/components/schemas/ResolveRequest"}}},
    },
    batch_routes.patch_batch: _fields("weight", "priority", "max_concurrent_runs", "start_rate", "budget_usd"),
    worker_routes.patch_limits: {
        "required": True,
        "content": {_JSON: {"schema": {"$ref": "#/components/schemas/WorkerLimitsConfig"}}},
    },
}


class OpenApiDocument:
    """The OpenAPI document of some routes. It is made when it is first asked for: that takes 20 ms of CPU time."""

    def __init__(self, routes: Iterable[web.RouteDef]) -> None:
        self._routes = routes

    @cached_property
    def content(self) -> bytes:
        """The document as JSON."""
        return orjson.dumps(_document(self._routes))


def _document(routes: Iterable[web.RouteDef]) -> dict[str, Any]:
    _, schemas = TypeAdapter.json_schemas(
        [(model, "serialization", TypeAdapter(model)) for model in _MODELS],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        if route.handler in _ANSWERS:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "A batchrun worker", "version": __version__},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {**schemas["$defs"], "Error": _ERROR},
        },
    }


def _operation(route: web.RouteDef) -> dict[str, Any]:
    handler: Any = route.handler
    named = [each for each in ("ref", "run_id") if f"{{{each}}}" in route.path]
    in_path = [{"name": each, "in": "path", "required": True, "schema": {"type": "string"}} for each in named]
    parameters = [*in_path, *_PARAMETERS.get(handler, [])]
    refused = {"description": "Refused, or not possible now.", "content": _content("Error")}
    operation: dict[str, Any] = {
        "operationId": handler.__name__,
        "summary": (handler.__doc__ or "").splitlines()[0],
        "responses": {**_answers(handler), "4XX": refused, "5XX": refused},
    }
    if parameters:
        operation["parameters"] = parameters
    if handler in _BODIES:
        operation["requestBody"] = _BODIES[handler]
    if route.path in OPEN_PATHS:
        operation["security"] = []
    return operation


def _answers(handler: Any) -> dict[str, Any]:
    answer = _ANSWERS[handler]
    if answer is None:
        return {"204": {"description": "Done."}}
    if isinstance(answer, str):
        return {"200": {"description": "The content.", "content": {answer: {}}}}
    if get_origin(answer) is list:
        (each,) = get_args(answer)
        schema = {"type": "array", "items": {"$ref": f"#/components/schemas/{each.__name__}"}}
        return {"200": {"description": "The content.", "content": {_JSON: {"schema": schema}}}}
    status = {"description": "The status after the request.", "content": _content(answer.__name__)}
    return {"200": status, "201": status} if handler is submit_routes.submit else {"200": status}


def _content(schema: str) -> dict[str, Any]:
    return {_JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


async def get_document(request: web.Request) -> web.Response:
    """Return the OpenAPI document."""
    return web.Response(body=request.app[DOCUMENT].content, content_type=_JSON, charset="utf-8")


DOCUMENT = web.AppKey("document", OpenApiDocument)
ROUTES = [web.get("/openapi.json", get_document)]
