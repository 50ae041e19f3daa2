"""Large uploads: they wait in a file of the data directory, whoever sends them, how slowly, and in which encoding."""

import gzip
import io
import random
import sys
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import aiohttp
import anyio
import anyio.abc
import anyio.to_thread
import brotli  # type: ignore[import-untyped]  # it ships neither stubs nor a marker
import pytest

from batchrun.runtime import free_space
from tests.support.server_api import Api

_MB = 1 << 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at open files through /proc")


def _spooled_bytes(directory: Path) -> list[int]:
    """Return the sizes of this process's open files in a directory that have no name there."""
    sizes = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
            if target.startswith(f"{directory}/") and target.endswith(" (deleted)"):
                sizes.append(entry.stat().st_size)
        except FileNotFoundError:
            continue
    return sizes


async def _wait_until_spooled(directory: Path, is_reached: Callable[[list[int]], bool]) -> None:
    sizes = await anyio.to_thread.run_sync(_spooled_bytes, directory)
    with anyio.fail_after(60):
        while not is_reached(sizes):
            await anyio.sleep(0.02)
            sizes = await anyio.to_thread.run_sync(_spooled_bytes, directory)


@contextmanager
def _traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


async def _store(api: Api) -> str:
    created = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    return f"/v2/key-value-stores/{created}/records"


async def _begin_upload(api: Api, path: str, announced: int, encoding: str = "identity") -> anyio.abc.SocketStream:
    host, port = api.server.base_url.removeprefix("http://").split(":")
    stream = await anyio.connect_tcp(host, int(port))
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.server.token}\r\n"
    await stream.send(f"{head}Content-Encoding: {encoding}\r\nContent-Length: {announced}\r\n\r\n".encode())
    return stream


async def test_an_upload_leaves_some_of_the_disk_free(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """507, and nothing stays: the database of live Runs needs the rest. So for a start, which stores its task's input.

    Another request without a body is carried out.
    """
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    path = f"/v2/key-value-stores/{store}/records/value"
    image = {"Content-Type": "image/png"}
    monkeypatch.setattr(free_space, "_LOOK_EVERY_S", 3600.0)
    assert (await api.send("PUT", path, raw=b"old", headers=image)).status == 201
    monkeypatch.setattr(free_space, "RESERVED_BYTES", 1 << 60)
    monkeypatch.setattr(free_space, "_RESERVED_SHARE", 1.0)
    for size in (1_000_000, 10):
        answer = await api.send("PUT", path, raw=b"x" * size, headers=image)
        assert answer.refusal == (507, "insufficient-storage")
        monkeypatch.setattr(free_space, "_LOOK_EVERY_S", 0.0)
    started = await api.send("POST", "/v2/actors/test~echo/runs", raw=b"")
    assert started.refusal == (507, "insufficient-storage")
    assert (await api.get(path)).body == b"old"
    assert (await api.send("DELETE", f"/v2/key-value-stores/{store}")).status == 204


async def test_a_full_disk_gets_no_copies_of_what_is_read(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """507 for a large value, whose copy waits for its reader; a small one is read all the same."""
    path = await _store(api)
    for key, size in (("large", _MB), ("small", 1000)):
        assert (await api.send("PUT", f"{path}/{key}", raw=bytes(size))).status == 201
    dataset = (await api.send("POST", "/v2/datasets")).data["id"]
    assert (await api.send("POST", f"/v2/datasets/{dataset}/items", [{"a": "x" * _MB}])).status == 201
    monkeypatch.setattr(free_space, "RESERVED_BYTES", 1 << 60)
    monkeypatch.setattr(free_space, "_RESERVED_SHARE", 2.0)
    for large in (f"{path}/large", f"/v2/datasets/{dataset}/items"):
        assert (await api.get(large)).refusal == (507, "insufficient-storage")
    assert (await api.get(f"{path}/small")).body == bytes(1000)


async def test_slow_senders_hold_files_and_no_memory(api: Api, tmp_path: Path) -> None:
    """Six uploads that stop half way: what they have sent is on the disk; one that goes on is stored whole."""
    path, sent = await _store(api), random.Random(1).randbytes(4 * _MB)
    async with AsyncExitStack() as uploads:
        with _traced():
            before, _ = tracemalloc.get_traced_memory()
            streams = []
            for number in range(6):
                stream = await _begin_upload(api, f"{path}/slow-{number}", 8 * _MB)
                streams.append(await uploads.enter_async_context(stream))
                await stream.send(sent)
            # What is on its way to the disk is in memory until it is there, and on a busy machine that takes its time.
            await _wait_until_spooled(
                tmp_path / "server",
                lambda sizes: (
                    len(sizes) == 6
                    and sum(sizes) > 6 * 4 * _MB - _MB
                    and tracemalloc.get_traced_memory()[0] - before < 4 * _MB
                ),
            )
        await streams[0].send(sent)
        assert (await streams[0].receive()).startswith(b"HTTP/1.1 201 ")
        assert (await api.get(f"{path}/slow-0")).body == sent * 2
    await _wait_until_spooled(tmp_path / "server", lambda sizes: not sizes)
    assert (await api.get(f"{path}/slow-1")).status == 404


async def test_a_body_is_decompressed_once_it_is_complete(api: Api, tmp_path: Path) -> None:
    """A sender who holds back the last byte keeps what he has sent on the disk, and no decoder with its 9 MB."""
    path, value = await _store(api), bytes(8 * _MB) + random.Random(3).randbytes(_MB)
    raw = brotli.compress(value, quality=1)
    async with await _begin_upload(api, f"{path}/slow", len(raw), "br") as stream:
        await stream.send(raw[:-1])
        sizes: list[int] = []

        def is_there(found: list[int]) -> bool:
            sizes[:] = found
            return sum(found) > len(raw) - 65_536

        await _wait_until_spooled(tmp_path / "server", is_there)
        assert sum(sizes) < len(raw)
        await stream.send(raw[-1:])
        assert (await stream.receive()).startswith(b"HTTP/1.1 201 ")
    assert (await api.get(f"{path}/slow")).body == value


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("br", lambda body: brotli.compress(body, quality=1)),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body, wbits=-15)),
    ],
)
@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_large_value_is_stored_whole(
    api: Api, tmp_path: Path, encoding: str, encode: Callable[[bytes], bytes], is_announced: bool
) -> None:
    """In every encoding, with a length or in chunks; no file is left."""
    path = await _store(api)
    value = random.Random(2).randbytes(600_000) + bytes(900_000)
    raw = encode(value)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(raw), 10_001):
            yield raw[start : start + 10_001]

    headers = {"Authorization": f"Bearer {api.server.token}", "Content-Encoding": encoding}
    async with (
        aiohttp.ClientSession(api.server.base_url) as session,
        session.put(f"{path}/large", data=io.BytesIO(raw) if is_announced else chunks(), headers=headers) as response,
    ):
        assert response.status == 201
    assert (await api.get(f"{path}/large")).body == value
    assert await anyio.to_thread.run_sync(_spooled_bytes, tmp_path / "server") == []


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("br", lambda body: brotli.compress(body, quality=1)),
    ],
)
async def test_a_bomb_is_stopped_at_the_limit(
    api: Api, tmp_path: Path, encoding: str, encode: Callable[[bytes], bytes]
) -> None:
    """413 after 9 MB of 30; neither is ever in memory, and no file is left."""
    path, raw = await _store(api), await anyio.to_thread.run_sync(encode, bytes(30 * _MB))
    with _traced():
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        answer = await api.send("PUT", f"{path}/bomb", raw=raw, headers={"Content-Encoding": encoding})
        peak = tracemalloc.get_traced_memory()[1] - before
    assert (answer.status, answer.error_type) == (413, "request-too-large")
    assert peak < 2 * _MB
    assert await anyio.to_thread.run_sync(_spooled_bytes, tmp_path / "server") == []


async def test_an_upload_that_is_cut_leaves_nothing(api: Api, tmp_path: Path) -> None:
    """Its sender hangs up: the file is gone, the value does not exist, and the next upload succeeds."""
    path = await _store(api)
    async with await _begin_upload(api, f"{path}/cut", 4 * _MB) as stream:
        await stream.send(bytes(_MB))
        await _wait_until_spooled(tmp_path / "server", bool)
    await _wait_until_spooled(tmp_path / "server", lambda sizes: not sizes)
    assert (await api.get(f"{path}/cut")).status == 404
    assert (await api.send("PUT", f"{path}/cut", raw=bytes(_MB))).status == 201


async def test_a_large_value_that_cannot_be_stored_leaves_no_file(api: Api, tmp_path: Path) -> None:
    """No such store; the next one is stored."""
    refused = await api.send("PUT", f"/v2/key-value-stores/{'x' * 17}/records/large", raw=bytes(_MB))
    assert (refused.status, refused.error_type) == (404, "record-not-found")
    assert await anyio.to_thread.run_sync(_spooled_bytes, tmp_path / "server") == []
    path = await _store(api)
    assert (await api.send("PUT", f"{path}/large", raw=bytes(_MB))).status == 201
    assert await anyio.to_thread.run_sync(_spooled_bytes, tmp_path / "server") == []


async def test_many_items_in_one_push_are_appended(api: Api) -> None:
    """A push is parsed as a whole, up to the documented limit on bodies; one byte more is refused."""
    dataset = (await api.send("POST", "/v2/datasets")).data["id"]
    path = f"/v2/datasets/{dataset}/items"
    items = [{"n": n, "text": "x" * 1000} for n in range(8000)]
    assert (await api.send("POST", path, items)).status == 201
    assert (await api.get(path, offset=7998)).body == items[7998:]
    assert (await api.send("POST", path, raw=b"[" + b" " * 9_437_183 + b"]")).refusal == (413, "request-too-large")
