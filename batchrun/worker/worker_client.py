"""Talking to a worker from outside: one method per thing that its HTTP API offers."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import aiohttp
import anyio
import orjson
from yarl import URL

from batchrun.apify.aiohttp_errors import reason_of
from batchrun.errors import BatchrunError, ConfigError, OutputError
from batchrun.model import JsonObject
from batchrun.worker.submission_store import Layout
from batchrun.worker.token_file import Token, read_token_file
from batchrun.worker.views import BatchPage, BatchView, WorkerView

#: What a batch leaves as lines.
Stream = Literal["records", "items", "log"]
#: What a batch can be told.
Order = Literal["pause", "resume", "cancel"]

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=300)
#: A batch that is followed may be silent for hours.
_STREAM_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10)
#: Between two tries to hand a batch in whose answer was lost.
_WAITS_S = (1.0, 2.0, 4.0, 8.0)
#: Between two looks while a batch is under way.
INTERVAL_S = 1.0

#: Is told that the worker cannot be reached, and of what is done about that.
Tell = Callable[[str], None]


class WorkerUnreachable(BatchrunError):
    """The worker does not answer.

    Args:
        text: where, and why.
        has_asked: whether the request may have come through.
    """

    def __init__(self, text: str, *, has_asked: bool) -> None:
        super().__init__(text)
        self.has_asked = has_asked


@dataclass(frozen=True, slots=True)
class Door:
    """Where a worker is asked, and by what it knows its people."""

    url: str
    token: Token = field(repr=False)


def find_worker(data_dir: Path, url: str | None, environ: Mapping[str, str]) -> Door:
    """Return the door of the worker on a data directory, or at an address with the token of the environment.

    Raises:
        ConfigError: a token or an address is missing, or is none.
        OutputError: the directory's files cannot be read.
    """
    if url is not None:
        token = environ.get("BATCHRUN_WORKER_TOKEN", "").strip()
        if not token:
            raise ConfigError("--url: put the worker's token into BATCHRUN_WORKER_TOKEN; it is in its DATA/token")
        return Door(_checked(url), Token(token))
    layout = Layout(data_dir)
    try:
        address = layout.address.read_text("utf-8", "replace").strip()
    except FileNotFoundError:
        start = f"batchrun worker start --data {data_dir}"
        raise ConfigError(f"{data_dir}: no worker was ever started here; take another --data, or {start}") from None
    except OSError as error:
        raise OutputError(f"{layout.address}: {error.strerror}") from error
    return Door(_checked(address), read_token_file(layout.token))


def _checked(url: str) -> str:
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{url[:200]!r} is no address of a worker; write it as http://127.0.0.1:8421")
    return url.rstrip("/")


@asynccontextmanager
async def open_client(door: Callable[[], Door]) -> AsyncIterator["WorkerClient"]:
    """Open a client; the door is looked for with each request, since a worker may come back at another address."""
    async with aiohttp.ClientSession(timeout=_TIMEOUT, cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield WorkerClient(session, door)


class WorkerClient:
    """Asks a worker; open it with `open_client`. A batch is named by its id, or by a name that only one has.

    Every method raises:
        WorkerUnreachable: the worker does not answer.
        ConfigError: it refuses what is asked; the text is its own.
        OutputError: it cannot do that now.
    """

    def __init__(self, session: aiohttp.ClientSession, door: Callable[[], Door]) -> None:
        self._session = session
        self._door = door

    async def worker(self) -> WorkerView:
        """Return how the worker stands."""
        return WorkerView.model_validate_json(await self._ask("GET", "/v1/worker"))

    async def batches(self, *, states: str = "", limit: int = 100) -> BatchPage:
        """Return the newest batches in these states, with commas; by default in any."""
        query = {"limit": str(limit), **({"state": states} if states else {})}
        return BatchPage.model_validate_json(await self._ask("GET", "/v1/batches", params=query))

    async def batch(self, ref: str) -> BatchView:
        """Return how a batch stands."""
        return BatchView.model_validate_json(await self._ask("GET", _path(ref)))

    async def submit(self, texts: Mapping[str, str], jobs: Path | None, *, key: str) -> BatchView:
        """Hand a batch in.

        Args:
            texts: `config`, the text of a batch file, or `profile`, the name of one; `name`, `weight`, `priority`,
                `settings`.
            jobs: its job file.
            key: what makes a repetition the same batch: one whose answer is lost is handed in again.
        """
        failures = 0
        while True:
            try:
                return await self._submit(texts, jobs, key)
            except WorkerUnreachable as error:
                failures += 1
                if failures > len(_WAITS_S) or (failures == 1 and not error.has_asked):
                    raise
            await anyio.sleep(_WAITS_S[failures - 1])

    async def _submit(self, texts: Mapping[str, str], jobs: Path | None, key: str) -> BatchView:
        form = aiohttp.FormData(default_to_multipart=True)
        for name, text in texts.items():
            form.add_field(name, text)
        headers = {"Idempotency-Key": key}
        if jobs is None:
            return BatchView.model_validate_json(await self._ask("POST", "/v1/batches", data=form, headers=headers))
        try:
            opened = await anyio.to_thread.run_sync(jobs.open, "rb")
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", file=jobs) from error
        with opened:
            form.add_field("jobs", opened, filename=jobs.name, content_type="application/octet-stream")
            return BatchView.model_validate_json(await self._ask("POST", "/v1/batches", data=form, headers=headers))

    async def give_order(self, ref: str, order: Order) -> BatchView:
        """Pause, resume or cancel a batch."""
        return BatchView.model_validate_json(await self._ask("POST", f"{_path(ref)}/{order}"))

    async def change(self, ref: str, changes: JsonObject) -> BatchView:
        """Change a batch's weight, priority or limits; None takes a limit back to what its file says."""
        return BatchView.model_validate_json(await self._ask("PATCH", _path(ref), data=orjson.dumps(changes)))

    async def delete(self, ref: str) -> None:
        """Have a batch forgotten that is not under way, with its results in the worker's own directory."""
        await self._ask("DELETE", _path(ref))

    async def limits(self) -> JsonObject:
        """Return the limits of all batches together."""
        return _object(await self._ask("GET", "/v1/limits"))

    async def change_limits(self, changes: JsonObject) -> JsonObject:
        """Change some limits until the next start or reload, and return all."""
        return _object(await self._ask("PATCH", "/v1/limits", data=orjson.dumps(changes)))

    async def stream(self, ref: str, what: Stream, *, offset: int = 0, follows: bool = False) -> AsyncIterator[bytes]:
        """Yield what a batch has left from a byte on; and what comes, until it rests or the worker stops."""
        query = {"offset": str(offset), "follow": str(int(follows))}
        async with self._answer("GET", f"{_path(ref)}/{what}", params=query, timeout=_STREAM_TIMEOUT) as answer:
            async for piece in answer.content.iter_any():
                yield piece

    async def follow(self, batch_id: str, what: Stream, tell: Tell) -> AsyncIterator[bytes]:
        """Yield what a batch leaves until it rests, once each, restarts of the worker included."""
        offset = 0
        patience = _Patience(tell)
        while True:
            with patience:
                async for piece in self.stream(batch_id, what, offset=offset, follows=True):
                    offset += len(piece)
                    yield piece
                if not (await self.batch(batch_id)).state.is_under_way:
                    return
            await anyio.sleep(INTERVAL_S)

    async def wait(self, batch_id: str, show: Callable[[BatchView], None], tell: Tell) -> BatchView:
        """Return a batch once it rests; `show` is called with it until then, restarts of the worker included."""
        patience = _Patience(tell)
        while True:
            with patience:
                batch = await self.batch(batch_id)
                if not batch.state.is_under_way:
                    return batch
                show(batch)
            await anyio.sleep(INTERVAL_S)

    async def _ask(self, method: str, path: str, **request: Any) -> bytes:
        async with self._answer(method, path, **request) as answer:
            return await answer.read()

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **request: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        door = await anyio.to_thread.run_sync(self._door)
        headers = {"Authorization": f"Bearer {door.token}", **(headers or {})}
        url = URL(door.url + path, encoded=True)
        try:
            async with self._session.request(method, url, headers=headers, **request) as answer:
                if answer.status >= 400:
                    raise _refusal(answer.status, await answer.read(), door)
                yield answer
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(door, error) from error


def _unreachable(door: Door, error: aiohttp.ClientError | TimeoutError) -> WorkerUnreachable:
    told = f"the worker at {door.url} does not answer ({reason_of(error)})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return WorkerUnreachable(f"{told}; if it has ended, `batchrun worker start` goes on", has_asked=False)
    return WorkerUnreachable(told, has_asked=True)


class _Patience:
    """Takes that a worker cannot be reached, and tells of it once for each time."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._is_waiting = False

    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if not isinstance(error, WorkerUnreachable):
            self._is_waiting = False
            return False
        if not self._is_waiting:
            self._is_waiting = True
            self._tell(f"{error}; waiting until it is back")
        return True


def _path(ref: str) -> str:
    return f"/v1/batches/{quote(ref, safe='')}"


def _object(body: bytes) -> JsonObject:
    found: JsonObject = orjson.loads(body)
    return found


def _refusal(status: int, body: bytes, door: Door) -> BatchrunError:
    """Return an answer that is an error as one of ours; one that is not the worker's own is told as it is."""
    try:
        message = str(orjson.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return OutputError(f"{door.url} answers {status}, and not as a worker does; is it one?")
    if status == 401:
        return ConfigError(f"the worker at {door.url} does not know this token: {message}")
    return ConfigError(message) if status < 500 else OutputError(message)
