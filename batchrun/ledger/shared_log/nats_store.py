"""A shared log in a stream of NATS JetStream: a message an entry, appended at an expected sequence number."""

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import anyio
import nats
from anyio.from_thread import BlockingPortal, start_blocking_portal
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import ObjectStoreConfig, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError
from nats.js.object_store import ObjectStore

from batchrun.errors import ConfigError, LogUnreachable
from batchrun.ledger.shared_log.read_ahead import read_up_to_the_end

T = TypeVar("T")

#: Seconds for one request.
_REQUEST_S = 5.0
#: Seconds for the first connection, over all servers.
_CONNECT_S = 10.0
#: The server's error code for a message that is not at the expected sequence number.
_WRONG_SEQUENCE = 10071


class NatsStore:
    """The stream of one log, with an object store beside it. Entry N is the message with sequence number N + 1."""

    def __init__(self, portal: BlockingPortal, js: JetStreamContext, objects: ObjectStore, stream: str) -> None:
        self._portal = portal
        self._js = js
        self._objects = objects
        self._stream = stream

    def append(self, number: int, entry: bytes) -> bool:
        headers = {"Nats-Expected-Last-Sequence": str(number)}
        try:
            self._call(partial(self._js.publish, subject_of(self._stream), entry, headers=headers, timeout=_REQUEST_S))
        except APIError as error:
            if error.err_code == _WRONG_SEQUENCE:
                return False
            raise self._unreachable(error) from error
        return True

    def read(self, number: int) -> bytes | None:
        try:
            message = self._call(partial(self._js.get_msg, self._stream, number + 1))
        except NotFoundError:
            return None
        except APIError as error:
            raise self._unreachable(error) from error
        return message.data or b""

    def read_from(self, number: int) -> Iterator[bytes]:
        return read_up_to_the_end(self.read, number)

    def put_object(self, name: str, content: bytes) -> None:
        try:
            self._call(partial(self._objects.put, name, content))
        except APIError as error:
            raise self._unreachable(error) from error

    def get_object(self, name: str) -> bytes | None:
        try:
            return self._call(partial(self._objects.get, name)).data
        except NotFoundError:
            return None
        except APIError as error:
            raise self._unreachable(error) from error

    def _call(self, verb: Callable[[], Awaitable[T]]) -> T:
        try:
            return self._portal.call(verb)
        except APIError:
            raise
        except (NatsError, OSError, TimeoutError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> LogUnreachable:
        return LogUnreachable(f"NATS stream {self._stream}: {str(error) or type(error).__name__}")


def subject_of(stream: str) -> str:
    """Return the only subject of a stream."""
    return f"{stream}.log"


@contextmanager
def open_nats_store(url: str) -> Iterator[NatsStore]:
    """Open the stream that a URL names, nats://host:4222,other:4222/name?replicas=3, and create it if it is missing.

    Credentials come from the environment, as NATS' own tool takes them: NATS_CREDS, or NATS_USER and NATS_PASSWORD.

    Raises:
        ConfigError: The URL names no stream.
        LogUnreachable: The server does not answer, or has no JetStream.
    """
    servers, stream, replicas = _parts_of(url)
    with start_blocking_portal() as portal:
        client, js, objects = _reached(portal, partial(_connect, servers, stream, replicas), stream)
        try:
            yield NatsStore(portal, js, objects, stream)
        finally:
            portal.call(client.close)


def _parts_of(url: str) -> tuple[list[str], str, int]:
    """Return a URL's servers, its stream, and on how many servers the stream is kept."""
    parts = urlsplit(url)
    name = parts.path.strip("/")
    if not name or not name.replace("-", "").replace("_", "").isalnum():
        raise ConfigError("replica.url: nats://host:4222/name needs a name of letters, digits, - and _ for the batch")
    replicas = 1
    for key, _, value in (each.partition("=") for each in parts.query.split("&") if each):
        if key != "replicas" or value not in ("1", "3", "5"):
            raise ConfigError(f"replica.url: {key!r} is not known; there is ?replicas=3")
        replicas = int(value)
    if "@" in parts.netloc:
        raise ConfigError(
            "replica.url: is noted in files, so it must hold no password. Set NATS_USER and NATS_PASSWORD instead"
        )
    return [f"{parts.scheme}://{each}" for each in parts.netloc.split(",")], f"batchrun-{name}", replicas


def _reached(portal: BlockingPortal, connect: Callable[[], Awaitable[T]], stream: str) -> T:
    try:
        return portal.call(connect)
    except (NatsError, OSError, TimeoutError) as error:
        raise LogUnreachable(f"NATS stream {stream}: {str(error) or type(error).__name__}") from error


async def _connect(servers: list[str], stream: str, replicas: int) -> tuple[Client, JetStreamContext, ObjectStore]:
    async def quiet(_: Any) -> None:
        """Errors come from the requests themselves."""

    with anyio.fail_after(_CONNECT_S):
        client = await nats.connect(
            servers,
            error_cb=quiet,
            connect_timeout=_REQUEST_S,
            user_credentials=os.environ.get("NATS_CREDS"),
            user=os.environ.get("NATS_USER"),
            password=os.environ.get("NATS_PASSWORD"),
            # Requests have time limits of their own; below them, a lost connection is made again for ever.
            max_reconnect_attempts=-1,
        )
    try:
        js = client.jetstream(timeout=_REQUEST_S)
        await js.add_stream(
            StreamConfig(
                name=stream,
                subjects=[subject_of(stream)],
                storage=StorageType.FILE,
                num_replicas=replicas,
                deny_delete=True,
            )
        )
        config = ObjectStoreConfig(storage=StorageType.FILE, replicas=replicas)
        return client, js, await js.create_object_store(f"{stream}-objects", config=config)
    except BaseException:
        await client.close()
        raise
