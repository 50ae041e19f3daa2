"""A client for a worker's HTTP API: one method per operation."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import aiohttp
import anyio
import orjson
from pydantic import TypeAdapter
from yarl import URL

from batchrun.apify.aiohttp_errors import reason_of
from batchrun.apify.guarded_connector import GuardedConnector
from batchrun.apify.local_names import LocalNames
from batchrun.config.text_bounds import parse_json
from batchrun.errors import BatchrunError, ConfigError, LogUnreachable, OutputError, SeveralLines
from batchrun.maintenance.repair import Repaired
from batchrun.maintenance.resolve import ShownDoubt
from batchrun.maintenance.retry_selection import WantedJobs
from batchrun.model import JsonObject, RunId, write_json
from batchrun.preflight.plan import Plan
from batchrun.report.cost_sums import CostSums
from batchrun.report.shown_failures import ShownFailures
from batchrun.runtime.certificate_authorities import need_authorities
from batchrun.runtime.children import open_children
from batchrun.runtime.loopback import at_page_host
from batchrun.worker.status_views import (
    FLEET_UNREACHABLE,
    LOG_PIECE,
    BatchPage,
    BatchView,
    NotifyTestView,
    NotifyView,
    RetryView,
    WorkerView,
)
from batchrun.worker.worker_address import WorkerAddress, own_path

T = TypeVar("T")

#: Files of a batch that can be streamed.
Stream = Literal["records", "items", "log"]
#: Orders to a batch.
Order = Literal["pause", "resume", "cancel"]

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=60)
#: For answers that are read whole: they are made at once.
_ANSWER_TIMEOUT = aiohttp.ClientTimeout(total=120, sock_connect=10, sock_read=60)
#: Max bytes of an answer, of a refusal, and characters of its message. The largest is a plan with inputs.
MAX_ANSWER_BYTES = 128 << 20
_MAX_REFUSAL_BYTES = 1 << 20
_MAX_MESSAGE_CHARS = 20_000
#: A followed batch may be silent for hours.
_STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)
#: Seconds before each retry of a submission without an answer.
_WAITS_S = (1.0, 2.0, 4.0, 8.0)
#: Seconds without an answer after which that is reported, and between two looks.
SILENT_AFTER_S = 4.0
LOOK_S = 0.5
#: Seconds between two requests while a batch is under way.
INTERVAL_S = 1.0

_COSTS = TypeAdapter(CostSums)
_PLAN = TypeAdapter(Plan)
_DOUBTS = TypeAdapter(list[ShownDoubt])
_REPAIRED = TypeAdapter(Repaired)
_FAILURES = TypeAdapter(ShownFailures)

#: Reports an outage of the worker to a person.
Report = Callable[[str], None]


class WorkerUnreachable(BatchrunError):
    """The worker does not answer; `was_sent` if the request may have reached it."""

    def __init__(self, text: str, *, was_sent: bool) -> None:
        super().__init__(text)
        self.was_sent = was_sent


@asynccontextmanager
async def open_client(address: WorkerAddress, report: Report) -> AsyncIterator["WorkerClient"]:
    """Open a client; `report` is called when the worker has not answered a request for a while.

    Raises:
        ConfigError: another user may answer at the socket.
        OutputError: the path of the socket is too long.
    """
    if address.socket is None:
        await need_authorities()
    with ExitStack() as stack:
        connector: aiohttp.BaseConnector
        if address.socket is not None:
            path = await anyio.to_thread.run_sync(stack.enter_context, own_path(address.socket))
            connector = aiohttp.UnixConnector(path)
        else:
            connector = GuardedConnector(resolver=LocalNames())
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=_TIMEOUT, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            ) as session,
            open_children(cancels_on_leaving=True) as children,
        ):
            client = WorkerClient(session, address)
            children.start_soon(client.report_silence, report)
            yield client


class WorkerClient:
    """Sends requests to a worker; open it with `open_client`. `ref` is a batch's id, or its name if no other has it.

    Every method raises:
        WorkerUnreachable: the worker does not answer.
        ConfigError: the worker refuses the request; the message is the worker's.
        LogUnreachable: the worker cannot do it until it has read its fleet's list.
        OutputError: the worker cannot do it now.
    """

    def __init__(self, session: aiohttp.ClientSession, address: WorkerAddress) -> None:
        self._session = session
        self._address = address
        #: The worker's address and since when it has not answered (monotonic); None: nothing is asked.
        self._asked: tuple[str, float] | None = None

    async def report_silence(self, report: Report) -> None:
        """Report each request that stays without an answer, once, until cancelled."""
        reported: tuple[str, float] | None = None
        while True:
            await anyio.sleep(LOOK_S)
            asked = self._asked
            if asked is not None and asked != reported and anyio.current_time() - asked[1] >= SILENT_AFTER_S:
                reported = asked
                report(f"the worker at {asked[0]} has not answered for {SILENT_AFTER_S:g} s; still waiting")

    async def worker(self) -> WorkerView:
        """Return the status of the worker."""
        return await self._ask("GET", "/v1/worker", read=WorkerView.model_validate_json)

    async def batches(self, *, states: str = "", limit: int = 100) -> BatchPage:
        """Return the newest batches; `states` restricts them to some states, separated by commas."""
        query = {"limit": str(limit), **({"state": states} if states else {})}
        return await self._ask("GET", "/v1/batches", params=query, read=BatchPage.model_validate_json)

    async def batch(self, ref: str) -> BatchView:
        """Return the status of a batch."""
        return await self._ask("GET", _path(ref), read=BatchView.model_validate_json)

    async def submit(self, texts: Mapping[str, str], jobs: Path | None, *, key: str) -> tuple[BatchView, bool]:
        """Submit a batch; retry if the answer is lost, with the same idempotency key.

        The second value is True if it was submitted before, by another call.

        `texts` has `config`, the text of a batch file, or `profile`, the name of one; it may have `name`, `weight`,
        `priority`, `settings` and `schema`, the text of a JSON Schema that items are checked against.
        """
        asked = count()

        async def send() -> tuple[BatchView, bool]:
            is_first = next(asked) == 0
            view, is_new = await self._submit(texts, jobs, key)
            return view, is_first and not is_new

        return await self._patiently(send)

    async def _patiently(self, send: Callable[[], Awaitable[T]]) -> T:
        """Send a request that can be repeated; repeat it if the answer is lost."""
        failures = 0
        while True:
            try:
                return await send()
            except WorkerUnreachable as error:
                failures += 1
                if failures > len(_WAITS_S) or (failures == 1 and not error.was_sent):
                    raise
            await anyio.sleep(_WAITS_S[failures - 1])

    async def plan(self, texts: Mapping[str, str], jobs: Path | None, *, shown: int = 0) -> Plan:
        """Have a batch checked and forecast, without submitting it; it takes as long as its job file is large."""
        query = {"inputs": str(shown)}
        request: dict[str, Any] = {"params": query, "timeout": _STREAM_TIMEOUT}
        async with self._form_answer("/v1/plans", texts, jobs, **request) as answer:
            return await self._read(answer, _PLAN.validate_json)

    async def _submit(self, texts: Mapping[str, str], jobs: Path | None, key: str) -> tuple[BatchView, bool]:
        async with self._form_answer("/v1/batches", texts, jobs, headers={"Idempotency-Key": key}) as answer:
            return await self._read(answer, BatchView.model_validate_json), answer.status == 201

    @asynccontextmanager
    async def _form_answer(
        self, path: str, texts: Mapping[str, str], jobs: Path | None, **request: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send the form of a batch."""
        form = aiohttp.FormData(default_to_multipart=True)
        for name, text in texts.items():
            form.add_field(name, text)
        with ExitStack() as stack:
            if jobs is not None:
                try:
                    opened = stack.enter_context(await anyio.to_thread.run_sync(jobs.open, "rb"))
                except OSError as error:
                    raise ConfigError(f"cannot be read: {error.strerror}", file=jobs) from error
                form.add_field("jobs", opened, filename=jobs.name, content_type="application/octet-stream")
            async with self._answer("POST", path, data=form, **request) as answer:
                yield answer

    async def failures(self, ref: str) -> ShownFailures:
        """Return the jobs of a batch that did not succeed, by cause."""
        return await self._ask("GET", f"{_path(ref)}/failures", read=_FAILURES.validate_json)

    async def cost(self, ref: str, by: str) -> CostSums:
        """Return the costs of a batch, summed by some columns, which commas separate."""
        return await self._ask("GET", f"{_path(ref)}/cost", params={"by": by}, read=_COSTS.validate_json)

    async def read_last_costs(self, ref: str) -> None:
        """Have the worker read the costs of a batch that rests which are not final yet; it takes up to a minute."""
        await self._ask("POST", f"{_path(ref)}/cost", timeout=_STREAM_TIMEOUT, read=bytes)

    async def give_order(self, ref: str, order: Order) -> BatchView:
        """Pause, resume or cancel a batch."""
        return await self._ask("POST", f"{_path(ref)}/{order}", read=BatchView.model_validate_json)

    async def would_retry(self, ref: str, wanted: WantedJobs) -> ShownFailures:
        """Return the jobs of a batch that a retry would reopen, by cause."""
        body = write_json({**asdict(wanted), "dry_run": True})
        return await self._ask("POST", f"{_path(ref)}/retry", data=body, read=_FAILURES.validate_json)

    async def retry(self, ref: str, wanted: WantedJobs) -> RetryView:
        """Retry jobs of a batch; ask again if the answer is lost, with the same idempotency key."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}

        async def send() -> RetryView:
            body = write_json(asdict(wanted))
            path = f"{_path(ref)}/retry"
            return await self._ask("POST", path, data=body, headers=headers, read=RetryView.model_validate_json)

        return await self._patiently(send)

    async def doubts(self, ref: str) -> list[ShownDoubt]:
        """Return the starts in doubt of a batch that rests, with the Runs that they may have started."""
        return await self._ask("GET", f"{_path(ref)}/doubts", read=_DOUBTS.validate_json)

    async def resolve(self, ref: str, key: str, run_id: RunId | None) -> None:
        """Decide which Run a start in doubt has started; None: none."""
        await self._ask("POST", f"{_path(ref)}/resolve", data=orjson.dumps({"key": key, "run_id": run_id}), read=bytes)

    async def repair(self, ref: str) -> Repaired:
        """Write missing or damaged lines of a batch that rests again; it takes as long as there are Runs to read."""
        return await self._ask("POST", f"{_path(ref)}/repair", timeout=_STREAM_TIMEOUT, read=_REPAIRED.validate_json)

    async def change(self, ref: str, changes: JsonObject) -> BatchView:
        """Change a batch's weight, priority or limits; None restores the limit of its batch file."""
        return await self._ask("PATCH", _path(ref), data=orjson.dumps(changes), read=BatchView.model_validate_json)

    async def delete(self, ref: str) -> None:
        """Delete a batch that is not under way, with its results in the worker's own directory."""
        await self._ask("DELETE", _path(ref), read=bytes)

    async def page_link(self, address: str) -> str:
        """Return what opens the page once of the worker at an address.

        By the name that only this page has, if the worker is asked through its socket: over the network, even by a
        loopback address, it may be on another machine, and other programs listen where the name leads on this one.
        """
        given = await self._ask("GET", "/v1/page-key", read=_page_key)
        host = given.get("host")  # of a worker that has been running for long: none
        if self._address.socket is not None and isinstance(host, str):
            address = at_page_host(address, host)
        return f"{address}/#key={given['key']}"

    async def notify(self) -> NotifyView:
        """Return who is notified."""
        return await self._ask("GET", "/v1/notify", read=NotifyView.model_validate_json)

    async def test_notify(self) -> NotifyTestView:
        """Have the worker send a test in each way, once."""
        return await self._ask("POST", "/v1/notify/test", read=NotifyTestView.model_validate_json)

    async def limits(self) -> JsonObject:
        """Return the limits of all batches together."""
        return await self._ask("GET", "/v1/limits", read=_object)

    async def change_limits(self, changes: JsonObject) -> JsonObject:
        """Change some limits until the next start or reload, and return all."""
        return await self._ask("PATCH", "/v1/limits", data=orjson.dumps(changes), read=_object)

    async def report(self, ref: str) -> str:
        """Return the report of a batch, a page in HTML."""
        return await self._ask("GET", f"{_path(ref)}/report", timeout=_STREAM_TIMEOUT, read=bytes.decode)

    async def stream(self, ref: str, stream: Stream) -> AsyncIterator[bytes]:
        """Yield a batch's file as it is now."""
        async with self._answer("GET", f"{_path(ref)}/{stream}", timeout=_STREAM_TIMEOUT) as answer:
            async for piece in answer.content.iter_any():
                yield piece

    async def follow(self, batch_id: str, stream: Stream, report: Report) -> AsyncIterator[bytes]:
        """Yield a batch's file until the batch rests, each byte once, also across restarts of the worker."""
        offset, piece, path = 0, "", f"{_path(batch_id)}/{stream}"
        guard, has_rested = _OutageGuard(report), False
        while True:
            with guard:
                has_more = False
                query = {"offset": str(offset), "follow": "1", "piece": piece}
                async with self._answer("GET", path, params=query, timeout=_STREAM_TIMEOUT) as answer:
                    if (begins_with := answer.headers.get(LOG_PIECE, "")) != piece:  # a log has rotated meanwhile
                        offset, piece = 0, begins_with
                    async for found in answer.content.iter_any():
                        has_more = True
                        offset += len(found)
                        yield found
                # An answer may also end where another piece of a log begins. Only one that is asked for once the batch
                # rests shows that there is no more.
                if has_rested and not has_more:
                    return
                has_rested = not (await self.batch(batch_id)).state.is_under_way
            await anyio.sleep(INTERVAL_S)

    async def wait(self, batch_id: str, show: Callable[[BatchView], None], report: Report) -> BatchView:
        """Return a batch once it rests; call `show` with it until then, also across restarts of the worker.

        A worker that has restarted in a fleet knows no batch of the others until it has read the list.
        """
        guard = _OutageGuard(report)
        while True:
            with guard:
                batch = await self.batch(batch_id)
                if not batch.state.is_under_way:
                    return batch
                show(batch)
            await anyio.sleep(INTERVAL_S)

    async def _ask(self, method: str, path: str, *, read: Callable[[bytes], T], **request: Any) -> T:
        request.setdefault("timeout", _ANSWER_TIMEOUT)
        async with self._answer(method, path, **request) as answer:
            return await self._read(answer, read)

    async def _read(self, answer: aiohttp.ClientResponse, read: Callable[[bytes], T]) -> T:
        """Return what an answer says; whoever has the worker's port may have sent it."""
        body = await _body(answer, MAX_ANSWER_BYTES)
        try:
            return read(body)
        except (ValueError, LookupError, TypeError):
            raise OutputError(f"{self._address.place} answers, but not as a worker would; is it one?") from None

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **request: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        address = self._address
        # A compressed answer could be a thousand times larger than what is sent.
        headers = {"Accept-Encoding": "identity", **(headers or {})}
        if address.token is not None:
            headers["Authorization"] = f"Bearer {address.token}"
        url = URL(address.url + path, encoded=True)
        self._asked = (address.place, anyio.current_time())
        try:
            async with self._session.request(method, url, headers=headers, allow_redirects=False, **request) as answer:
                self._asked = None
                if answer.status >= 300:
                    raise _refusal(answer.status, await _body(answer, _MAX_REFUSAL_BYTES), address)
                yield answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(address, error) from error
        finally:
            self._asked = None


def _unreachable(address: WorkerAddress, error: aiohttp.ClientError | TimeoutError) -> WorkerUnreachable:
    text = f"the worker at {address.place} does not answer ({reason_of(error)})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return WorkerUnreachable(f"{text}; if it has stopped, `batchrun worker start` resumes it", was_sent=False)
    return WorkerUnreachable(text, was_sent=True)


class _OutageGuard:
    """Suppresses the errors that end once the worker, or its fleet's store, is back, and reports each outage once."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._is_waiting = False

    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if not isinstance(error, WorkerUnreachable | LogUnreachable):
            self._is_waiting = False
            return False
        if not self._is_waiting:
            self._is_waiting = True
            waits = "waiting until it is back" if isinstance(error, WorkerUnreachable) else "this command waits"
            self._report(f"{error}; {waits}")
        return True


def _path(ref: str) -> str:
    return f"/v1/batches/{quote(ref, safe='')}"


def _object(body: bytes) -> JsonObject:
    found: JsonObject = parse_json(body)
    return dict(found)


def _page_key(body: bytes) -> JsonObject:
    given = _object(body)
    if not isinstance(given.get("key"), str):
        raise ValueError("it has no key of the page")
    return given


async def _body(answer: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return the body of an answer.

    Raises:
        OutputError: it is longer than any worker's.
    """
    pieces, size = [], 0
    async for piece in answer.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            answer.close()
            raise OutputError(f"{answer.url.origin()} answers without an end, not as a worker would; is it one?")
    return b"".join(pieces)


def _refusal(status: int, body: bytes, address: WorkerAddress) -> BatchrunError:
    """Return an error answer as one of our errors; one without the worker's envelope is an OutputError."""
    try:
        told = orjson.loads(body)["error"]
        type_, message = told.get("type"), str(told["message"])[:_MAX_MESSAGE_CHARS]
    except (ValueError, KeyError, TypeError, AttributeError):
        return OutputError(f"{address.place} answers {status}, not as a worker would; is it one?")
    if status == 401:
        return ConfigError(f"the worker at {address.place} refuses this token: {message}")
    if status < 500:
        return ConfigError(SeveralLines(message.splitlines()))
    return LogUnreachable(message) if type_ == FLEET_UNREACHABLE else OutputError(message)
