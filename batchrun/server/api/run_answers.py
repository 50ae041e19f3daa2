"""Answers with one Run or a list of Runs, as the caller may see them."""

from collections.abc import Mapping
from dataclasses import replace

from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.api.addresses import statuses_of
from batchrun.server.content.query_parameters import Query
from batchrun.server.ids import now_ms
from batchrun.server.routing.call import Call, data_answer, page_answer
from batchrun.server.store import run_table
from batchrun.server.store.run_table import RunFilter

_SHORT = (
    "id", "actId", "userId", "actorTaskId", "status", "startedAt", "finishedAt", "buildId", "buildNumber",
    "usageTotalUsd", "defaultKeyValueStoreId", "defaultDatasetId", "defaultRequestQueueId",
)  # fmt: skip
#: Max seconds of `waitForFinish`. Source: the API reference.
_MAX_WAIT_S = 60
#: Shown to the owner only.
_BILLING = ("usage", "usageUsd", "usageTotalUsd")


def wait_s_of(query: Query) -> float:
    """Return `waitForFinish`, clamped: the official client sends 999999."""
    return min(query.number("waitForFinish") or 0, _MAX_WAIT_S)


def run_answer(
    call: Call, doc: JsonObject, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    if not call.is_by(doc["userId"]):
        doc = {name: value for name, value in doc.items() if name not in _BILLING}
    return data_answer({**doc, "status": call.faults.shown_status or doc["status"]}, status, headers)


async def runs_answer(call: Call, run_filter: RunFilter) -> web.Response:
    offset, limit, is_descending = call.query.page()
    chosen = replace(_lagging(call, run_filter), statuses=statuses_of(call))
    total, docs = await call.backend.database.read(run_table.page, chosen, offset, limit, is_descending)
    return page_answer([_short(call, doc) for doc in docs], total, offset, limit, is_descending=is_descending)


def _lagging(call: Call, run_filter: RunFilter) -> RunFilter:
    if not call.faults.list_lag_s:
        return run_filter
    shown_ms = now_ms() - round(call.faults.list_lag_s * 1000)
    before_ms = run_filter.started_before_ms
    return replace(run_filter, started_before_ms=shown_ms if before_ms is None else min(before_ms, shown_ms))


def _short(call: Call, doc: JsonObject) -> JsonObject:
    # As on the platform, only the Run itself shows its starter's User-Agent, a list does not.
    short = {name: doc.get(name) for name in _SHORT} | {"meta": {"origin": doc["meta"]["origin"]}}
    return {**short, "status": call.faults.shown_status or short["status"]}
