"""HTTP with the Apify API over aiohttp: starts are sent once, reads are retried until they succeed.

It owns connections, the account's and the listings' tokens, and the mapping of aiohttp's errors to ours. It knows
nothing of jobs, slots or the ledger.
"""

import json
import random
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from time import perf_counter
from typing import Any, TypeVar
from urllib.request import getproxies, proxy_bypass

import aiohttp
import anyio
import orjson
import structlog
import yarl
from pydantic import SecretStr

from batchrun.apify import wire
from batchrun.apify.connections import Answer, Connections, open_connections
from batchrun.apify.reason import reason_of
from batchrun.apify.request_meter import NO_ANSWER, RequestMeter
from batchrun.apify.throttle import AnnouncedLimit, Throttle, rate_limit_wait_s
from batchrun.errors import ApiError, ConnectFailed, NotFound, RateLimited, ServerFailed, TransportError
from batchrun.model import DatasetId, ItemsPage, JsonObject, Mark, Run, RunId, RunOptions, RunStatus, StoreId, TaskId
from batchrun.policy.retry import Backoff
from batchrun.policy.token_bucket import TokenBucket
from batchrun.version import __version__

#: Requests per second that the API allows for one task's list of Runs, one Run, one dataset.
LISTING_LIMIT_PER_S = 60
#: Longest wait for a connection to stand.
CONNECT_TIMEOUT_S = 30.0
#: Longest silence on a connection, beyond the time the server was asked to wait.
READ_TIMEOUT_S = 30.0
#: A synchronous run is held open for up to 300 seconds by the API.
SYNC_TIMEOUT_S = 330.0
READ_BACKOFF = Backoff(first_s=0.5, max_s=10.0)
#: A documented limit is a resource's own (one task's starts, one Run, one dataset, the list of Runs), and so is a 429:
#: others need not wait for it. The account's limit looks the same in an answer; what tells it is that so many different
#: resources are refused and nothing passes in between.
ACCOUNT_REFUSALS = 5
#: Failures in a row after which an outage is reported: a single lost answer is not worth a word.
OUTAGE_AFTER = 3
#: Without it the platform does not take a body for a task's input.
_JSON = {"Content-Type": "application/json; charset=utf-8"}

_log = structlog.get_logger()
T = TypeVar("T")


class ApifyClient:
    """One account at one platform; open it with `open_client`."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        request_rate_per_s: float,
        connections: Connections | None = None,
    ) -> None:
        self._session = session
        #: The short way, for what needs nothing that only a session does; None where a proxy is in between.
        self._connections = connections
        self.base_url = base_url.rstrip("/").removesuffix("/v2")
        self._api_url = f"{self.base_url}/v2"
        self._api_path = yarl.URL(self._api_url).raw_path
        self.requests = RequestMeter()
        #: What went wrong with the last request that got no answer; empty while all is well.
        self.last_failure = ""
        #: All requests' bucket. Who starts Runs takes its turn before `start_run`, so that the request leaves at once.
        self.account = Throttle(TokenBucket(rate_per_s=request_rate_per_s, burst=200))
        self._listing = Throttle(TokenBucket.below_limit(LISTING_LIMIT_PER_S))
        self._listing_limit = AnnouncedLimit("list of Runs", self._listing.stay_below)
        #: Starts per second and task, as the answers to starts announce them.
        self.start_limit = AnnouncedLimit("starts")
        #: Resources refused with 429 since the last request that passed, at most ACCOUNT_REFUSALS.
        self._refused_paths: set[str] = set()
        self._failures_in_a_row = 0
        self._outage_since: float | None = None
        self._last_date: str | None = None
        #: The platform's clock, as its last answer showed it; None before the first.
        self.platform_time: datetime | None = None
        self._seen_at = 0.0

    async def start_run(self, task_id: TaskId, body: bytes, options: RunOptions, mark: Mark) -> Run:
        """Start a Run of the task. One POST, at once, whatever happens.

        It waits for no token: a wait between the note of the intent and the request would be one in which a process
        that dies leaves a doubt behind. The caller has taken its turn before (`account`, and the start's own).

        Args:
            task_id: id or user~name of the task.
            body: overrides, as a JSON object.
            options: run options; what is None is the task's.
            mark: goes into the User-Agent, by which the Run can be found again.

        Raises:
            RateLimited, ResourcesBusy, ConnectFailed: nothing was started; it may be asked again.
            ServerFailed, TransportError: unknown whether a Run was started.
            ApiError: nothing was started, and asking again would not help.
        """
        answer = await self._send(
            "POST",
            f"/actor-tasks/{wire.segment(task_id)}/runs",
            query={**wire.options_query(options), "waitForFinish": "0"},
            body=body,
            headers={**_JSON, "User-Agent": wire.user_agent(__version__, mark)},
            limit=self.start_limit,
        )
        return _parsed(_run, answer)

    async def create_task(self, task: JsonObject) -> JsonObject:
        """Create a task from the API's own fields (actId, name, options, input)."""
        answer = await self._send("POST", "/actor-tasks", body=orjson.dumps(task), headers=_JSON)
        return _parsed(_object, answer)

    async def abort_run(self, run_id: RunId, *, gracefully: bool = False) -> Run:
        """Abort a Run; one that has ended stays as it is. Safe to repeat, and repeated."""
        path = f"/actor-runs/{wire.segment(run_id)}/abort"
        query = {"gracefully": "true"} if gracefully else {}
        return await self._read(path, _run, query=query, method="POST")

    async def run_task_sync(self, task_id: TaskId, body: bytes, options: RunOptions) -> tuple[str, bytes]:
        """Start a Run and wait for its OUTPUT value, at most 300 seconds; one POST.

        Returns:
            The value's content type and its bytes; empty bytes when the Run stored none.
        """
        answer = await self._send(
            "POST",
            f"/actor-tasks/{wire.segment(task_id)}/run-sync",
            query=wire.options_query(options),
            body=body,
            headers=_JSON,
            silence_s=SYNC_TIMEOUT_S,
        )
        return answer.headers.get("Content-Type", "application/octet-stream"), answer.body

    async def get_run(self, run_id: RunId, *, wait_for_finish_s: int = 0) -> Run:
        """Read a Run; with `wait_for_finish_s` (at most 60) the server answers when it ends, or then."""
        return await self._read(
            f"/actor-runs/{wire.segment(run_id)}",
            _run,
            query={"waitForFinish": str(wait_for_finish_s)} if wait_for_finish_s else {},
            silence_s=wait_for_finish_s + READ_TIMEOUT_S,
        )

    async def list_runs(self, *, started_after: datetime, offset: int) -> list[Run]:
        """List up to 1,000 of the account's Runs started at or after a time, oldest first."""
        query = {
            "startedAfter": wire.format_time(started_after),
            "offset": str(offset),
            "limit": str(wire.MAX_LIST_LIMIT),
        }
        return await self._read("/actor-runs", _runs, query=query, throttle=self._listing, limit=self._listing_limit)

    async def get_items(self, dataset_id: DatasetId, *, offset: int, limit: int, query: Mapping[str, str]) -> ItemsPage:
        """Read one page of a dataset; `query` holds the API's own view parameters (clean, fields, …)."""
        return await self._read(
            f"/datasets/{wire.segment(dataset_id)}/items",
            _items_page,
            query={**query, "format": "json", "offset": str(offset), "limit": str(limit)},
        )

    async def get_item_count(self, dataset_id: DatasetId) -> int | None:
        """Read how many items a dataset holds, as far as the platform's lagging counter knows."""
        dataset = await self._read(f"/datasets/{wire.segment(dataset_id)}", _object)
        count = dataset.get("itemCount")
        return count if isinstance(count, int) else None

    async def get_value(self, store_id: StoreId, key: str) -> Any:
        """Read a stored value: JSON parsed, text as text; None when there is none or it is neither."""
        path = f"/key-value-stores/{wire.segment(store_id)}/records/{wire.segment(key)}"
        try:
            return await self._read(path, _value)
        except NotFound:
            return None

    async def get_log_tail(self, run_id: RunId, max_bytes: int) -> bytes:
        """Read the last whole lines of a Run's log; it is streamed, and no more than the tail is held."""
        failures = 0
        while True:
            await self.account.turn()
            try:
                return await self._stream_tail(f"/logs/{wire.segment(run_id)}", max_bytes)
            except (RateLimited, ServerFailed, TransportError) as error:
                failures += 1
                _log.debug("log_tail_failed", run_id=run_id, failures=failures, error=str(error))
                await anyio.sleep(READ_BACKOFF.wait_s(failures, random.random()))  # noqa: S311 - spread

    async def _stream_tail(self, path: str, max_bytes: int) -> bytes:
        began_s = perf_counter()
        try:
            async with self._session.get(
                yarl.URL(f"{self.base_url}/v2{path}", encoded=True),
                timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S),
            ) as response:
                tail = await _tail_of(response.content, max_bytes)
                status, headers = response.status, response.headers
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            self.requests.note("GET", path, NO_ANSWER, perf_counter() - began_s)
            raise TransportError(f"GET {path}: no answer: {reason_of(error)}") from error
        self.requests.note("GET", path, status, perf_counter() - began_s)
        if status != 200:
            raise wire.parse_error(status, tail, headers, method="GET", path=path, now=datetime.now(UTC))
        return tail

    async def get_task(self, task_id: TaskId) -> JsonObject:
        """Read a task, in the API's own fields."""
        return await self._read(f"/actor-tasks/{wire.segment(task_id)}", _object)

    async def get_actor(self, actor_id: str) -> JsonObject:
        """Read an Actor, in the API's own fields."""
        return await self._read(f"/actors/{wire.segment(actor_id)}", _object)

    async def get_monthly_usage(self) -> JsonObject:
        """Read what the account has used this month, and at which prices."""
        return await self._read("/users/me/usage/monthly", _object)

    async def list_live_runs(self, task_id: TaskId, *, offset: int) -> list[RunId]:
        """List the ids of up to 1,000 of a task's live Runs, newest first."""
        query = {
            "desc": "1",
            "offset": str(offset),
            "limit": str(wire.MAX_LIST_LIMIT),
            "status": ",".join(status for status in RunStatus if not status.is_terminal),
        }
        return await self._read(
            f"/actor-tasks/{wire.segment(task_id)}/runs",
            _run_ids,
            query=query,
            throttle=self._listing,
            limit=self._listing_limit,
        )

    async def list_task_runs(self, task_id: TaskId, *, limit: int) -> list[Run]:
        """List a task's last Runs (at most 1,000), newest first."""
        query = {"desc": "1", "limit": str(limit)}
        return await self._read(
            f"/actor-tasks/{wire.segment(task_id)}/runs", _runs, query=query, throttle=self._listing
        )

    async def list_builds(self, actor_id: str) -> Mapping[str, str]:
        """List an Actor's last 1,000 builds: ids by build number."""
        query = {"desc": "1", "limit": str(wire.MAX_LIST_LIMIT)}
        return await self._read(
            f"/actors/{wire.segment(actor_id)}/builds", _builds, query=query, throttle=self._listing
        )

    async def get_build(self, build_id: str) -> wire.BuildInfo:
        """Read a build: its number, its input schema, its bounds."""
        return await self._read(f"/actor-builds/{wire.segment(build_id)}", _build)

    async def get_account(self) -> wire.Account:
        """Read whose token this is and what the account may do.

        Raises:
            Unauthorized: the token is missing or wrong.
        """
        user = await self._read("/users/me", _object)
        try:
            limits = await self._read("/users/me/limits", _object)
        except ApiError:
            limits = {}  # a token may be allowed to run tasks and not to read limits
        return wire.parse_account(user, limits)

    async def get_limits(self) -> wire.AccountLimits:
        """Read what may be live in the account at once, and what is.

        Raises:
            ApiError: this token may not read it.
        """
        return wire.parse_limits(await self._read("/users/me/limits", _object))

    async def _read(
        self,
        path: str,
        parse: Callable[[Answer], T],
        *,
        query: Mapping[str, str] | None = None,
        silence_s: float = READ_TIMEOUT_S,
        method: str = "GET",
        throttle: Throttle | None = None,
        limit: AnnouncedLimit | None = None,
    ) -> T:
        """Send a request that is safe to send twice, until a readable answer comes, be it an error.

        Args:
            path: the resource.
            parse: reads the answer.
            query: of the address.
            silence_s: longest silence of the server.
            method: of the request.
            throttle: the bucket of what many requests share beside the account.
            limit: learns what the answers announce.
        """
        failures = refusals = 0
        while True:
            if throttle is not None:
                await throttle.turn()
            await self.account.turn()
            try:
                answer = _parsed(parse, await self._send(method, path, query=query, silence_s=silence_s, limit=limit))
            except RateLimited as error:
                refusals += 1
                if throttle is not None:
                    throttle.refused(error.retry_after_s)  # the next turn waits
                else:
                    # No bucket of ours is full: whoever else uses this one resource, only this request has to wait.
                    await anyio.sleep(rate_limit_wait_s(refusals, error.retry_after_s))
            except (TransportError, ServerFailed) as error:
                failures += 1
                _log.debug("read_failed", method=method, path=path, failures=failures, error=str(error))
                await anyio.sleep(READ_BACKOFF.wait_s(failures, random.random()))  # noqa: S311 - spread
            else:
                if throttle is not None:
                    throttle.passed()
                return answer

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float = READ_TIMEOUT_S,
        limit: AnnouncedLimit | None = None,
    ) -> Answer:
        """Send one request once; anything but a 2xx becomes the error it is."""
        is_held = method == "GET" and query is not None and "waitForFinish" in query
        began_s = perf_counter()
        try:
            answer = await self._exchange(method, path, query or {}, body, headers, silence_s)
        except TransportError as error:
            self.requests.note(method, path, NO_ANSWER, perf_counter() - began_s, is_held=is_held)
            self._note_failure(error)
            raise
        self.requests.note(method, path, answer.status, perf_counter() - began_s, is_held=is_held)
        self._note_success()
        self._note_clock(answer.headers.get("Date"))
        if limit is not None:
            limit.note(answer.headers.get("X-RateLimit-Limit"))
        if 200 <= answer.status < 300:
            self._note_passed()
            return answer
        refusal = wire.parse_error(
            answer.status, answer.body, answer.headers, method=method, path=path, now=datetime.now(UTC)
        )
        if isinstance(refusal, RateLimited):
            self._note_refused(path, refusal)
        raise refusal

    async def _exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str] | None,
        silence_s: float,
    ) -> Answer:
        # Encoded here: what yarl would have to look through is made of a few characters.
        target = f"{path}?{wire.query_text(query)}" if query else path
        timeout = _timeout(silence_s)
        try:
            if self._connections is not None:
                answer = await self._connections.send(
                    method, f"{self._api_path}{target}", timeout=timeout, headers=headers, body=body
                )
                if method != "GET" or not 300 <= answer.status < 400:
                    return answer
            async with self._session.request(
                method,
                yarl.URL(f"{self._api_url}{target}", encoded=True),
                data=body,
                headers=headers,
                timeout=timeout,
                # A redirected POST would be sent a second time.
                allow_redirects=method == "GET",
            ) as response:
                return Answer(response.status, response.headers, await response.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError) as error:
            # Only what the connector raises: any other error may come after the request was sent.
            raise ConnectFailed(f"no connection to {yarl.URL(self._api_url).host}: {reason_of(error)}") from error
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise TransportError(f"{method} {path}: no answer: {reason_of(error)}") from error

    @property
    def platform_now(self) -> datetime | None:
        """The platform's clock by now: its last answer's, and what has passed here since."""
        if self.platform_time is None:
            return None
        return self.platform_time + timedelta(seconds=anyio.current_time() - self._seen_at)

    @property
    def outage(self) -> str:
        """Why the platform has not been reached for a while; empty while it is."""
        return self.last_failure if self._outage_since is not None else ""

    def _note_passed(self) -> None:
        if self._refused_paths:
            self._refused_paths.clear()
            self.account.passed()

    def _note_refused(self, path: str, error: RateLimited) -> None:
        if len(self._refused_paths) < ACCOUNT_REFUSALS:
            self._refused_paths.add(path)
        if len(self._refused_paths) == ACCOUNT_REFUSALS:
            _log.info("account_rate_limited", retry_after_s=error.retry_after_s)
            self.account.refused(error.retry_after_s)

    def _note_clock(self, date: str | None) -> None:
        if date is None or date == self._last_date:
            return  # it changes once a second, and reading it costs more than a request should
        self._last_date = date
        try:
            self.platform_time = parsedate_to_datetime(date).astimezone(UTC)
            self._seen_at = anyio.current_time()
        except (ValueError, TypeError):
            _log.debug("date_unreadable", date=date)

    def _note_failure(self, error: TransportError) -> None:
        self.last_failure = str(error)
        self._failures_in_a_row += 1
        if self._failures_in_a_row == OUTAGE_AFTER:
            self._outage_since = anyio.current_time()
            _log.warning("api_unreachable", base_url=self.base_url, reason=self.last_failure)

    def _note_success(self) -> None:
        self._failures_in_a_row = 0
        self.last_failure = ""
        if self._outage_since is not None:
            _log.warning("api_reachable", after_s=round(anyio.current_time() - self._outage_since, 1))
            self._outage_since = None


def _parsed(parse: Callable[[Answer], T], answer: Answer) -> T:
    try:
        return parse(answer)
    except ValueError as error:  # orjson's errors are ValueErrors too
        raise TransportError(f"an answer could not be read: {error}") from error


def _object(answer: Answer) -> JsonObject:
    data = wire.parse_data(answer.body)
    if not isinstance(data, dict):
        raise ValueError("it holds no object")
    return data


def _run(answer: Answer) -> Run:
    return wire.parse_run(wire.parse_data(answer.body))


def _run_ids(answer: Answer) -> list[RunId]:
    return [wire.parse_run_id(item) for item in _object(answer).get("items", [])]


def _runs(answer: Answer) -> list[Run]:
    return [wire.parse_run(item) for item in _object(answer).get("items", [])]


def _build(answer: Answer) -> wire.BuildInfo:
    return wire.parse_build(_object(answer))


def _builds(answer: Answer) -> dict[str, str]:
    items = [item for item in _object(answer).get("items", []) if isinstance(item, dict)]
    return {item["buildNumber"]: item["id"] for item in items if item.get("buildNumber") and item.get("id")}


def _json(body: bytes) -> Any:
    """Read JSON that an Actor has stored; lone surrogates and NaN, which orjson refuses, are somebody's paid data."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)


def _items_page(answer: Answer) -> ItemsPage:
    items = _json(answer.body)
    if not isinstance(items, list):
        raise ValueError("it is no list of items")
    total = answer.headers.get("X-Apify-Pagination-Total", "")
    return ItemsPage(items=items, total=int(total) if total.isdecimal() else None)


def _value(answer: Answer) -> Any:
    content_type = answer.headers.get("Content-Type", "")
    if "json" in content_type:
        return _json(answer.body)
    return answer.body.decode("utf-8", "replace") if content_type.startswith("text/") else None


@lru_cache
def _timeout(silence_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=silence_s)


async def _tail_of(content: aiohttp.StreamReader, max_bytes: int) -> bytes:
    """Return the end of a stream; what was cut off ends with a line."""
    tail, is_cut = bytearray(), False
    async for piece in content.iter_any():
        tail += piece
        if len(tail) > 2 * max_bytes:
            del tail[:-max_bytes]
            is_cut = True
    if len(tail) > max_bytes:
        del tail[:-max_bytes]
        is_cut = True
    return bytes(tail[tail.find(b"\n") + 1 :] if is_cut else tail)


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket whose kernel gives up on unacknowledged bytes, instead of delivering them minutes later.

    A start request that we have given up on must not reach the platform long after the horizon.
    """
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(READ_TIMEOUT_S * 1000))
    return made


def _proxy_for(base_url: str) -> str | None:
    """Return the proxy that the environment (HTTPS_PROXY, NO_PROXY, …) names for an address."""
    address = yarl.URL(base_url)
    if proxy_bypass(address.host or ""):
        return None
    return getproxies().get(address.scheme)


@asynccontextmanager
async def open_client(
    base_url: str, token: SecretStr | None, *, request_rate_per_s: float
) -> AsyncIterator[ApifyClient]:
    """Open a client; its connections close with the context.

    Args:
        base_url: address of the API, with or without /v2.
        token: goes into the Authorization header and nowhere else.
        request_rate_per_s: most requests per second, of all kinds together.
    """
    headers = {"User-Agent": wire.user_agent(__version__), "Accept": "*/*"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token.get_secret_value()}"
    # Looked up once: aiohttp's own `trust_env` reads files and environment again for every request.
    proxy = _proxy_for(base_url)
    # Slots and `max_open_polls` bound what is open; a second bound here would only hide waits.
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, socket_factory=_socket)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        # Unset: a total limit would end a poll that is just being patient.
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("Content-Type",),
        proxy=proxy,
    ) as session:
        with open_connections(connector, yarl.URL(base_url), headers) as connections:
            yield ApifyClient(
                session,
                base_url,
                request_rate_per_s=request_rate_per_s,
                connections=connections if proxy is None else None,
            )
