"""A platform in memory, on virtual time, that does what a test scripts: a second `RunClient`, and an engine over it.

It counts what it did, so that a test can hold the engine to the platform's own truth: starts, live Runs, refusals.
"""

import heapq
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import anyio
import orjson

from batchrun.account.account import Account
from batchrun.apify.api_errors import foreign_answer, parse_error
from batchrun.apify.connections import Answer
from batchrun.apify.platform_clock import PlatformClock
from batchrun.apify.throttle import AnnouncedLimit
from batchrun.apify.wire import AccountInfo, AccountLimits
from batchrun.config import AccountLimitsConfig
from batchrun.engine.build_engine import BatchLimits, build_engine
from batchrun.engine.collect import OutputPlan
from batchrun.engine.doubt.reconcile import EarlierDoubts
from batchrun.engine.limits.batch_priorities import EQUAL, BatchPriority
from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.ports import JobSource
from batchrun.engine.shared_limits import SharedLimits
from batchrun.engine.work import Terms, Work
from batchrun.errors import AnswerTooLarge, ApiError, BatchrunError, ForeignAnswer, TransportError, first_error
from batchrun.ledger.protocol import Ledger
from batchrun.model import (
    Cause,
    CostSource,
    DatasetId,
    ItemsPage,
    JsonObject,
    Mark,
    Outcome,
    Record,
    Run,
    RunId,
    RunOptions,
    RunsPage,
    RunStatus,
    StoreId,
    TaskId,
)
from batchrun.policy.breaker import Breaker, BreakerLimits
from batchrun.policy.budget import Budget
from batchrun.policy.retry import Backoff, Escalation, RetryPolicy, RetryRule
from batchrun.policy.run_cost import Prices
from batchrun.policy.token_bucket import TokenBucket
from batchrun.runtime.byte_budget import Fits
from batchrun.runtime.steady_time import loop_time, steady_time

#: Starts per second that no test reaches.
FAST = 1e9
TASK = TaskId("task")
PAGE = 1000
#: The platform settles the cost of a Run so long after its end.
SETTLED_AFTER_S = 8.0


def api_error(
    status: int, error_type: str = "some-type", *, message: str = "so it is", retry_after_s: float | None = None
) -> ApiError:
    """Return the error that an answer of the API with this status and type becomes."""
    body = orjson.dumps({"error": {"type": error_type, "message": message}})
    headers = {} if retry_after_s is None else {"Retry-After": f"{retry_after_s:.0f}"}
    error = parse_error(Answer(status, headers, body), method="POST", path="/", now=datetime.now(UTC))
    assert isinstance(error, ApiError), "it has the API's envelope"
    return error


def foreign_page(status: int) -> ForeignAnswer:
    """Return the error that an HTML page of something in between becomes."""
    page = Answer(status, {"Content-Type": "text/html"}, b"<html><title>Blocked</title></html>")
    return foreign_answer(page, method="POST", path="/", now=datetime.now(UTC))


def busy() -> ApiError:
    """Return the refusal of a full account."""
    return api_error(402, "concurrent-runs-limit-exceeded")


def lost_answer() -> TransportError:
    """Return what a reset connection becomes."""
    return TransportError("POST: no answer: connection reset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of one start request."""

    run_s: float = 20.0
    status: RunStatus = RunStatus.SUCCEEDED
    cost_usd: float | None = 0.25
    items: Sequence[Any] = ()
    output: Any = None
    exit_code: int | None = None
    status_message: str | None = None
    #: More of its fields, as the API names them.
    fields: JsonObject = field(default_factory=dict)
    #: Its status in the API's words, once it has ended, where that is none of the eight.
    api_status: str | None = None
    #: Whether it shows no beginning while it is live.
    is_queued: bool = False
    #: Between two lines of its log.
    log_every_s: float = float("inf")
    #: What it costs once the platform has settled it, some seconds after its end; None: as at its end.
    final_cost_usd: float | None = None
    #: How fast its cost grows while it is live, where the platform shows that.
    usd_per_s: float = 0.0
    #: Raised in place of an answer.
    error: BaseException | None = None
    #: How many more Runs the request starts, before the one in the answer: something on the way repeats it.
    repeats: int = 0
    #: With `error`: how many Runs are started all the same.
    effects: int = 0
    #: Between the request's arrival and its effect.
    effect_after_s: float = 0.0
    #: Between the effect and the answer.
    answer_after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Post:
    """One start request as it arrived."""

    at: float
    body: bytes
    options: RunOptions
    mark: Mark


@dataclass(slots=True)
class _Stored:
    id: RunId
    plan: Plan
    user_agent: str | None
    task_id: str
    began_at: float
    ends_at: float
    options: RunOptions
    #: How far the clock that stamps it is ahead.
    ahead_s: float
    is_aborted: bool = False
    ended: anyio.Event = field(default_factory=anyio.Event)


class ScriptedApi:
    """A platform that follows a script.

    Args:
        plan: what becomes of each start request, by its number from 1; or one plan for all.
        capacity: how many Runs may be live; may be changed while it runs. The engine learns it by refusals and limits.
        echoes: whether a Run shows the User-Agent that started it.
        list_lag_s: how long a new Run is missing from lists.
        fresh_404_s: how long a new Run cannot be read.
        early_answer_s: a poll is answered after so long although the Run goes on.
        ids: how its Runs' ids begin; two APIs that stand for one account have different ones.
    """

    def __init__(
        self,
        plan: Plan | Callable[[int], Plan] | None = None,
        *,
        capacity: int | None = None,
        echoes: bool = True,
        list_lag_s: float = 0.0,
        fresh_404_s: float = 0.0,
        early_answer_s: float = 60.0,
        ids: str = "run",
    ) -> None:
        self._ids = ids
        self._plan = plan if plan is not None else Plan()
        #: What a client has beside its verbs: no limit of requests, and no announced limit of starts.
        self.account = None
        #: Whether its server is in the client's process.
        self.is_embedded = False
        #: Why a client cannot reach it, and reads that it retries.
        self.outage = ""
        self.failed_reads: Sequence[str] = ()
        self.start_limit = AnnouncedLimit("starts")
        self.info = AccountInfo(
            username="user", plan=None, limits=AccountLimits(), max_monthly_usage_usd=None, monthly_usage_usd=None
        )
        #: Runs that the account may have live at once; None is no limit.
        self.capacity = capacity
        #: Runs of other users that are live.
        self.others = 0
        #: Whether the token may read the account's limits.
        self.tells_limits = True
        #: How late the account's counters show what became of Runs.
        self.counter_lag_s = 0.0
        #: When the account's limits were asked for.
        self.limit_reads: list[float] = []
        self.echoes = echoes
        self.list_lag_s = list_lag_s
        self.fresh_404_s = fresh_404_s
        self.early_answer_s = early_answer_s
        #: How far the clock that stamps new Runs is ahead of this machine's; may be changed while it runs.
        self.runs_ahead_s = 0.0
        #: How far the clock in the answers' `Date` is ahead of this machine's; None: answers have no `Date`.
        self.date_ahead_s: float | None = 0.0
        #: What a client learns from these answers.
        self.clock = PlatformClock()
        self.posts: list[Post] = []
        #: When starts were refused because the account was full.
        self.refused_at: list[float] = []
        #: When Runs began.
        self.begun_at: list[float] = []
        self.peak = 0
        self.reads: list[RunId] = []
        self.listings: list[float] = []
        self.live_listings: list[float] = []
        self.task_listings: list[float] = []
        self.aborted: list[RunId] = []
        #: Offset and limit of each page that was asked for.
        self.pages: list[int] = []
        #: Values that no JSON holds, on the first page of a dataset.
        self.replaced = 0
        self.limits: list[int] = []
        #: Of each item and of each OUTPUT value, as far as the reader's memory is concerned.
        self.item_bytes = self.value_bytes = 0
        #: Raised in place of the next answers to reads, by method name.
        self.errors: dict[str, list[BatchrunError]] = {}
        self._runs: dict[RunId, _Stored] = {}
        self._ends: list[float] = []
        #: This machine's clock when the virtual time was 0.
        self.zero = datetime.now(UTC)

    @property
    def run_ids(self) -> list[RunId]:
        """Every Run that was ever started, oldest first."""
        return list(self._runs)

    @property
    def ends_at(self) -> list[float]:
        """When each Run ends, or has ended."""
        return [stored.ends_at for stored in self._runs.values()]

    @property
    def live(self) -> int:
        """Runs that are live now."""
        now = loop_time()
        while self._ends and self._ends[0] <= now:
            heapq.heappop(self._ends)
        return len(self._ends)

    async def get_limits(self) -> AccountLimits:
        """Return the account's limit and its live Runs, as late as `counter_lag_s`; or refuse."""
        self.limit_reads.append(loop_time())
        await anyio.lowlevel.checkpoint()
        self._fail_if_told("get_limits")
        if self.capacity is None or not self.tells_limits:
            raise api_error(403, "insufficient-permissions")
        at = loop_time() - self.counter_lag_s
        live = sum(1 for stored in self._runs.values() if stored.began_at <= at < stored.ends_at)
        return AccountLimits(max_concurrent_runs=self.capacity, live_runs=live + self.others)

    def add_run(
        self,
        plan: Plan | None = None,
        *,
        user_agent: str | None = "",
        task_id: str = TASK,
        began_at: float | None = None,
    ) -> RunId:
        """Start a Run that no request of the engine's asked for."""
        at = loop_time() if began_at is None else began_at
        return self._create(plan or Plan(), user_agent, at, task_id, RunOptions()).id

    def forget(self, run_id: RunId) -> None:
        """Lose a Run, as if it had never been."""
        del self._runs[run_id]

    def run(self, run_id: RunId, *, is_short: bool = False) -> Run:
        """Describe a Run as it is now; `is_short` as a list does, without meta."""
        stored = self._runs[run_id]
        has_ended = loop_time() >= stored.ends_at
        is_queued = stored.plan.is_queued and not has_ended
        status = RunStatus.READY if is_queued else RunStatus.RUNNING
        if has_ended:
            status = RunStatus.ABORTED if stored.is_aborted else stored.plan.status
        fields: JsonObject = {"id": run_id, "status": status, "actorTaskId": stored.task_id, **stored.plan.fields}
        if has_ended and stored.plan.api_status is not None:
            fields["status"] = stored.plan.api_status
        fields |= {"exitCode": stored.plan.exit_code} if stored.plan.exit_code is not None else {}
        fields |= {"statusMessage": stored.plan.status_message} if stored.plan.status_message is not None else {}
        cost_usd = self._cost_usd(stored)
        return Run(
            id=run_id,
            status=status,
            dataset_id=DatasetId(f"dataset-{run_id}"),
            store_id=StoreId(f"store-{run_id}"),
            started_at=None if is_queued else self._began(stored),
            finished_at=self._wall(stored.ends_at + stored.ahead_s) if has_ended else None,
            cost_usd=cost_usd,
            memory_mb=None if is_short else stored.options.memory_mb,
            timeout_s=None if is_short else stored.options.timeout_s,
            cost_source=CostSource.UNKNOWN if cost_usd is None else CostSource.PLATFORM,
            user_agent=stored.user_agent if self.echoes and not is_short else None,
            fields=fields,
        )

    @staticmethod
    def _cost_usd(stored: _Stored) -> float | None:
        """Return what a Run is said to have cost by now."""
        plan, now = stored.plan, loop_time()
        if now < stored.ends_at:
            return plan.usd_per_s * (now - stored.began_at) if plan.usd_per_s else None
        is_settled = plan.final_cost_usd is not None and now >= stored.ends_at + SETTLED_AFTER_S
        return plan.final_cost_usd if is_settled else plan.cost_usd

    async def start_run(
        self,
        task_id: TaskId,
        body: bytes,
        options: RunOptions,
        mark: Mark,
        may_send: Callable[[], bool] | None = None,
    ) -> Run:
        """Take one start request and do with it what its plan says."""
        assert may_send is None or may_send()
        sent_at = steady_time()
        self.posts.append(Post(loop_time(), body, options, mark))
        plan = self._plan(len(self.posts)) if callable(self._plan) else self._plan
        if plan.error is None and self.capacity is not None and self.live + self.others >= self.capacity:
            self.refused_at.append(loop_time())
            await anyio.sleep(plan.answer_after_s)
            raise busy()
        began_at = loop_time() + plan.effect_after_s
        effects = plan.effects if plan.error is not None else 1 + plan.repeats
        runs = [self._create(plan, f"batchrun/0 ({mark})", began_at, task_id, options) for _ in range(effects)]
        await anyio.sleep(plan.answer_after_s)
        if plan.error is not None:
            raise plan.error
        run = self.run(runs[-1].id)
        self._note_date()
        if run.started_at is not None:
            self.clock.note_start(run.started_at, sent_at)
        return run

    async def get_run(
        self,
        run_id: RunId,
        *,
        wait_for_finish_s: int = 0,
        gives_up: bool = False,  # noqa: ARG002 - it is never unreadable
    ) -> Run:
        """Read a Run when it ends, or after the wait."""
        self.reads.append(run_id)
        await anyio.lowlevel.checkpoint()
        self._fail_if_told("get_run")
        stored = self._runs.get(run_id)
        if stored is None or loop_time() < stored.began_at + self.fresh_404_s:
            raise api_error(404, "record-not-found")
        wait_s = min(wait_for_finish_s, self.early_answer_s, max(0.0, stored.ends_at - loop_time()))
        with anyio.move_on_after(wait_s):
            await stored.ended.wait()
        return self.run(run_id)

    async def list_runs(self, *, started_after: datetime, offset: int) -> RunsPage:
        """List Runs, oldest first, without meta, as late as `list_lag_s`."""
        self.listings.append(loop_time())
        await anyio.lowlevel.checkpoint()
        self._fail_if_told("list_runs")
        after_s = (started_after - self.zero) / timedelta(seconds=1)  # in microseconds, as what stamps a Run is
        listed = [each for each in self._listed() if round(each.began_at + each.ahead_s, 6) >= after_s]
        return self._page(listed, offset)

    async def list_task_runs(self, task_id: TaskId, *, offset: int) -> RunsPage:
        """List a task's Runs, newest first, without meta, as late as `list_lag_s`."""
        self.task_listings.append(loop_time())
        await anyio.lowlevel.checkpoint()
        self._fail_if_told("list_task_runs")
        return self._page([each for each in reversed(self._listed()) if each.task_id == task_id], offset)

    def _listed(self) -> list[_Stored]:
        visible_at = loop_time() - self.list_lag_s
        return [each for each in self._runs.values() if each.began_at <= visible_at]

    def _page(self, listed: list[_Stored], offset: int) -> RunsPage:
        page = {each.id: self.run(each.id, is_short=True) for each in listed[offset : offset + PAGE]}
        return RunsPage(runs=page, count=len(page), total=len(listed))

    async def list_live_runs(self, task_id: TaskId, *, offset: int) -> dict[RunId, float | None]:
        """List live Runs of the task, newest first, as late as `list_lag_s`, with their costs so far."""
        now = loop_time()
        self.live_listings.append(now)
        await anyio.sleep(0.05)
        self._fail_if_told("list_live_runs")
        now = loop_time()
        live = [
            run_id
            for run_id, stored in reversed(self._runs.items())
            if stored.task_id == task_id and stored.began_at + self.list_lag_s <= now < stored.ends_at
        ]
        return {run_id: self._cost_usd(self._runs[run_id]) for run_id in live[offset : offset + PAGE]}

    async def list_queued_runs(self, task_id: TaskId) -> list[RunId]:
        """List the ids of the task's Runs that show no beginning yet."""
        return [each for each in await self.list_live_runs(task_id, offset=0) if self._runs[each].plan.is_queued]

    async def abort_run(self, run_id: RunId, *, gives_up: bool = False) -> Run:  # noqa: ARG002 - it is never unreadable
        """Abort a Run at once."""
        await anyio.lowlevel.checkpoint()
        self._fail_if_told("abort_run")
        stored = self._runs[run_id]
        self.aborted.append(run_id)
        if loop_time() < stored.ends_at:
            self._ends.remove(stored.ends_at)
            heapq.heapify(self._ends)
            stored.is_aborted, stored.ends_at = True, loop_time()
            stored.ended.set()
        return self.run(run_id)

    async def get_items(
        self, dataset_id: DatasetId, *, offset: int, limit: int, query: Mapping[str, str], fits: Fits | None = None
    ) -> ItemsPage:
        """Read one page; `clean` drops empty items after paging, as the API does."""
        self.pages.append(offset)
        self.limits.append(limit)
        await anyio.lowlevel.checkpoint()
        self._fail_if_told("get_items")
        items = self._runs[RunId(dataset_id.removeprefix("dataset-"))].plan.items
        page = list(items[offset : offset + limit])
        if "clean" in query:
            page = [item for item in page if item]
        self._fill(len(page) * self.item_bytes, fits)
        return ItemsPage(items=page, total=len(items), replaced=0 if offset else self.replaced)

    async def get_item_count(self, dataset_id: DatasetId) -> int | None:
        """Count the items that a Run has by now: all of them from its beginning."""
        await anyio.lowlevel.checkpoint()
        return len(self._runs[RunId(dataset_id.removeprefix("dataset-"))].plan.items)

    async def get_log_tail(self, run_id: RunId, max_bytes: int) -> bytes:  # noqa: ARG002 - it is short
        """Read the end of a Run's log: a line every `log_every_s`."""
        await anyio.lowlevel.checkpoint()
        stored = self._runs[run_id]
        lived_s = min(loop_time(), stored.ends_at) - stored.began_at
        return b"line %d\n" % (lived_s // stored.plan.log_every_s)

    async def get_value(
        self,
        store_id: StoreId,
        key: str,  # noqa: ARG002 - there is but one
        *,
        fits: Fits | None = None,
    ) -> Any:
        """Read the OUTPUT value."""
        await anyio.lowlevel.checkpoint()
        self._fail_if_told("get_value")
        self._fill(self.value_bytes, fits)
        return self._runs[RunId(store_id.removeprefix("store-"))].plan.output

    @staticmethod
    def _fill(size: int, fits: Fits | None) -> None:
        """Let a body of some size grow in the reader's memory."""
        if fits is not None and not fits(size):
            raise AnswerTooLarge(size)

    def _create(
        self, plan: Plan, user_agent: str | None, began_at: float, task_id: str, options: RunOptions
    ) -> _Stored:
        run_id = RunId(f"{self._ids}-{len(self.begun_at) + len(self.refused_at) + 1}")
        ends_at = began_at + plan.run_s
        stored = _Stored(run_id, plan, user_agent, task_id, began_at, ends_at, options, self.runs_ahead_s)
        self._runs[run_id] = stored
        self.begun_at.append(began_at)
        heapq.heappush(self._ends, stored.ends_at)
        self.peak = max(self.peak, self.live)
        return stored

    def _began(self, stored: _Stored) -> datetime:
        return self._wall(stored.began_at + stored.ahead_s)

    def _wall(self, at: float) -> datetime:
        return self.zero + timedelta(seconds=at)

    def _note_date(self) -> None:
        if self.date_ahead_s is not None:
            at = self._wall(loop_time() + self.date_ahead_s)
            self.clock.note_date(_http_date(at.replace(microsecond=0)))

    def _fail_if_told(self, method: str) -> None:
        self._note_date()
        if self.errors.get(method):
            raise self.errors[method].pop(0)


@lru_cache
def _http_date(second: datetime) -> str:
    return format_datetime(second, usegmt=True)


def in_order(*plans: Plan, then: Plan | None = None) -> Callable[[int], Plan]:
    """Give the first start request the first plan, and so on; `then` to all further ones."""
    rest = then if then is not None else Plan()
    return lambda n: plans[n - 1] if n <= len(plans) else rest


class Engine:
    """The engine over a scripted platform, built as a batch builds it.

    Args:
        api: the platform.
        ledger: of the batch.
        source: of its jobs.
        slots: the batch's own limit of live Runs.
        shared: what it shares with other batches; None: it is alone in its account, which is watched for it.
        on_record: called with each record; None: they are kept in `records`.
    """

    def __init__(
        self,
        api: ScriptedApi,
        ledger: Ledger,
        source: JobSource,
        *,
        slots: int | Literal["auto"] = 10,
        leave_free: int = 0,
        start_rate: float = 1000.0,
        burst: int = 1,
        retry: RetryPolicy | None = None,
        options: RunOptions | None = None,
        output: OutputPlan | None = None,
        start_horizon_s: float = 60.0,
        listing_lag_s: float = 5.0,
        doubts: EarlierDoubts | None = None,
        max_open_polls: int = 1000,
        reservations: CostReservations | None = None,
        limits: BreakerLimits | None = None,
        weights: Mapping[str | None, float] | None = None,
        group_limits: Mapping[str, int] | None = None,
        memory_mb: int | None = None,
        terms: Mapping[str, Any] = types.MappingProxyType({}),
        shared: SharedLimits | None = None,
        priority: BatchPriority = EQUAL,
        on_record: Callable[[Record], Awaitable[None]] | None = None,
    ) -> None:
        self.api = api
        self.records: list[Record] = []
        self._on_record = on_record or self._keep
        self._watch = None
        if shared is None:
            config = AccountLimitsConfig(
                max_concurrent_runs=slots, leave_free_runs=leave_free, max_open_polls=max_open_polls
            )
            account = Account(api, api.info, config, Budget(None), Path("/"), FAST)  # type: ignore[arg-type]  # a second client
            shared, self._watch = account.shared, account.watch
        self.shared = shared
        parts = build_engine(
            client=api,
            ledger=ledger,
            source=source,
            shared=shared,
            limits=BatchLimits(
                max_live_runs=None if slots == "auto" else slots,
                memory_mb=memory_mb,
                group_limits=group_limits or {},
                group_weights=weights or {},
                start_horizon_s=start_horizon_s,
                listing_lag_s=listing_lag_s,
            ),
            bucket=TokenBucket(rate_per_s=start_rate, burst=burst),
            terms=Terms(options=options or RunOptions(), retry=retry or retries(), **terms),
            output=output or output_plan(),
            reservations=reservations or without_budget(),
            breaker=Breaker(limits or BreakerLimits()),
            task_id=TASK,
            batch=object(),
            priority=priority,
            doubts=doubts or EarlierDoubts(),
        )
        self.parts = parts
        self.permits, self.gate, self.meter, self.reservations = (
            parts.permits,
            parts.gate,
            parts.meter,
            parts.reservations,
        )
        self.scheduler, self.costs, self.progress = parts.scheduler, parts.costs, parts.progress
        self.reconciler = parts.reconciler

    async def _keep(self, record: Record) -> None:
        self.records.append(record)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch the account's limits while the context lasts, where nothing else does."""
        async with anyio.create_task_group() as children:
            if self._watch is not None:
                with suppress(ApiError):
                    self._watch.note(await self.api.get_limits(), runs=0, memory_mb=0)
                children.start_soon(self._watch.run)
            yield
            children.cancel_scope.cancel()

    @asynccontextmanager
    async def reconciling(self) -> AsyncIterator[None]:
        """Resolve attempts in doubt while the context lasts."""
        async with anyio.create_task_group() as children:
            children.start_soon(self.reconciler.run)
            yield
            children.cancel_scope.cancel()

    async def run(
        self, resumed: Iterable[Work] = (), *, at_the_end: Callable[[], Awaitable[None]] | None = None
    ) -> list[Record]:
        """Carry everything out; return the records as they were settled."""
        try:
            async with self.watching():
                await self.parts.run(resumed, self._on_record, at_the_end)
        except* BatchrunError as group:
            raise first_error(group) from None
        return self.records

    def leave(self) -> None:
        """Leave the account to its other batches."""
        self.parts.leave()


def without_budget() -> CostReservations:
    """Return cost reservations that limit nothing."""
    return CostReservations(Budget(None), Prices(), task_options=RunOptions(), is_strict=False)


def retries(
    max_attempts: int = 1,
    *,
    on: Iterable[Outcome] = (Outcome.FAILED,),
    first_s: float = 1.0,
    escalation: Escalation | None = None,
) -> RetryPolicy:
    """Return a retry policy."""
    rule = RetryRule(max_attempts=max_attempts, backoff=Backoff(first_s=first_s, max_s=1e9))
    return RetryPolicy(rules={Cause(outcome): rule for outcome in on}, escalation=escalation or Escalation())


def output_plan(items: str = "none", *, is_value_wanted: bool = False, **changes: Any) -> OutputPlan:
    """Return what is collected: by default, nothing."""
    defaults: dict[str, Any] = {"max_inline_items": 1000, "page_size": 1000, "query": {}}
    return OutputPlan(items=items, is_value_wanted=is_value_wanted, **{**defaults, **changes})
