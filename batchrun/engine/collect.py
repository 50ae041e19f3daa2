"""Collects the output of an ended Run: the pages of its dataset, and its OUTPUT value."""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import structlog

from batchrun.engine.ports import RunClient
from batchrun.errors import AnswerTooLarge, ApiError, BatchRefused, NotFound, TransportError, Unauthorized
from batchrun.ledger.protocol import ItemWriter
from batchrun.model import Attempt, DatasetId, Items, ItemsPage, Job, JobId, Outcome, Problem, Run, StoreId, is_writable
from batchrun.output.item_lines import item_lines, item_tag
from batchrun.policy.expectation import Expectation, Verdict
from batchrun.runtime.byte_budget import ByteBudget, Fits, Room
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.fast_dataclasses import dataclass, replace
from batchrun.runtime.free_space import DiskRoom

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
#: Max bytes of a page that holds more than one item: large enough that few requests are needed.
MAX_PAGE_BYTES = 8 << 20
#: Max bytes of a page with one item, and of an OUTPUT: the API takes items of 9 MB. What is larger has most likely no
#: end.
MAX_ALONE_BYTES = 512 << 20
#: Bytes in memory per byte of a page's body, which is held in pieces and whole, then parsed, then as lines in two
#: buffers. Measured, with what the allocator loses.
WRITTEN_WEIGHT = 4
#: Bytes in memory per byte of a body whose values stay parsed until the record is written.
PARSED_WEIGHT = 10

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


class _Page(NamedTuple):
    items: list[Any]
    #: Offset of the next page.
    next_offset: int
    is_last: bool
    #: Size of the body.
    size_bytes: int
    #: Most likely size of the next page's body; 0 if there is most likely none.
    expected_bytes: int
    #: Number of values that were replaced, and a hash of the items: see `Items`.
    replaced: int
    content: int


class _Lines(NamedTuple):
    text: bytes
    lines_count: int
    #: Items that are nested too deep for a line.
    left_out: int
    #: Offset of the item after them.
    next_offset: int


class Collector:
    """Collects the output of Runs. The pages of many jobs interleave in one item file.

    Args:
        client: the platform.
        writer: of the item file.
        plan: what is collected.
        buffers: bounds what is in memory.
        disk_room: of the disk that is written to; None: it has room.
    """

    def __init__(
        self,
        client: RunClient,
        writer: ItemWriter,
        plan: OutputPlan,
        buffers: ByteBudget,
        disk_room: DiskRoom | None = None,
    ) -> None:
        self._client = client
        self._writer = writer
        self._plan = plan
        self._buffers = buffers
        self._disk_room = disk_room or DiskRoom()
        #: Max bytes of a page that holds more than one item.
        self._max_page_bytes = min(MAX_PAGE_BYTES, buffers.total // 32)
        #: Recent maximum sizes of an item, a page and an OUTPUT value, in bytes.
        self._item_bytes = self._page_bytes = self._value_bytes = 0

    def room(self) -> Room:
        """Return a room for what is collected from one Run; its context ends once all of that is durable."""
        return self._buffers.room()

    async def collect(
        self, job: Job, job_id: JobId, attempt: Attempt, run: Run, outcome: Outcome, room: Room
    ) -> Collected:
        """Collect from a terminal Run, whatever its status: the data is paid for.

        An object that cannot be read is this job's trouble alone: all that could be read is returned, with the reason.

        Raises:
            BatchRefused: the platform does not accept the token any more.
        """
        await self._disk_room.wait()
        if run.dataset_id is not None and self._plan.items == "inline":
            items, problem = await self._inline(run.dataset_id, room)
            collected = Collected(items=items, problem=problem)
        elif run.dataset_id is not None and self._plan.items == "file":
            tag = item_tag(job, run, outcome)
            items, lines, problem = await self._to_file(job_id, attempt, run.dataset_id, tag, room)
            collected = Collected(items=items, problem=problem, item_lines=lines)
        else:
            collected = Collected()
        if not self._plan.is_value_wanted or run.store_id is None:
            return collected
        # Last: the value stays in memory until the record is written.
        output, output_error = await self._value(run.store_id, room)
        return replace(collected, output=output, output_error=output_error)

    async def _value(self, store_id: StoreId, room: Room) -> tuple[Any, str | None]:
        """Return the OUTPUT value, and why it could not be read."""
        try:
            value, size = await room.fill(
                lambda fits: self._client.get_value(store_id, OUTPUT_KEY, fits=fits),
                expected_bytes=self._value_bytes,
                weight=PARSED_WEIGHT,
                max_bytes=MAX_ALONE_BYTES,
            )
        except AnswerTooLarge as error:
            return None, str(self._too_large(f"stored value {OUTPUT_KEY} of store {store_id}", error, PARSED_WEIGHT))
        except (ApiError, TransportError) as error:
            trouble = _trouble(f"stored value {OUTPUT_KEY} of store {store_id}", error)
            if isinstance(trouble, BatchRefused):
                raise trouble from error
            return None, str(trouble)
        self._value_bytes = _recent_max(size, self._value_bytes)
        return value, None

    async def _to_file(
        self, job_id: JobId, attempt: Attempt, dataset_id: DatasetId, tag: dict[str, Any], room: Room
    ) -> tuple[Items, bytes, Problem | None]:
        """Write page after page, each with the offset of the next one.

        Returns:
            The items as far as they are written; the last page, for the record's commit; why they are incomplete.
        """
        lines, replaced, content = b"", 0, 0
        problem: Problem | None
        left_out = 0 if self._plan.is_filtered else attempt.items_offset - attempt.items_count  # by a killed process
        offset, expected_bytes = attempt.items_offset, self._page_bytes
        noted_offset, noted_count = attempt.items_offset, attempt.items_count
        while True:
            try:
                page = await self._page(dataset_id, offset, room, expected_bytes)
            except _UnreadableError as error:
                problem = error.problem
                break
            replaced += page.replaced
            content = content or page.content
            parts = self._lines_of(page, tag)
            page.items.clear()  # before anything is awaited: what is parsed is several times as large as its lines
            while parts:
                if lines:
                    noted = replace(attempt, items_offset=noted_offset, items_count=noted_count)
                    await self._writer.write_items(job_id, noted, lines)
                    crash_point("page_written")
                lines, count, unwritable, noted_offset = parts.pop(0)
                left_out += unwritable
                noted_count += count
            room.shrink(WRITTEN_WEIGHT * len(lines))
            if page.is_last:
                problem = _left_out(left_out, dataset_id)
                break
            offset, expected_bytes = page.next_offset, page.expected_bytes
            await self._disk_room.wait()
        items = Items(
            count=noted_count,
            dataset_id=dataset_id,
            is_complete=problem is None,
            replaced=replaced,
            content=content,
        )
        return items, lines, problem

    def _lines_of(self, page: _Page, tag: dict[str, Any]) -> list[_Lines]:
        """Return the lines of a page in parts of a bounded size, usually one.

        A page is larger than that if the platform ignores its limit. A filtered page is always one part: its items
        have no offsets.
        """
        items, at_once = page.items, len(page.items) or 1
        if page.size_bytes > MAX_PAGE_BYTES and not self._plan.is_filtered:
            at_once = max(1, at_once * MAX_PAGE_BYTES // page.size_bytes)
        made = []
        for at in range(0, len(items), at_once):
            part = items[at : at + at_once]
            text, count = item_lines(part, tag)
            next_offset = page.next_offset - len(items) + at + len(part)
            made.append(_Lines(text, count, len(part) - count, next_offset))
        return made

    async def _inline(self, dataset_id: DatasetId, room: Room) -> tuple[Items, Problem | None]:
        values: list[Any] = []
        problem: Problem | None = None
        replaced, content = 0, 0
        offset, is_last, most = 0, False, self._plan.max_inline_items
        while not is_last and len(values) <= most:  # one more than wanted shows that there are more
            try:
                page = await self._page(
                    dataset_id, offset, room, self._page_bytes, most + 1 - len(values), PARSED_WEIGHT
                )
            except _UnreadableError as error:
                problem = error.problem
                break
            values += page.items
            replaced += page.replaced
            content = content or page.content
            offset, is_last = page.next_offset, page.is_last
        is_cut = len(values) > most
        del values[most:]
        writable = [value for value in values if is_writable(value)]
        problem = problem or _left_out(len(values) - len(writable), dataset_id)
        items_read = Items(
            count=len(writable),
            dataset_id=dataset_id,
            values=writable,
            is_complete=problem is None,
            is_cut=is_cut,
            replaced=replaced,
            content=content,
        )
        return items_read, problem

    async def _page(
        self,
        dataset_id: DatasetId,
        offset: int,
        room: Room,
        expected_bytes: int,
        max_items: int = sys.maxsize,
        weight: int = WRITTEN_WEIGHT,
    ) -> _Page:
        """Read a page, and note whether it is the last.

        An empty page is the end; the platform's counters lag. But filters run after paging, so a filtered page may be
        empty before the end: there the counter decides, which by then has had time to catch up.
        """
        limit = min(self._plan.page_size, max_items)
        page, limit, size = await self._get_page(
            dataset_id, offset, limit, self._plan.query, room, expected_bytes, weight
        )
        count = len(page.items)
        if count:
            self._item_bytes = _recent_max(size // min(count, limit), self._item_bytes)
            self._page_bytes = _recent_max(size, self._page_bytes)
        expected_bytes = size if count >= limit else 0
        next_offset, is_last = offset + count, not count
        if self._plan.is_filtered:
            next_offset = offset + limit
            is_last = not count and (page.total is None or next_offset >= page.total)
        return _Page(page.items, next_offset, is_last, size, expected_bytes, page.replaced, page.content)

    async def judge(self, run: Run, expectation: Expectation) -> Verdict | None:
        """Return why a succeeded Run does not meet the expectation: too few items, or invalid ones; None if it does.

        Items that were pushed last may become visible late.

        Raises:
            BatchRefused: the platform does not accept the token any more.
        """
        if run.dataset_id is None:
            return expectation.judge_count(0)
        try:
            with self.room() as room:
                verdict = expectation.judge_count(await self._count(run.dataset_id, expectation.items_min or 0, room))
                if verdict is not None or not expectation.sample:
                    return verdict
                page, _, _ = await self._get_page(run.dataset_id, 0, expectation.sample, {}, room)
                errors = []
                for item in page.items:
                    errors.append(expectation.error_of(item))
                    await anyio.lowlevel.checkpoint()  # each check may take long; others must not wait for all of them
                return expectation.judge_errors(errors)
        except _UnreadableError as error:
            return Verdict(outcome=Outcome.LOST, problem=error.problem)

    async def _count(self, dataset_id: DatasetId, wanted: int, room: Room) -> int:
        """Count the stored items, at most `wanted`."""
        if not wanted:
            return 0
        last, _, _ = await self._get_page(dataset_id, wanted - 1, 1, {}, room)
        if last.items:
            return wanted
        page, _, _ = await self._get_page(dataset_id, 0, min(wanted, MAX_COUNTED), {}, room)
        return len(page.items)

    async def _get_page(
        self,
        dataset_id: DatasetId,
        offset: int,
        limit: int,
        query: Mapping[str, str],
        room: Room,
        expected_bytes: int = 0,
        weight: int = WRITTEN_WEIGHT,
    ) -> tuple[ItemsPage, int, int]:
        """Read a page into a room; return it with the limit that it was read with and the size of its body.

        The limit is lower than the given one if the items are large.

        Raises:
            _UnreadableError: the dataset is missing, or the platform cannot send this page.
            BatchRefused: the platform does not accept the token any more.
        """
        limit = min(limit, self._max_page_bytes // (self._item_bytes or 1)) or 1
        while True:
            try:
                page, size = await room.fill(
                    partial(self._get_items, dataset_id, offset, limit, query),
                    expected_bytes=min(expected_bytes, self._max_page_bytes),
                    weight=weight,
                    max_bytes=self._max_page_bytes if limit > 1 else MAX_ALONE_BYTES,
                )
            except AnswerTooLarge as error:
                if limit == 1:
                    raise self._too_large(f"item {offset} of dataset {dataset_id}", error, weight) from error
                limit = max(1, min(limit // 2, limit * self._max_page_bytes // (error.size + 1)))
            else:
                return page, limit, size

    async def _get_items(
        self, dataset_id: DatasetId, offset: int, limit: int, query: Mapping[str, str], fits: Fits
    ) -> ItemsPage:
        missing_at: float | None = None
        while True:
            try:
                return await self._client.get_items(dataset_id, offset=offset, limit=limit, query=query, fits=fits)
            except (ApiError, TransportError) as error:
                now = anyio.current_time()
                missing_at = now + MISSING_AFTER_S if missing_at is None else missing_at
                if not isinstance(error, NotFound) or now >= missing_at:
                    raise _trouble(f"dataset {dataset_id}", error) from error
                await anyio.sleep(MISSING_RETRY_S)  # a new dataset, on a platform whose replicas lag

    def _too_large(self, what: str, error: AnswerTooLarge, weight: int) -> _UnreadableError:
        """Return the trouble of one object that is too large, even if it is read alone.

        Raises:
            MemoryError: it would fit into the budget, which is larger than the memory that is left.
        """
        if error.size <= MAX_ALONE_BYTES and weight * error.size <= self._buffers.total:
            raise MemoryError from error
        return _unreadable(what, error)


def _recent_max(size: int, before: int) -> int:
    """Return the recent maximum after a new size: an old maximum fades by an eighth with each new size."""
    return max(size, before - before // 8)


def _left_out(count: int, dataset_id: DatasetId) -> Problem | None:
    """Return the problem of a dataset of whose items this many are left out; None for 0."""
    if not count:
        return None
    message = f"{count} of the items of dataset {dataset_id} cannot be written: they are nested too deep"
    return Problem(type=OUTPUT_UNREADABLE, message=message)


def _trouble(what: str, error: ApiError | TransportError) -> _UnreadableError | BatchRefused:
    """Return what an error about one object means: that it is unreadable, or that the token is refused for all."""
    if isinstance(error, Unauthorized) and error.status == 401:
        return BatchRefused(f"the {what} cannot be read: {error}", error)
    return _unreadable(what, error)


def _unreadable(what: str, error: ApiError | TransportError | AnswerTooLarge) -> _UnreadableError:
    kind = OUTPUT_GONE if isinstance(error, NotFound) else OUTPUT_UNREADABLE
    problem = Problem(type=kind, message=f"the {what} cannot be read: {error}")
    _log.warning(kind.replace("-", "_"), what=what, reason=str(error))
    return _UnreadableError(problem)
