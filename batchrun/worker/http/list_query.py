"""The query of the list of batches, in the address of a list and of the events of the page that shows it."""

from aiohttp import web

from batchrun.worker.batch_list import BatchGroup, BatchQuery, BatchSort, ListRow, find_batches
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.request_context import search_of, whole_number
from batchrun.worker.status_views import BatchPage, batch_view
from batchrun.worker.submission import BatchState
from batchrun.worker.worker import Worker

#: Max batches per answer.
MAX_PAGE = 1000
DEFAULT_PAGE = 100


def read_list_query(request: web.Request) -> BatchQuery:
    """Return what a request asks for.

    Raises:
        Refused: a parameter is invalid.
    """
    query = request.query
    try:
        states = frozenset(BatchState(each) for each in query.get("state", "").split(",") if each)
    except ValueError:
        raise Refused(400, "bad-value", f"state: choose from {', '.join(BatchState)}") from None
    sort = query.get("sort", BatchSort.NEWEST)
    if sort.removeprefix("-") not in set(BatchSort):
        raise Refused(400, "bad-value", f"sort: choose from {', '.join(BatchSort)}; a - before it reverses the order")
    if (group := query.get("group", BatchGroup.ALL)) not in set(BatchGroup):
        raise Refused(400, "bad-value", f"group: choose from {', '.join(BatchGroup)}")
    return BatchQuery(
        states=states,
        group=BatchGroup(group),
        search=search_of(request),
        sort=BatchSort(sort.removeprefix("-")),
        is_reversed=sort.startswith("-"),
        offset=whole_number(request, "offset", 0, 1 << 31),
        limit=whole_number(request, "limit", DEFAULT_PAGE, MAX_PAGE),
    )


def batch_page(worker: Worker, rows: list[ListRow], query: BatchQuery) -> BatchPage:
    """Return the page of the list that a query asks for, of `list_rows`."""
    found = find_batches(rows, query)
    items = [batch_view(worker, each) for each in found.page]
    return BatchPage.model_construct(items=items, total=found.total, groups=found.groups)
