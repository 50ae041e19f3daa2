"""The output of a finished Run: pages of its dataset, and its OUTPUT value."""

from collections.abc import Mapping
from typing import Any

import anyio
import structlog

from batchrun.engine.follow.polls import LOST_AFTER_S
from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError, BatchRefused, NotFound
from batchrun.ledger.protocol import ItemWriter
from batchrun.model import Attempt, DatasetId, Items, ItemsPage, Job, JobId, Outcome, Run, StoreId
from batchrun.output.item_lines import item_lines, item_tag
from batchrun.policy.expectation import Expectation, Verdict
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.fast_dataclasses import dataclass, replace

OUTPUT_KEY = "OUTPUT"
#: Of fewer items than expected, so many are counted, for the message.
MAX_COUNTED = 1000

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPlan:
    """What is collected of every Run."""

    #: "file", "inline" or "none".
    items: str
    max_inline_items: int
    page_size: int
    is_value_wanted: bool
    #: The API's own view parameters: clean, fields, omit, unwind, flatten.
    query: Mapping[str, str]

    @property
    def is_filtered(self) -> bool:
        """Whether a page may hold fewer or more items than it covers stored ones."""
        return "clean" in self.query or "unwind" in self.query


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a Run left."""

    items: Items | None = None
    output: Any = None
    #: Lines for the item file that are not written yet: they go with the record.
    item_lines: bytes = b""


class Collector:
    """Collects the output of Runs; the pages of many jobs interleave in one item file."""

    def __init__(self, client: RunClient, writer: ItemWriter, plan: OutputPlan) -> None:
        self._client = client
        self._writer = writer
        self._plan = plan

    async def collect(self, job: Job, job_id: JobId, attempt: Attempt, run: Run, outcome: Outcome) -> Collected:
        """Collect from a terminal Run, whatever its status: it is paid data.

        Raises:
            BatchRefused: the platform will not hand it out.
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

    async def judge(self, run: Run, expectation: Expectation) -> Verdict | None:
        """Say why a Run that succeeded is no success: too few items, or items that are not what they should be.

        Items that were pushed last may be seen a little late.

        Raises:
            BatchRefused: the platform will not hand its items out.
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
        """Count stored items as far as `wanted`."""
        if not wanted:
            return 0
        last = await self._get_page(dataset_id, wanted - 1, 1, {})
        if last is None or last.items:
            return wanted if last is not None else 0
        first = await self._get_page(dataset_id, 0, min(wanted, MAX_COUNTED), {})
        return len(first.items) if first is not None else 0

    async def _value(self, store_id: StoreId | None) -> Any:
        if not self._plan.is_value_wanted or store_id is None:
            return None
        return await self._client.get_value(store_id, OUTPUT_KEY)

    async def _to_file(
        self, job_id: JobId, attempt: Attempt, dataset_id: DatasetId, tag: dict[str, Any]
    ) -> tuple[Attempt, bytes]:
        """Write page after page, each with a note of where the next begins; the last one is left to the record."""
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

        The end is an empty page: the platform's counters lag. Filters run after paging, so a filtered page may be
        empty before the end; there the counter, which by then has had time, decides.
        """
        limit = self._plan.page_size
        page = await self._get_page(dataset_id, offset, limit, self._plan.query)
        if page is None:
            return [], offset, True
        if not self._plan.is_filtered:
            return page.items, offset + len(page.items), not page.items
        is_last = not page.items and (page.total is None or offset + limit >= page.total)
        return page.items, offset + limit, is_last

    async def _get_page(
        self, dataset_id: DatasetId, offset: int, limit: int, query: Mapping[str, str]
    ) -> ItemsPage | None:
        """Read a page; None when the platform has not known the dataset for a while."""
        for _ in range(int(LOST_AFTER_S)):
            try:
                return await self._client.get_items(dataset_id, offset=offset, limit=limit, query=query)
            except NotFound:
                await anyio.sleep(1)  # a fresh dataset, on a platform whose replicas lag
        _log.warning("dataset_missing", dataset_id=dataset_id, offset=offset)
        return None
