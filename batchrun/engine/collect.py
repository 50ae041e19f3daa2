"""Collects the output of an ended Run: the pages of its dataset, and its OUTPUT value."""

from collections.abc import Mapping
from typing import Any

import anyio
import structlog

from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError, BatchRefused, NotFound
from batchrun.ledger.protocol import ItemWriter
from batchrun.model import Attempt, DatasetId, Items, ItemsPage, Job, JobId, Outcome, Run, StoreId
from batchrun.output.item_lines import item_lines, item_tag
from batchrun.policy.expectation import Expectation, Verdict
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.fast_dataclasses import dataclass, replace

#: Key of the stored value that is a Run's output. Source: the platform's documentation of Actor output.
OUTPUT_KEY = "OUTPUT"
#: Max items that are counted, for the message, in a dataset with fewer than expected: one page.
MAX_COUNTED = 1000
#: A dataset whose Run has ended counts as missing after the platform has not known it for this long, in seconds.
MISSING_AFTER_S = 10.0
#: Seconds between two requests for a dataset that the platform does not know.
MISSING_RETRY_S = 1.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPlan:
    """What is collected of every Run."""

    #: Where items go: "file", "inline" or "none".
    items: str
    #: Max items of one job that go inline.
    max_inline_items: int
    #: Items per request.
    page_size: int
    #: Whether the OUTPUT value goes into the record.
    is_value_wanted: bool
    #: The API's own view parameters: clean, fields, omit, unwind, flatten.
    query: Mapping[str, str]

    @property
    def is_filtered(self) -> bool:
        """Whether the number of items on a page may differ from the number of stored items that it covers."""
        return "clean" in self.query or "unwind" in self.query


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was collected from a Run."""

    items: Items | None = None
    output: Any = None
    #: Lines for the item file that are not written yet; they are written together with the record.
    item_lines: bytes = b""


class Collector:
    """Collects the output of Runs. The pages of many jobs interleave in one item file."""

    def __init__(self, client: RunClient, writer: ItemWriter, plan: OutputPlan) -> None:
        self._client = client
        self._writer = writer
        self._plan = plan

    async def collect(self, job: Job, job_id: JobId, attempt: Attempt, run: Run, outcome: Outcome) -> Collected:
        """Collect from a terminal Run, whatever its status: the data is paid for.

        Raises:
            BatchRefused: the platform refuses to send the output.
        """
        try:
            output = await self._value(run.store_id)
            if run.dataset_id is None or self._plan.items == "none":
                return Collected(output=output)
            if self._plan.items == "inline":
                return Collected(output=output, items=await self._inline(run.dataset_id))
            tag = item_tag(job, run, outcome)
            written, lines = await self._to_file(job_id, attempt, run.dataset_id, tag)
        except ApiError as error:
            raise BatchRefused(f"the output of Run {run.id} cannot be read: {error}") from error
        items = Items(count=written.items_count, dataset_id=run.dataset_id)
        return Collected(output=output, items=items, item_lines=lines)

    async def _value(self, store_id: StoreId | None) -> Any:
        if not self._plan.is_value_wanted or store_id is None:
            return None
        return await self._client.get_value(store_id, OUTPUT_KEY)

    async def _to_file(
        self, job_id: JobId, attempt: Attempt, dataset_id: DatasetId, tag: dict[str, Any]
    ) -> tuple[Attempt, bytes]:
        """Write page after page, each with the offset of the next one; return the last page for the record's commit."""
        lines = b""
        offset = attempt.items_offset
        while True:
            items, next_offset, is_last = await self._page(dataset_id, offset)
            if items and lines:
                await self._writer.write_items(job_id, attempt, lines)
                crash_point("page_written")
                lines = b""
            if items:
                lines = item_lines(items, tag)
                attempt = replace(attempt, items_offset=next_offset, items_count=attempt.items_count + len(items))
            if is_last:
                return attempt, lines
            offset = next_offset

    async def _inline(self, dataset_id: DatasetId) -> Items:
        values: list[Any] = []
        offset, is_last = 0, False
        while not is_last and len(values) < self._plan.max_inline_items:
            items, offset, is_last = await self._page(dataset_id, offset)
            values += items
        del values[self._plan.max_inline_items :]
        return Items(count=len(values), dataset_id=dataset_id, values=values)

    async def _page(self, dataset_id: DatasetId, offset: int) -> tuple[list[Any], int, bool]:
        """Return items, the offset after them, and whether they are the last.

        An empty page is the end; the platform's counters lag. But filters run after paging, so a filtered page may be
        empty before the end: there the counter decides, which by then has had time to catch up.
        """
        limit = self._plan.page_size
        page = await self._get_page(dataset_id, offset, limit, self._plan.query)
        if page is None:
            return [], offset, True
        if not self._plan.is_filtered:
            return page.items, offset + len(page.items), not page.items
        is_last = not page.items and (page.total is None or offset + limit >= page.total)
        return page.items, offset + limit, is_last

    async def judge(self, run: Run, expectation: Expectation) -> Verdict | None:
        """Return why a succeeded Run does not meet the expectation: too few items, or invalid ones; None if it does.

        Items that were pushed last may become visible late.

        Raises:
            BatchRefused: the platform refuses to send the items.
        """
        if run.dataset_id is None:
            return expectation.judge_count(0)
        try:
            verdict = expectation.judge_count(await self._count(run.dataset_id, expectation.items_min or 0))
            if verdict is not None or not expectation.sample:
                return verdict
            page = await self._get_page(run.dataset_id, 0, expectation.sample, {})
        except ApiError as error:
            raise BatchRefused(f"the items of Run {run.id} cannot be read: {error}") from error
        return expectation.judge_items(page.items if page is not None else [])

    async def _count(self, dataset_id: DatasetId, wanted: int) -> int:
        """Count the stored items, at most `wanted`."""
        if not wanted:
            return 0
        last = await self._get_page(dataset_id, wanted - 1, 1, {})
        if last is None or last.items:
            return wanted if last is not None else 0
        first = await self._get_page(dataset_id, 0, min(wanted, MAX_COUNTED), {})
        return len(first.items) if first is not None else 0

    async def _get_page(
        self, dataset_id: DatasetId, offset: int, limit: int, query: Mapping[str, str]
    ) -> ItemsPage | None:
        """Read a page; None if the dataset is missing."""
        missing_at = anyio.current_time() + MISSING_AFTER_S
        while anyio.current_time() < missing_at:
            try:
                return await self._client.get_items(dataset_id, offset=offset, limit=limit, query=query)
            except NotFound:
                await anyio.sleep(MISSING_RETRY_S)  # a new dataset, on a platform whose replicas lag
        _log.warning("dataset_missing", dataset_id=dataset_id, offset=offset)
        return None
