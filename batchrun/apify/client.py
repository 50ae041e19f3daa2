"""The Apify API's operations, one method each.

A start is sent once. Anything safe to send twice is retried until it succeeds (`Transport.read`).
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import anyio
from pydantic import SecretStr

from batchrun.apify import answers, wire
from batchrun.apify.held_polls import LATE_S, HeldPolls
from batchrun.apify.throttle import AnnouncedLimit, Throttle
from batchrun.apify.transport import Transport, open_transport
from batchrun.apify.user_agent import user_agent
from batchrun.apify.wire import Denied, segment
from batchrun.errors import ApiError, NotFound, NoUsableAnswer, ServerFailed, TransportError, Unauthorized
from batchrun.model import (
    DatasetId,
    ItemsPage,
    JsonObject,
    Mark,
    Run,
    RunId,
    RunOptions,
    RunsPage,
    RunStatus,
    StoreId,
    TaskId,
    write_json,
)
from batchrun.policy.platform_rates import LISTING_LIMIT_PER_S
from batchrun.policy.token_bucket import TokenBucket
from batchrun.runtime.byte_budget import Fits
from batchrun.runtime.children import open_children, plain_errors
from batchrun.runtime.steady_time import steady_time
from batchrun.version import __version__

#: Longest silence during a synchronous run, in seconds; the API holds the request open for up to 300.
SYNC_TIMEOUT_S = 330.0
#: Max bytes of the answer with one Run; with a thousand Runs or one task, whose input may have 9 MB; with an OUTPUT.
_MAX_RUN_BYTES, _MAX_LARGE_BYTES, _MAX_OUTPUT_BYTES = 1 << 20, 32 << 20, 1 << 29
#: The platform takes a body as a task's input only with this header.
_JSON = {"Content-Type": "application/json; charset=utf-8"}
#: `limit` in the query of a list: its longest page.
_MAX_PAGE = str(wire.MAX_LIST_LIMIT)
T = TypeVar("T")
_LIVE_STATUSES = ",".join(status for status in RunStatus if not status.is_terminal)


class ApifyClient:
    """One account at one platform; open it with `open_client`."""

    def __init__(self, transport: Transport, *, is_embedded: bool = False) -> None:
        self._transport = transport
        #: True if the platform is the embedded server of this process.
        self.is_embedded = is_embedded
        self._send, self._read, self._read_tail = transport.send, transport.read, transport.read_tail
        #: An Actor's status message may quote a URL with the token in it.
        self._run_of = transport.without_token(answers.run_of)
        self._runs_page_of = transport.without_token(answers.runs_page_of)
        self._outage = transport.outage
        #: The clock that stamps Runs.
        self.clock = transport.clock
        self.base_url = transport.base_url
        self.requests = transport.meter
        #: The token bucket of all requests. The caller of `start_run` takes a token first, so that it sends at once.
        self.account = transport.account
        self._held_polls = HeldPolls()
        #: Of the last start: its options, and the query made of them.
        self._last_options: RunOptions | None = None
        self._last_query: Mapping[str, str] = {}
        #: Starts per second and task, as the answers to starts announce them.
        self.start_limit = AnnouncedLimit("starts")
        self._listing = Throttle(TokenBucket.below_limit(LISTING_LIMIT_PER_S))
        self._listing_limit = AnnouncedLimit("list of Runs", self._listing.stay_below)

    @property
    def outage(self) -> str:
        """Why the platform has been out of reach for a while; empty while it answers."""
        return self._outage.reason

    @property
    def has_answered(self) -> bool:
        """Whether the API has answered yet."""
        return self._transport.has_answered

    @property
    def failed_reads(self) -> Sequence[str]:
        """Why reads have failed that are being retried, the last one at the end."""
        return [str(error) for error in self._transport.failed_reads.values()]

    @property
    def last_failure(self) -> str:
        """Why the last try of a request that is retried has failed, or the last request; empty if it has not."""
        failed = self.failed_reads
        return failed[-1] if failed else self._outage.last_failure

    async def within(self, limit_s: float, answer: Awaitable[T]) -> T:
        """Wait for an answer that is retried without limit, at most `limit_s` seconds.

        Raises:
            NoUsableAnswer: none came that can be used.
        """

        async def give_up() -> None:
            await anyio.sleep(limit_s)
            failed = self._transport.failed_reads.values()
            raise NoUsableAnswer(next(reversed(failed), None), limit_s)

        async with plain_errors(), open_children(cancels_on_leaving=True) as children:
            children.start_soon(give_up)
            return await answer

    async def start_run(
        self,
        task_id: TaskId,
        body: bytes,
        options: RunOptions,
        mark: Mark,
        may_send: Callable[[], bool] | None = None,
    ) -> Run:
        """Start a Run of the task. One POST, sent at once.

        It waits for no token. A wait between the note of the intent and the request would leave a doubt behind if the
        process died in it; the caller has taken its tokens before (`account`, and the start's own). The mark goes into
        the User-Agent, by which the Run can be found again. `may_send` is asked once there is a connection: to open one
        takes time, and in it this process may be frozen, and overtaken.

        Raises:
            RateLimited, ResourcesBusy, ConnectFailed, TokenUnconfirmed: nothing was started; it may be retried.
            ServerFailed, TransportError: unknown whether a Run was started.
            ApiError: nothing was started, and a retry would not help.
        """
        sent_with, sent_at = self._transport.token_version, steady_time()
        try:
            run = await self._send(
                "POST",
                f"/actor-tasks/{segment(task_id)}/runs",
                self._run_of,
                query=self._start_query(options),
                body=body,
                headers={**_JSON, "User-Agent": user_agent(__version__, mark)},
                limit=self.start_limit,
                max_bytes=_MAX_RUN_BYTES,
                may_send=may_send,
            )
        except Unauthorized as error:
            await self._transport.second_look.confirm_start(error, sent_with)
            raise
        if run.started_at is not None:
            self.clock.note_start(run.started_at, sent_at)
        self._transport.second_look.note_accepted_start()
        return run

    def _start_query(self, options: RunOptions) -> Mapping[str, str]:
        if options is not self._last_options:  # almost all starts have the batch's own, one object
            self._last_options = options
            self._last_query = {**wire.options_query(options), "waitForFinish": "0"}
        return self._last_query

    async def run_task_sync(self, task_id: TaskId, body: bytes, options: RunOptions) -> tuple[str, bytes]:
        """Start a Run and return its OUTPUT value with its content type, after at most 300 seconds; one POST."""
        return await self._send(
            "POST",
            f"/actor-tasks/{segment(task_id)}/run-sync",
            answers.content_of,
            query=wire.options_query(options),
            body=body,
            headers=_JSON,
            silence_s=SYNC_TIMEOUT_S,
            max_bytes=_MAX_OUTPUT_BYTES,
        )

    async def abort_run(self, run_id: RunId, *, gives_up: bool = False) -> Run:
        """Abort a Run; one that has ended stays as it is. Safe to repeat, and retried.

        Raises:
            ServerFailed, TransportError: with `gives_up`, if that fails for this Run alone.
        """
        path = f"/actor-runs/{segment(run_id)}/abort"
        return await self._read(path, self._run_of, method="POST", gives_up=gives_up, max_bytes=_MAX_RUN_BYTES)

    async def get_run(self, run_id: RunId, *, wait_for_finish_s: int = 0, gives_up: bool = False) -> Run:
        """Read a Run; with `wait_for_finish_s` (at most 60) the server answers when the Run ends or that time is up.

        Raises:
            ServerFailed, TransportError: with `gives_up`, if this Run stays unreadable while others are read.
        """
        path = f"/actor-runs/{segment(run_id)}"
        wait_s = self._held_polls.wait_s(wait_for_finish_s)
        if not wait_s:
            return await self._read(path, self._run_of, gives_up=gives_up, max_bytes=_MAX_RUN_BYTES)
        query, silence_s, began_at = {"waitForFinish": str(wait_s)}, wait_s + LATE_S, perf_counter()
        try:
            run = await self._read(path, self._run_of, query=query, silence_s=silence_s, max_bytes=_MAX_RUN_BYTES)
        except (TransportError, ServerFailed):
            # Not held again before the Run's state is known: its deadlines must be judged, whatever cuts polls.
            self._held_polls.cut(wait_s, perf_counter() - began_at)
            return await self._read(path, self._run_of, gives_up=gives_up, max_bytes=_MAX_RUN_BYTES)
        self._held_polls.lasted(wait_s)
        return run

    async def list_runs(self, *, started_after: datetime, offset: int) -> RunsPage:
        """List up to 1,000 of the account's Runs started at or after a time, oldest first."""
        return await self._read(
            "/actor-runs",
            self._runs_page_of,
            query={"startedAfter": wire.format_time(started_after), "offset": str(offset), "limit": _MAX_PAGE},
            throttle=self._listing,
            limit=self._listing_limit,
            max_bytes=_MAX_LARGE_BYTES,
        )

    async def list_live_runs(self, task_id: TaskId, *, offset: int) -> dict[RunId, float | None]:
        """List up to 1,000 of a task's live Runs, newest first, with their costs so far."""
        return await self._read(
            f"/actor-tasks/{segment(task_id)}/runs",
            answers.costs_by_run_of,
            query={"desc": "1", "offset": str(offset), "limit": _MAX_PAGE, "status": _LIVE_STATUSES},
            throttle=self._listing,
            limit=self._listing_limit,
            max_bytes=_MAX_LARGE_BYTES,
        )

    async def list_queued_runs(self, task_id: TaskId) -> list[RunId]:
        """List the ids of up to 1,000 of a task's Runs that wait in the platform's queue, newest first."""
        listed = await self._read(
            f"/actor-tasks/{segment(task_id)}/runs",
            answers.costs_by_run_of,
            query={"desc": "1", "limit": _MAX_PAGE, "status": RunStatus.READY},
            throttle=self._listing,
            max_bytes=_MAX_LARGE_BYTES,
        )
        return list(listed)

    async def list_task_runs(self, task_id: TaskId, *, limit: int = wire.MAX_LIST_LIMIT, offset: int = 0) -> RunsPage:
        """List a task's last Runs (at most 1,000), newest first."""
        return await self._read(
            f"/actor-tasks/{segment(task_id)}/runs",
            self._runs_page_of,
            query={"desc": "1", "offset": str(offset), "limit": str(limit)},
            throttle=self._listing,
            max_bytes=_MAX_LARGE_BYTES,
        )

    async def get_items(
        self, dataset_id: DatasetId, *, offset: int, limit: int, query: Mapping[str, str], fits: Fits | None = None
    ) -> ItemsPage:
        """Read one page of a dataset; `query` holds the API's own view parameters (clean, fields, …).

        Raises:
            AnswerTooLarge: `fits` said no when it was asked whether the body may grow to a size.
        """
        return await self._read(
            f"/datasets/{segment(dataset_id)}/items",
            partial(answers.items_page_of, fits=fits),
            query={**query, "format": "json", "offset": str(offset), "limit": str(limit)},
            gives_up=True,
            fits=fits,
        )

    async def get_item_count(self, dataset_id: DatasetId) -> int | None:
        """Read how many items a dataset holds by the platform's counter, which lags."""
        dataset = await self._read(f"/datasets/{segment(dataset_id)}", answers.object_of)
        count = dataset.get("itemCount")
        return count if isinstance(count, int) else None

    async def get_value(self, store_id: StoreId, key: str, *, fits: Fits | None = None) -> Any:
        """Read a stored value: JSON parsed, text as text; None if there is none or it is neither.

        Raises:
            AnswerTooLarge: `fits` said no when it was asked whether the body may grow to a size.
        """
        store = f"/key-value-stores/{segment(store_id)}"
        path, value_of = f"{store}/records/{segment(key)}", partial(answers.value_of, fits=fits)
        try:
            value = await self._read(path, value_of, gives_up=True, fits=fits)
            while answers.is_page(value):
                # An Actor's page, or that of a network that wants a login: only the API itself shows that it was there.
                with suppress(ApiError):
                    await self._read(store, answers.object_of)
                before, value = value, await self._read(path, value_of, gives_up=True, fits=fits)
                if value == before:
                    break
        except NotFound:
            return None
        return value

    async def get_log_tail(self, run_id: RunId, max_bytes: int) -> bytes:
        """Read the last whole lines of a Run's log; it is streamed, and only the tail is held."""
        return await self._read_tail(f"/logs/{segment(run_id)}", max_bytes)

    async def create_task(self, task: JsonObject) -> JsonObject:
        """Create a task from the API's own fields (actId, name, options, input). One POST."""
        body = write_json(task)
        return await self._send(
            "POST", "/actor-tasks", answers.task_of, body=body, headers=_JSON, max_bytes=_MAX_LARGE_BYTES
        )

    async def get_task(self, task_id: TaskId) -> JsonObject:
        """Read a task, in the API's own fields."""
        return await self._read(f"/actor-tasks/{segment(task_id)}", answers.task_of, max_bytes=_MAX_LARGE_BYTES)

    async def get_actor(self, actor_id: str) -> JsonObject:
        """Read an Actor, in the API's own fields."""
        return await self._read(f"/actors/{segment(actor_id)}", answers.actor_of, max_bytes=_MAX_LARGE_BYTES)

    async def list_tasks(self) -> Sequence[str]:
        """List the account's last 1,000 tasks as user/name, newest first."""
        query = {"desc": "1", "limit": _MAX_PAGE}
        return await self._read(
            "/actor-tasks", answers.names_of, query=query, throttle=self._listing, max_bytes=_MAX_LARGE_BYTES
        )

    async def list_actors(self) -> Sequence[str]:
        """List the last 1,000 Actors that the account made or used as user/name, newest first."""
        query = {"desc": "1", "limit": _MAX_PAGE}
        return await self._read(
            "/actors", answers.names_of, query=query, throttle=self._listing, max_bytes=_MAX_LARGE_BYTES
        )

    async def list_builds(self, actor_id: str) -> Mapping[str, str]:
        """List an Actor's last 1,000 builds: their ids by build number."""
        return await self._read(
            f"/actors/{segment(actor_id)}/builds",
            answers.build_ids_of,
            query={"desc": "1", "limit": _MAX_PAGE},
            throttle=self._listing,
            max_bytes=_MAX_LARGE_BYTES,
        )

    async def get_build(self, build_id: str) -> wire.BuildInfo:
        """Read a build: its number, its input schema, its bounds."""
        return await self._read(f"/actor-builds/{segment(build_id)}", answers.build_of, max_bytes=_MAX_LARGE_BYTES)

    async def get_account(self) -> wire.AccountInfo:
        """Read whose token this is and what the account may do; a token may be allowed to run tasks and read neither.

        Raises:
            Unauthorized: the token is missing or wrong.
        """
        denied: list[Denied] = []
        try:
            user = await self._read("/users/me", answers.object_of)
        except Unauthorized as error:
            if error.status == 401:
                raise
            user = {}
            denied.append(Denied.ACCOUNT)
        try:
            limits = await self._read("/users/me/limits", answers.object_of)
        except ApiError:
            limits = {}
            denied.append(Denied.LIMITS)
        return wire.parse_account(user, limits, tuple(denied))

    async def get_limits(self) -> wire.AccountLimits:
        """Read what may be live in the account at once, and what is.

        Raises:
            ApiError: this token may not read it.
        """
        return wire.parse_limits(await self._read("/users/me/limits", answers.object_of))

    async def get_monthly_usage(self) -> JsonObject:
        """Read what the account has used this month, and at which prices."""
        return await self._read("/users/me/usage/monthly", answers.object_of)


@asynccontextmanager
async def open_client(
    base_url: str,
    token: SecretStr | None,
    *,
    request_rate_per_s: float,
    read_token_again: Callable[[], SecretStr | None] | None = None,
    allow_plain_http: bool = False,
    is_embedded: bool = False,
) -> AsyncIterator[ApifyClient]:
    """Open a client; its connections close with the context (see `open_transport`)."""
    async with open_transport(
        base_url,
        token,
        request_rate_per_s=request_rate_per_s,
        read_token_again=read_token_again,
        allow_plain_http=allow_plain_http,
    ) as transport:
        yield ApifyClient(transport, is_embedded=is_embedded)
