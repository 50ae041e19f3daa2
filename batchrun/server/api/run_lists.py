"""Lists of Runs, and the last Run of a task or an Actor."""

from dataclasses import replace

from aiohttp import web

from batchrun.model import JsonObject, RunStatus
from batchrun.server.error_answers import thing_missing, value_invalid
from batchrun.server.ids import now_ms
from batchrun.server.routing.call import Call, page_answer
from batchrun.server.store import run_table
from batchrun.server.store.run_table import RunFilter

_SHORT = (
    "id", "actId", "userId", "actorTaskId", "status", "startedAt", "finishedAt", "buildId", "buildNumber",
    "usageTotalUsd", "defaultKeyValueStoreId", "defaultDatasetId", "defaultRequestQueueId",
)  # fmt: skip
_STATUSES = frozenset(status.value for status in RunStatus)


async def runs_answer(call: Call, run_filter: RunFilter) -> web.Response:
    """Answer with a page of the Runs that match, in the short form."""
    offset, limit, is_descending = call.query.page()
    chosen = replace(_lagging(call, run_filter), statuses=statuses_of(call))
    total, docs = await call.backend.database.read(run_table.page, chosen, offset, limit, is_descending)
    return page_answer([_short(doc) for doc in docs], total, offset, limit, is_descending=is_descending)


def _lagging(call: Call, run_filter: RunFilter) -> RunFilter:
    """Leave out young Runs, if the server was told to."""
    if not call.quirks.list_lag_s:
        return run_filter
    shown_ms = now_ms() - round(call.quirks.list_lag_s * 1000)
    before_ms = run_filter.started_before_ms
    return replace(run_filter, started_before_ms=shown_ms if before_ms is None else min(before_ms, shown_ms))


def statuses_of(call: Call) -> tuple[str, ...]:
    """Return the statuses that a list is asked for; none means all."""
    names = tuple(call.query.names("status"))
    if unknown := [name for name in names if name not in _STATUSES]:
        raise value_invalid(f"Parameter status must hold Run statuses separated by commas, not {unknown[0]}")
    return names


async def last_run_id(call: Call, run_filter: RunFilter) -> str:
    """Return the id of the Run started last, of those that `status` and `origin` ask for.

    Raises:
        ErrorAnswer: 404 when there is none.
    """
    chosen = replace(run_filter, statuses=statuses_of(call))
    run_id = await call.backend.database.read(run_table.read_last, chosen, call.query.text("origin"))
    if run_id is None:
        raise thing_missing("Actor run")
    return run_id


def _short(doc: JsonObject) -> JsonObject:
    # As on the platform, a list does not say who has started a Run: only the Run itself does.
    return {name: doc.get(name) for name in _SHORT} | {"meta": {"origin": doc["meta"]["origin"]}}
