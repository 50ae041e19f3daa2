"""Collects the output of an ended Run: the pages of its dataset, and its OUTPUT value."""

from collections.abc import Mapping
from typing import Any

import anyio
import structlog

from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError, BatchRefused, NotFound, TransportError, Unauthorized
from batchrun.ledger.protocol import ItemWriter
from batchrun.model import Attempt, DatasetId, Items, ItemsPage, Job, JobId, Outcome, Problem, Run, StoreId, is_writable
from batchrun.output.item_lines import item_lines, item_tag
from batchrun.policy.expectation import Expectation, Verdict
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.fast_dataclasses import dataclass, replace

#: Key of the stored value that is a Run's output. Source: the platform's documentation of Actor output.
OUTPUT_KEY = "OUTPUT"
#: The error type of output that the platform does not have any more.
OUTPUT_GONE = "output-gone"
#: The error type of output that the platform cannot send, or that cannot be written.
OUTPUT_UNREADABLE = "output-unreadable"
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
    #: Why the OUTPUT value could not be read.
    output_error: str | None = None
    #: Why the items are not complete.
    problem: Problem | None = None
    #: Lines for the item file that are not written yet; they are written together with the record.
    item_lines: bytes = b""


class _UnreadableError(Exception):
    """The platform cannot send one object, or will not; it answers other requests."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Collector:
    """Collects the output of Runs. The pages of many jobs interleave in one item file."""

    def __init__(self, client: RunClient, writer: ItemWriter, plan: OutputPlan) -> None:
        self._client = client
        self._writer = writer
        self._plan = plan

    async def collect(self, job: Job, job_id: JobId, attempt: Attempt, run: Run, outcome: Outcome) -> Collected:
        """Collect from a terminal Run, whatever its status: the data is paid for.

        An object that cannot be read is this job's trouble alone: what could be had is returned, with the reason.

        Raises:
            BatchRefused: the platform does not accept the token any more.
        """
        output, output_error = await self._value(run.store_id)
        if run.dataset_id is None or self._plan.items == "none":
            return Collected(output=output, output_error=output_error)
        if self._plan.items == "inline":
            items, problem = await self._inline(run.dataset_id)
            return Collected(output=output, output_error=output_error, items=items, problem=problem)
        tag = item_tag(job, run, outcome)
        written, lines, problem = await self._to_file(job_id, attempt, run.dataset_id, tag)
        items = Items(count=written.items_count, dataset_id=run.dataset_id, is_complete=problem is None)
        return Collected(output=output, output_error=output_error, items=items, problem=problem, item_lines=lines)

    async def _value(self, store_id: StoreId | None) -> tuple[Any, str | None]:
        """Return the OUTPUT value, and why it could not be read."""
        if not self._plan.is_value_wanted or store_id is None:
            return None, None
        try:
            return await self._client.get_value(store_id, OUTPUT_KEY), None
        except (ApiError, TransportError) as error:
            trouble = _trouble(f"stored value {OUTPUT_KEY} of store {store_id}", error)
            if isinstance(trouble, BatchRefused):
                raise trouble from error
            return None, str(trouble)

    async def _to_file(
        self, job_id: JobId, attempt: Attempt, dataset_id: DatasetId, tag: dict[str, Any]
    ) -> tuple[Attempt, bytes, Problem | None]:
        """Write page after page, each with the offset of the next one.

        Returns:
            The attempt as far as it is written; the last page, for the record's commit; why the items are incomplete.
        """
        lines = b""
        offset = attempt.items_offset
        left_out = 0 if self._plan.is_filtered else offset - attempt.items_count  # on pages that are committed
        while True:
            try:
                items, next_offset, is_last = await self._page(dataset_id, offset)
            except _UnreadableError as error:
                return attempt, lines, error.problem
            if items and lines:
                await self._writer.write_items(job_id, attempt, lines)
                crash_point("page_written")
                lines = b""
            if items:
                lines, count = item_lines(items, tag)
                left_out += len(items) - count
                attempt = replace(attempt, items_offset=next_offset, items_count=attempt.items_count + count)
            if is_last:
                return attempt, lines, _left_out(left_out, dataset_id)
            offset = next_offset

    async def _inline(self, dataset_id: DatasetId) -> tuple[Items, Problem | None]:
        values: list[Any] = []
        problem: Problem | None = None
        offset, is_last = 0, False
        while not is_last and len(values) < self._plan.max_inline_items:
            try:
                items, offset, is_last = await self._page(dataset_id, offset)
            except _UnreadableError as error:
                problem = error.problem
                break
            values += items
        del values[self._plan.max_inline_items :]
        writable = [value for value in values if is_writable(value)]
        problem = problem or _left_out(len(values) - len(writable), dataset_id)
        items_read = Items(count=len(writable), dataset_id=dataset_id, values=writable, is_complete=problem is None)
        return items_read, problem

    async def _page(self, dataset_id: DatasetId, offset: int) -> tuple[list[Any], int, bool]:
        """Return items, the offset after them, and whether they are the last.

        An empty page is the end; the platform's counters lag. But filters run after paging, so a filtered page may be
        empty before the end: there the counter decides, which by then has had time to catch up.
        """
        limit = self._plan.page_size
        page = await self._get_page(dataset_id, offset, limit, self._plan.query)
        if not self._plan.is_filtered:
            return page.items, offset + len(page.items), not page.items
        is_last = not page.items and (page.total is None or offset + limit >= page.total)
        return page.items, offset + limit, is_last

    async def judge(self, run: Run, expectation: Expectation) -> Verdict | None:
        """Return why a succeeded Run does not meet the expectation: too few items, or invalid ones; None if it does.

        Items that were pushed last may become visible late.

        Raises:
            BatchRefused: the platform does not accept the token any more.
        """
        if run.dataset_id is None:
            return expectation.judge_count(0)
        try:
            verdict = expectation.judge_count(await self._count(run.dataset_id, expectation.items_min or 0))
            if verdict is not None or not expectation.sample:
                return verdict
            page = await self._get_page(run.dataset_id, 0, expectation.sample, {})
        except _UnreadableError as error:
            return Verdict(outcome=Outcome.LOST, problem=error.problem)
        return expectation.judge_items(page.items)

    async def _count(self, dataset_id: DatasetId, wanted: int) -> int:
        """Count the stored items, at most `wanted`."""
        if not wanted:
            return 0
        if (await self._get_page(dataset_id, wanted - 1, 1, {})).items:
            return wanted
        return len((await self._get_page(dataset_id, 0, min(wanted, MAX_COUNTED), {})).items)

    async def _get_page(self, dataset_id: DatasetId, offset: int, limit: int, query: Mapping[str, str]) -> ItemsPage:
        """Read a page.

        Raises:
            _UnreadableError: the dataset is missing, or the platform cannot send this page.
            BatchRefused: the platform does not accept the token any more.
        """
        missing_at: float | None = None
        while True:
            try:
                return await self._client.get_items(dataset_id, offset=offset, limit=limit, query=query)
            except (ApiError, TransportError) as error:
                now = anyio.current_time()
                missing_at = now + MISSING_AFTER_S if missing_at is None else missing_at
                if not isinstance(error, NotFound) or now >= missing_at:
                    raise _trouble(f"dataset {dataset_id}", error) from error
                await anyio.sleep(MISSING_RETRY_S)  # a new dataset, on a platform whose replicas lag


def _left_out(count: int, dataset_id: DatasetId) -> Problem | None:
    """Return why items are not complete of which this many are left out; None for 0."""
    if not count:
        return None
    message = f"{count} of the items of dataset {dataset_id} cannot be written: they are nested too deep"
    return Problem(type=OUTPUT_UNREADABLE, message=message)


def _trouble(what: str, error: ApiError | TransportError) -> _UnreadableError | BatchRefused:
    """Return what an error about one object means: that it is unreadable, or that the token is refused for all."""
    if isinstance(error, Unauthorized) and error.status == 401:
        return BatchRefused(f"the {what} cannot be read: {error}")
    return _unreadable(what, error)


def _unreadable(what: str, error: ApiError | TransportError) -> _UnreadableError:
    kind = OUTPUT_GONE if isinstance(error, NotFound) else OUTPUT_UNREADABLE
    problem = Problem(type=kind, message=f"the {what} cannot be read: {error}")
    _log.warning(kind.replace("-", "_"), what=what, reason=str(error))
    return _UnreadableError(problem)
