"""A shared log in a stream of NATS JetStream: a message an entry, appended at an expected sequence number."""

import asyncio
import base64
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from time import monotonic
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import anyio
import orjson
from anyio.from_thread import BlockingPortal, start_blocking_portal
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NoAnswer
from nats.js.api import ObjectStoreConfig, StorageType, StreamConfig
from nats.js.errors import APIError
from nats.js.object_store import (
    OBJ_CHUNKS_PRE_TEMPLATE,
    OBJ_DIGEST_TEMPLATE,
    OBJ_META_PRE_TEMPLATE,
    OBJ_STREAM_TEMPLATE,
)

from batchrun.errors import BatchrunError, ConfigError, LogUnreachable
from batchrun.ledger.shared_log.object_names import MAX_READ_ENTRY_BYTES, MAX_READ_OBJECT_BYTES
from batchrun.ledger.shared_log.read_ahead import read_up_to_the_end
from batchrun.runtime.loopback import is_loopback_host
from batchrun.runtime.name_lookups import NameLookups

T = TypeVar("T")

#: Seconds for one request.
_REQUEST_S = 5.0
#: Seconds for an object, which is read chunk by chunk.
_OBJECT_S = 60.0
#: Seconds for the first connection, over all servers.
_CONNECT_S = 10.0
#: Seconds for the end of a connection.
_CLOSE_S = 2.0
#: Seconds for one request that creates something, and for all of them.
_CREATE_S = 2.0
_CREATED_IN_S = 15.0
#: Seconds between two looks whether a new stream has a leader.
_LEADER_LOOK_S = 0.1
#: The server's error codes for a message that is not at the expected sequence number, and for none at a number.
_WRONG_SEQUENCE = 10071
_NO_MESSAGE = 10037
#: The usual port of a server's monitoring, and the seconds that it may take to answer.
_MONITOR_PORT = 8222
_MONITOR_S = 1.0
#: Max bytes of its answer; usual are some KB.
_MONITOR_BYTES = 1 << 20


class _CarefulClient(Client):
    """A client that logs in to the servers it is given only, and to another machine with a credential by TLS only.

    By itself, it leaves both to what answers: that names further servers before TLS, which would prove their names.
    """

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        await super()._process_info({**info, "connect_urls": []}, initial_connection)

    def _connect_command(self) -> bytes:
        host = (self._current_server and self._current_server.uri.hostname) or ""
        is_encrypted = self._server_info.get("tls_required")
        has_credential = self.options["password"] is not None or self._user_credentials is not None
        if has_credential and not is_encrypted and not is_loopback_host(host):
            raise NatsError(
                f"{host} offers no TLS, so NATS_PASSWORD or a signature of NATS_CREDS was not sent: whoever is on the"
                " way could read the password, or go on in the session. Let the server demand TLS"
            )
        return super()._connect_command()


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that looks names up in no thread for whose end it would wait, as a slow name server has it."""

    def __init__(self) -> None:
        super().__init__()
        self._lookups = NameLookups()

    async def getaddrinfo(self, host: str, port: int, **hints: int) -> list[Any]:  # type: ignore[override]  # no others
        found = await self._lookups.find(host, hints.get("family", 0), hints.get("flags", 0))
        hints["flags"] = socket.AI_NUMERICHOST
        return [each for _, address in found for each in socket.getaddrinfo(address, port, **hints)]


class NatsStore:
    """The stream of one log, with an object store beside it. Entry N is the message with sequence number N + 1.

    A client that lost its connection, or gets no answer, is given up, and the next request opens another. By itself it
    would connect again only after errors that it expects.
    """

    def __init__(
        self, portal: BlockingPortal, connect: Callable[[], Awaitable[Client]], stream: str, monitors: Sequence[str]
    ) -> None:
        self._portal = portal
        self._connect = connect
        self._stream = stream
        #: The monitoring address of each server.
        self._monitors = monitors
        #: None: the next request opens one.
        self._client: Client | None = None
        self._opening = anyio.Lock()

    async def _ask(self, request: Callable[[Client], Awaitable[T]]) -> T:
        async with self._opening:
            if self._client is None or self._client.is_closed:
                self._client = await self._connect()
            client = self._client
        try:
            return await request(client)
        except APIError:  # an answer
            raise
        except (NatsError, OSError, TimeoutError):
            if self._client is client:
                self._client = None
            await _close(client)
            raise

    def create(self, replicas: int) -> None:
        """Create what is missing of the log, which `replicas` servers keep."""
        with _explaining(self._stream):
            self._portal.call(self._ask, partial(_create, stream=self._stream, replicas=replicas))

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._portal.call(_close, self._client)

    def append(self, number: int, entry: bytes) -> bool:
        headers = {"Nats-Expected-Last-Sequence": str(number)}

        def publish(client: Client) -> Awaitable[object]:
            stream = client.jetstream(timeout=_REQUEST_S)
            return stream.publish(subject_of(self._stream), entry, headers=headers, timeout=_REQUEST_S)

        with _explaining(self._stream):
            try:
                self._portal.call(self._ask, publish)
            except APIError as error:
                if error.err_code != _WRONG_SEQUENCE:
                    raise
                return False
            return True

    def read(self, number: int) -> bytes | None:
        with _explaining(self._stream):
            stored = self._portal.call(self._ask, partial(_stored, stream=self._stream, seq=number + 1))
            if stored is None:
                return None
            return stored.content if len(stored.content) <= MAX_READ_ENTRY_BYTES else b""

    def read_from(self, number: int) -> Iterator[bytes]:
        return read_up_to_the_end(self.read, number)

    def put_object(self, name: str, content: bytes) -> None:
        with _explaining(self._stream):
            self._portal.call(self._ask, partial(self._put_object, name=name, content=content))

    async def _put_object(self, client: Client, name: str, content: bytes) -> None:
        """Store an object unless it is there: the client would remove its chunks, also while a standby reads them."""
        known = None
        with suppress(ValueError):  # else no client of NATS has written what describes it
            known = await self._described(client, name)
        digest = OBJ_DIGEST_TEMPLATE.format(digest=base64.urlsafe_b64encode(sha256(content).digest()).decode())
        if not isinstance(known, dict) or known.get("deleted") or known.get("digest") != digest:
            objects = await client.jetstream(timeout=_REQUEST_S).object_store(objects_of(self._stream))
            await objects.put(name, content)

    def get_object(self, name: str) -> bytes | None:
        with _explaining(self._stream):
            try:
                return self._portal.call(self._ask, partial(self._read_object, name=name))
            except (ValueError, LookupError, TypeError, AttributeError):
                return b""  # what describes it was not written by a client of NATS

    async def _read_object(self, client: Client, name: str) -> bytes | None:
        """Return an object; empty if it is not as large as it says; None if there is none. Links are not followed.

        Its chunks are asked for one by one. The subscription of `ObjectStore.get` receives what the server goes on
        sending, which may be more than the object says, and stays behind after an error.
        """
        bucket = objects_of(self._stream)
        stream = OBJ_STREAM_TEMPLATE.format(bucket=bucket)
        with anyio.fail_after(_OBJECT_S):
            described = await self._described(client, name)
            if described is None or described.get("deleted"):
                return None
            size = int(described["size"])
            if size > MAX_READ_OBJECT_BYTES:
                return b""
            chunks = OBJ_CHUNKS_PRE_TEMPLATE.format(bucket=bucket, obj=described["nuid"])
            content, number = bytearray(), 0
            while len(content) < size:
                if (chunk := await _stored(client, stream, seq=number + 1, next_by_subj=chunks)) is None:
                    raise LogUnreachable(f"NATS stream {stream}: the end of {name} is missing")
                content += chunk.content
                number = chunk.number
        return bytes(content) if len(content) == size else b""

    async def _described(self, client: Client, name: str) -> Any:
        """Return the JSON that describes an object; None: there is none. Anybody may have written it."""
        bucket = objects_of(self._stream)
        meta = OBJ_META_PRE_TEMPLATE.format(bucket=bucket, obj=base64.urlsafe_b64encode(name.encode()).decode())
        stored = await _stored(client, OBJ_STREAM_TEMPLATE.format(bucket=bucket), last_by_subj=meta)
        return None if stored is None else orjson.loads(stored.content)

    def has_later(self, number: int) -> bool:  # noqa: ARG002 - the stream counts its messages, and refuses any but the next
        return False

    def caution(self) -> str:
        with ThreadPoolExecutor(len(self._monitors)) as readers:
            found = list(readers.map(_synced_every_s, self._monitors))
        longest_s = max((each for each in found if each is not None), default=0.0)
        if None not in found and not longest_s:
            return ""
        words = f"a server syncs its disk every {longest_s:g} s only"
        if not longest_s:
            silent = self._monitors[found.index(None)]
            words = f"how often a server syncs its disk is unknown, since {silent} does not answer"
        return (
            f"NATS stream {self._stream}: {words}. Without sync_interval: always in the jetstream section of its"
            " configuration, a server can lose entries that it has acknowledged when its machine loses power"
        )


class _Message(NamedTuple):
    """A stored message: its sequence number and its content."""

    number: int
    content: bytes


async def _stored(client: Client, stream: str, *, timeout_s: float = _REQUEST_S, **which: str | int) -> _Message | None:
    """Return a message of a stream; None: there is none.

    The client's `get_msg` parses the headers too, as those of an e-mail: by recursion, as deep as they say.
    """
    asked = await client.request(f"$JS.API.STREAM.MSG.GET.{stream}", orjson.dumps(which), timeout=timeout_s)
    try:
        answer = orjson.loads(asked.data)
        if (refusal := answer.get("error")) is None:
            return _Message(int(answer["message"]["seq"]), base64.b64decode(answer["message"].get("data", "")))
        if refusal.get("err_code") == _NO_MESSAGE:
            return None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise LogUnreachable(f"NATS stream {stream}: the server's answer cannot be read") from error
    # The stream itself is missing, say: that is no empty log.
    raise APIError(refusal.get("code"), refusal.get("description"), refusal.get("err_code"))


def _synced_every_s(monitor: str) -> float | None:
    """Return how often a server syncs its disk, 0 for always; None: its monitoring port does not answer."""
    try:
        config = orjson.loads(_monitored(monitor))["jetstream"]["config"]
        return 0.0 if config.get("sync_always") else config["sync_interval"] / 1e9
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _monitored(monitor: str) -> bytes:
    """Return what a server's monitoring says of it, in time: any program may have taken that port.

    Raises:
        OSError: It does not answer, or not in time.
    """
    parts = urlsplit(monitor)
    ends_at = monotonic() + _MONITOR_S
    answer = bytearray()
    with socket.create_connection((parts.hostname, parts.port), timeout=_MONITOR_S) as connection:
        # HTTP/1.0: the body comes in one part, and ends with the connection.
        connection.sendall(f"GET /varz HTTP/1.0\r\nHost: {parts.netloc}\r\n\r\n".encode())
        while len(answer) < _MONITOR_BYTES:
            connection.settimeout(max(ends_at - monotonic(), 0.001))
            if not (piece := connection.recv(1 << 16)):
                break
            answer += piece
    return bytes(answer).partition(b"\r\n\r\n")[2]


@contextmanager
def _explaining(stream: str) -> Iterator[None]:
    """Turn the client's errors into ones that name the stream."""
    try:
        yield
    except BatchrunError:
        raise
    except Exception as error:
        raise LogUnreachable(f"NATS stream {stream}: {str(error) or type(error).__name__}") from error


def objects_of(stream: str) -> str:
    """Return the name of the object store beside a stream."""
    return f"{stream}-objects"


def subject_of(stream: str) -> str:
    """Return the only subject of a stream."""
    return f"{stream}.log"


@contextmanager
def open_nats_store(url: str) -> Iterator[NatsStore]:
    """Open the stream that a URL names, nats://host:4222,other:4222/name?replicas=3&monitor=8222; create a missing one.

    Credentials come from the environment, as NATS' own tool takes them: NATS_CREDS, or NATS_USER and NATS_PASSWORD.

    Raises:
        ConfigError: The URL names no stream, or a package is missing for the credential.
        LogUnreachable: The server does not answer, or has no JetStream.
    """
    servers, stream, replicas, monitor = parts_of(url)
    if "NATS_CREDS" in os.environ and find_spec("nkeys") is None:
        raise ConfigError("NATS_CREDS needs the package nkeys, which signs with it: pip install nkeys")
    hosts = [urlsplit(each).hostname or "" for each in servers]
    monitors = [f"http://{f'[{host}]' if ':' in host else host}:{monitor}" for host in hosts]
    with start_blocking_portal(backend_options={"loop_factory": _Loop}) as portal:
        store = NatsStore(portal, partial(_connect, servers, stream), stream, monitors)
        try:
            store.create(replicas)
            yield store
        finally:
            store.close()


def parts_of(url: str) -> tuple[list[str], str, int, int]:
    """Return a URL's servers, its stream, on how many servers that is kept, and the port of their monitoring."""
    parts = urlsplit(url)
    name = parts.path.strip("/")
    if not name or not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError("replica.url: nats://host:4222/name needs a name of letters, digits, - and _ for the batch")
    numbers = {"replicas": 1, "monitor": _MONITOR_PORT}
    for key, _, value in (each.partition("=") for each in parts.query.split("&") if each):
        is_known = value in ("1", "3", "5") if key == "replicas" else key == "monitor" and value.isdecimal()
        if not is_known:
            raise ConfigError(
                "replica.url: has a ?parameter that is not known; there are ?replicas=3 and &monitor=8222"
            )
        numbers[key] = int(value)
    if "@" in parts.netloc:
        raise ConfigError(
            "replica.url: is noted in files, so it must hold no password. Set NATS_USER and NATS_PASSWORD instead"
        )
    return (
        [f"{parts.scheme}://{each}" for each in parts.netloc.split(",")],
        f"batchrun-{name}",
        numbers["replicas"],
        numbers["monitor"],
    )


async def _connect(servers: list[str], stream: str) -> Client:
    failures: list[Exception] = []  # the last one

    async def note(error: Exception) -> None:
        failures[:] = [error]

    client, signing = _CarefulClient(), os.environ.get("NATS_CREDS")
    try:
        with anyio.move_on_after(_CONNECT_S) as connecting:
            await client.connect(
                servers,
                error_cb=note,
                connect_timeout=int(_REQUEST_S),
                user_credentials=signing,
                user=None if signing else os.environ.get("NATS_USER"),
                password=None if signing else os.environ.get("NATS_PASSWORD"),
                max_reconnect_attempts=-1,  # within the time limit, at all servers in turn
            )
        if connecting.cancelled_caught:
            raise LogUnreachable(f"NATS stream {stream}: {failures[-1] if failures else 'no answer'}")
    except BaseException:
        await _close(client)
        raise
    client.options["allow_reconnect"] = False  # a lost connection closes it
    return client


async def _close(client: Client) -> None:
    """End a client, whatever its server does."""
    with anyio.move_on_after(_CLOSE_S, shield=True), suppress(Exception):  # it may never have been connected
        await client.close()


async def _create(client: Client, stream: str, replicas: int) -> None:
    """Create what is missing of a log, and wait until its servers have agreed who leads it.

    While they do, and while another client creates the same, some requests are never answered: they are sent again.
    """
    log = StreamConfig(
        name=stream,
        subjects=[subject_of(stream)],
        storage=StorageType.FILE,
        num_replicas=replicas,
        deny_delete=True,
    )
    objects = ObjectStoreConfig(storage=StorageType.FILE, replicas=replicas)
    js = client.jetstream(timeout=_CREATE_S)
    with anyio.fail_after(_CREATED_IN_S):
        while True:
            with suppress(NoAnswer):
                await js.add_stream(log)
                await js.create_object_store(objects_of(stream), config=objects)
                with suppress(APIError):  # an answer is all that is asked for
                    await _stored(client, stream, timeout_s=_CREATE_S, seq=1)
                await js.object_store(objects_of(stream))
                return
            await anyio.sleep(_LEADER_LOOK_S)
