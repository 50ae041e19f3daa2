"""What keeps the server safe by default: who reaches it, what it holds for whom, and what it never tells."""

import os
import socket
import stat
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import structlog
from aiohttp import ClientConnectionResetError
from aiohttp.http import HttpProcessingError

from batchrun.errors import OutputError
from batchrun.runtime.content_security import STRANGER_POLICY
from batchrun.runtime.logs import logging_to
from batchrun.server import AccountSettings, ServerSettings, app, exposure_warning
from batchrun.server.api import dataset_item_answers
from batchrun.server.content import request_bodies
from batchrun.server.http import connection_cap
from tests.support.server_api import Api, open_api


async def test_only_this_machine_reaches_it(api: Api) -> None:
    """Loopback, unless it is told otherwise."""
    assert ServerSettings(data_dir=Path("x")).host == "127.0.0.1"
    assert api.server.base_url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("host", "has_own_token", "words"),
    [
        ("127.0.0.1", False, None),
        ("::1", False, None),
        ("localhost", False, None),
        ("0.0.0.0", False, "WITHOUT A TOKEN OF YOUR OWN"),
        ("::", False, "WITHOUT A TOKEN OF YOUR OWN"),
        ("192.168.1.7", False, "WITHOUT A TOKEN OF YOUR OWN"),
        ("0.0.0.0", True, "other machines can reach it"),
        ("my-host", True, "other machines can reach it"),
    ],
)
def test_a_server_that_others_reach_is_warned_about(host: str, has_own_token: bool, words: str | None) -> None:
    """Loudly if its token was not chosen; a loopback address is nothing to talk about."""
    warning = exposure_warning(host, has_own_token=has_own_token)
    assert (warning is None) if words is None else (warning is not None and words in warning)


def _modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in (directory, *directory.iterdir())}


@pytest.mark.parametrize("existed", [False, True])
def test_its_files_are_for_its_user_only(tmp_path: Path, *, existed: bool) -> None:
    """The directory, the database, its log, the lock and the tokens; also if they were open to others before."""
    directory = tmp_path / "server"
    if existed:
        directory.mkdir(mode=0o755)
        for name in ("lock", "token", "token.bob", "server.sqlite3", "server.log"):
            (directory / name).touch(0o644)

    async def look() -> tuple[dict[str, int], str]:
        async with open_api(directory, accounts=(AccountSettings(username="bob"),)) as api:
            await api.create_task()
            return await anyio.to_thread.run_sync(_modes, directory), api.server.token

    with logging_to(directory / "server.log"):
        modes, token = anyio.run(look)
        structlog.get_logger().warning("a line")
    assert modes.pop("server") == 0o700
    modes.pop("server.log", None)  # a thread opens it, perhaps after the look: its mode counts once it is closed
    names = {
        "lock",
        "port",
        "token",
        "token.bob",
        "server.sqlite3",
        "server.sqlite3-wal",
        "server.sqlite3-shm",
        "server.log",
    }
    assert (set(_modes(directory)) | set(modes)) - {".gitignore"} == names | {"server"}
    assert set((_modes(directory) | modes).values()) == {0o600, 0o700}
    assert (directory / "token").read_text().strip() == token
    assert len(token) > 40


async def test_a_directory_that_others_may_read_is_refused_if_it_cannot_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do. One that is closed already need not be this user's to change."""

    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name, mode in (("open", 0o750), ("closed", 0o700)):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(mode)
    monkeypatch.setattr(os, "fchmod", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)  # of another user than the directory's
    with pytest.raises(OutputError, match=r"open cannot be used: .*name a directory inside it"):
        async with open_api(tmp_path / "open"):
            pass
    async with open_api(tmp_path / "closed") as api:
        assert (await api.get("/v2/users/me")).status == 200


@pytest.mark.parametrize("name", ["lock", "server.sqlite3", "token"])
async def test_it_follows_no_link_out_of_its_directory(tmp_path: Path, name: str) -> None:
    """What the link leads to stays as it is."""
    target, directory = anyio.Path(tmp_path / "other"), anyio.Path(tmp_path / "server")
    await target.write_text("theirs")
    await directory.mkdir()
    await (directory / name).symlink_to(target)
    with pytest.raises(OutputError, match=f"{name}.*: it is a symbolic link"):
        async with open_api(tmp_path / "server"):
            pass
    assert await target.read_text() == "theirs"


def test_secrets_stand_in_no_log_and_no_repr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither when all goes well nor when a request runs into a bug; its caller learns nothing of the inside."""
    token = "a token that nobody may see"

    async def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    async def ask() -> tuple[Any, str]:
        async with open_api(tmp_path / "server", token=token) as api:
            await api.send("GET", "/v2/users/me", token=None, **_secret(token))
            monkeypatch.setattr(api.server._backend.runs, "read", fail)
            answer = await api.send("GET", f"/v2/actor-runs/{'x' * 17}", token=None, **_secret(token))
            return answer, repr(api.server) + repr(ServerSettings(data_dir=tmp_path, token=token))

    file = tmp_path / "server.log"
    with logging_to(file):
        answer, shown = anyio.run(ask)
    assert (answer.status, answer.error_type) == (500, "internal-server-error")
    assert "bug" not in answer.body["error"]["message"]
    logged = file.read_text()
    assert "request_failed" in logged
    assert token not in logged + shown


def _secret(token: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {token}", "X-Other": token}, "q": token}


@pytest.mark.parametrize("name", ["../../escape", "..", "a/b", "/etc/passwd", "%2e%2e%2fescape", "nul\x00", "a" * 64])
async def test_names_and_keys_stay_inside(api: Api, tmp_path: Path, name: str) -> None:
    """They are refused or kept as text: nothing is written beside the server's own files."""
    before = await _files(tmp_path)
    await api.send("POST", "/v2/datasets", name=name)
    await api.send("POST", "/v2/actor-tasks", {"actId": "test/echo", "name": name})
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    escaped = "".join(f"%{byte:02X}" for byte in name.encode())
    for method in ("PUT", "GET", "DELETE"):
        answer = await api.send(method, f"/v2/key-value-stores/{store}/records/{escaped}", raw=b"x")
        assert answer.status < 500
    for path in (f"/v2/logs/{escaped}", f"/demo/{escaped}", f"/v2/actors/{escaped}", f"/events/{escaped}"):
        answer = await api.get(path)
        # The client takes /demo/.. for /, which is the server's page.
        assert answer.status in (400, 404) or (name == ".." and b"<title>batchrun</title>" in answer.body)
    assert await _files(tmp_path) == before


async def _files(folder: Path) -> set[str]:
    return await anyio.to_thread.run_sync(lambda: {str(path) for path in folder.rglob("*")})


SCRIPT = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


async def test_a_browser_runs_nothing_of_what_others_have_stored(api: Api) -> None:
    """Items in each format, stored values, logs, outputs and errors, short and streamed: sandboxed, and not sniffed."""
    task = await api.create_task(name="scripts")
    run = (await api.start(task, {"x": SCRIPT, "fail": 1, "message": SCRIPT}, waitForFinish=60)).data
    items, store = (
        f"/v2/datasets/{run['defaultDatasetId']}/items",
        f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}",
    )
    for key, content_type in (("page", "text/html"), ("image", "image/svg+xml"), ("large", "text/html")):
        raw = SCRIPT.encode() * (5000 if key == "large" else 1)
        await api.send("PUT", f"{store}/records/{key}", raw=raw, headers={"Content-Type": content_type})
    formats = ("json", "jsonl", "xml", "html", "csv", "xlsx", "rss")
    paths = [
        *(f"{items}?format={form}&xmlRoot=svg" for form in formats),
        *(f"{store}/records/{key}" for key in ("page", "image", "large")),
        f"{store}/records", f"/v2/logs/{run['id']}", f"/v2/actor-runs/{run['id']}", f"/v2/{SCRIPT}", "/<script>",
    ]  # fmt: skip
    output = await api.send("POST", "/v2/acts/test~echo/run-sync?outputRecordKey=OUTPUT", {"x": SCRIPT})
    for answer in [output, *[await api.get(path) for path in paths]]:
        assert answer.headers["Content-Security-Policy"] == STRANGER_POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_a_browser_plays_a_stored_video_and_loads_nothing_else(api: Api) -> None:
    """Other addresses of this server can start a Run, whose document says who has looked."""
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    seen: list[str] = []
    given = {
        "it's.mp4": "video/mp4",
        "recorded": "video/webm;codecs=vp8,opus",
        "page": "text/html",
        "upper": "Video/x;<video src='/x'>",
        "both": "audio/mpeg, text/html",  # to browsers, the last type counts
        "parameter": "audio/mpeg; a=b,text/html",
    }
    for key, content_type in given.items():
        record = f"/v2/key-value-stores/{store}/records/{key}"
        await api.send("PUT", record, raw=b"<video src='/v2/acts'>", headers={"Content-Type": content_type})
        answer = await api.send("GET", f"{record}?x=1")
        seen.append(answer.headers["Content-Security-Policy"].removeprefix(STRANGER_POLICY))
    host = api.server.base_url.removeprefix("http://")
    own = f"; media-src {host}/v2/key-value-stores/{store}/records"
    assert seen == [f"{own}/it%27s.mp4", f"{own}/recorded", "", "", "", ""]
    assert "default-src 'none'" in STRANGER_POLICY
    assert "media-src" not in STRANGER_POLICY


async def test_a_browser_saves_what_it_would_act_on_by_itself(api: Api) -> None:
    """A signed exchange takes the tab to any address, before any policy holds; other types may learn such things."""
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    types = {
        "text/html; charset=utf-8": None,
        "image/png": None,
        "video/webm;codecs=vp8,opus": None,
        "application/json": None,
        "application/rss+xml": None,
        "application/signed-exchange;v=b3": "attachment",
        "Application/Signed-Exchange": "attachment",
        "text/plain, application/signed-exchange;v=b3": "attachment",
        "image/png;a=b,application/signed-exchange": "attachment",
        "multipart/related": "attachment",
        "application/webbundle": "attachment",
    }
    seen: dict[str, str | None] = {}
    for content_type in types:
        record = f"/v2/key-value-stores/{store}/records/value"
        await api.send("PUT", record, raw=b"{}", headers={"Content-Type": content_type})
        answer = await api.send("GET", record)
        assert answer.headers["Content-Type"] == content_type
        seen[content_type] = answer.headers.get("Content-Disposition")
    assert seen == types


async def test_a_page_of_the_demo_site_loads_nothing(api: Api) -> None:
    """Its own policy; browsers that scrape it may run scripts in it."""
    for path in ("/demo/", "/demo/json.html"):
        policy = (await api.get(path)).headers["Content-Security-Policy"]
        assert policy == "default-src 'none'; style-src 'unsafe-inline'"


async def _raw(api: Api, head: str) -> anyio.abc.SocketStream:
    host, port = api.server.base_url.removeprefix("http://").split(":")
    stream = await anyio.connect_tcp(host, int(port))
    await stream.send(head.encode())
    return stream


@pytest.mark.parametrize("length", [1000, 5_000_000])
async def test_a_body_that_does_not_arrive_is_given_up(api: Api, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    """408 and the end of the connection: a slow upload does not hold what it has sent for ever."""
    monkeypatch.setattr(request_bodies, "BODY_TIMEOUT_S", 0.1)
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    head = (
        f"PUT /v2/key-value-stores/{store}/records/slow HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {api.server.token}\r\nContent-Length: {length}\r\n\r\nonly this much"
    )
    async with await _raw(api, head) as stream:
        received = b""
        with anyio.fail_after(60):
            while b"request-timeout" not in received:
                received += await stream.receive()
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"Connection: close" in received
    assert (await api.get(f"/v2/key-value-stores/{store}/records/slow")).status == 404


async def test_headers_that_do_not_arrive_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One header now and then does not keep the connection."""
    monkeypatch.setattr(app, "KEEP_ALIVE_S", 0.3)
    async with open_api(tmp_path / "server") as api, await _raw(api, "GET /v2/users/me HTTP/1.1\r\n") as stream:
        with anyio.fail_after(60), suppress(anyio.BrokenResourceError):
            while True:
                await stream.send(b"X: y\r\n")
                await anyio.sleep(0.02)


async def test_above_a_number_the_oldest_connection_of_a_stranger_is_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everyone who comes is served, and a poll that waits with a token is not cut."""
    monkeypatch.setattr(app, "_MAX_CONNECTIONS", 3)
    waits = {"test/waits": lambda _context: anyio.sleep_forever()}
    async with open_api(tmp_path / "server", inline_actors=waits) as api, AsyncExitStack() as opened:
        run = (await api.run_actor("test~waits"))["id"]
        head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.server.token}\r\n\r\n"
        poll = await opened.enter_async_context(await _raw(api, f"GET /v2/actor-runs/{run}?waitForFinish=60 {head}"))
        strangers = [await opened.enter_async_context(await _raw(api, "GET")) for _ in range(4)]
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await strangers[0].receive()
        assert await _is_served(api)
        assert (await api.send("POST", f"/v2/actor-runs/{run}/abort")).status == 200
        assert b'"ABORTED"' in await poll.receive()


async def test_of_strangers_who_send_too_much_the_largest_is_reset(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers without an end are held in memory. One with a token may send as much as its body has."""
    monkeypatch.setattr(connection_cap, "MAX_UNANSWERED_BYTES", 1 << 20)
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    async with await _raw(api, "GET /demo HTTP/1.1\r\nHost: x\r\n") as small, AsyncExitStack() as opened:
        large = [await opened.enter_async_context(await _raw(api, "GET / HTTP/1.1\r\n")) for _ in range(3)]
        reset = anyio.Event()

        async def send(stream: anyio.abc.SocketStream) -> None:
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                await stream.send(_headers(50))
                await stream.receive()
            reset.set()

        with anyio.fail_after(60):
            async with anyio.create_task_group() as children:
                for stream in large:
                    children.start_soon(send, stream)
                await reset.wait()
                children.cancel_scope.cancel()
        path = f"/v2/key-value-stores/{store}/records/large"
        assert (await api.send("PUT", path, raw=b"x" * (3 << 20))).status == 201
        await small.send(b"\r\n")
        assert (await small.receive()).startswith(b"HTTP/1.1 200")


async def test_clients_with_a_token_may_send_much_at_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their bytes may all come before the first of their tokens is looked at."""
    monkeypatch.setattr(connection_cap, "MAX_UNANSWERED_BYTES", 1 << 19)
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    host, port = api.server.base_url.removeprefix("http://").split(":")
    head = f"Host: x\r\nAuthorization: Bearer {api.server.token}\r\nContent-Length: 200000\r\n\r\n"
    with ExitStack() as opened:
        clients = [opened.enter_context(socket.socket()) for _ in range(8)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex((host, int(port)))
            line = f"PUT /v2/key-value-stores/{store}/records/x HTTP/1.1\r\n"
            assert client.send(f"{line}{head}".encode() + b"x" * 200_000) > 200_000
        for client in clients:
            await anyio.wait_readable(client)
            assert client.recv(12) == b"HTTP/1.1 201"


async def test_a_stranger_who_asks_ahead_and_reads_nothing_is_reset(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait in memory behind an answer that is not read; read answers free what their requests took."""
    monkeypatch.setattr(connection_cap, "MAX_UNANSWERED_BYTES", 3 << 19)
    line = b"GET /demo HTTP/1.1\r\nHost: x\r\n"
    async with await _raw(api, "") as reader, await _raw(api, "") as stranger:
        for _ in range(12):
            await reader.send(line + _headers(20) + b"\r\n")
            assert (await reader.receive()).startswith(b"HTTP/1.1 200")
        with anyio.fail_after(60), suppress(anyio.BrokenResourceError):
            while True:
                await stranger.send(line + _headers(80) + b"\r\n")


def _headers(count: int) -> bytes:
    """Return headers of 8 KB each."""
    return b"".join(b"X-%d: %s\r\n" % (number, b"y" * 8_000) for number in range(count))


async def _is_served(api: Api) -> bool:
    async with await _raw(api, "GET /demo HTTP/1.1\r\nHost: x\r\n\r\n") as stream:
        return bool(await stream.receive())


async def test_large_items_are_read_a_few_at_a_time(
    api: Api, monkeypatch: pytest.MonkeyPatch, page_sizes: list[int]
) -> None:
    """A page of many large items is streamed, so that no reader, fast or slow, makes the server hold them all."""
    dataset = (await api.send("POST", "/v2/datasets")).data["id"]
    for number in range(12):
        await api.send("POST", f"/v2/datasets/{dataset}/items", {"n": number, "text": "x" * 100_000})
    monkeypatch.setattr(dataset_item_answers, "LARGE_BYTES", 250_000)
    answer = await api.get(f"/v2/datasets/{dataset}/items")
    assert [item["n"] for item in answer.body] == list(range(12))
    assert page_sizes == [2] * 6
    assert "Content-Length" not in answer.headers


async def test_a_reader_who_does_not_read_holds_no_whole_dataset(api: Api) -> None:
    """Others are served meanwhile, and the server closes without waiting for him."""
    dataset = (await api.send("POST", "/v2/datasets")).data["id"]
    path = f"/v2/datasets/{dataset}/items"
    for _ in range(4):
        await api.send("POST", path, [{"text": "x" * 1_000_000}] * 8)
    async with await _raw(api, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"):
        assert (await api.get(path, limit=1)).status == 200
        assert len((await api.get(path)).body) == 32


@pytest.mark.parametrize(
    "error", [ClientConnectionResetError("Cannot write to closing transport"), HttpProcessingError()]
)
def test_what_strangers_cause_is_not_logged(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Who hangs up while aiohttp answers, or speaks no HTTP, could else push all other lines out of a log."""
    connection_cap.LOGGER.error("Unhandled exception", exc_info=error)
    assert caplog.records == []
    connection_cap.LOGGER.error("Unhandled exception", exc_info=RuntimeError("a bug"))
    assert [each.levelname for each in caplog.records] == ["ERROR"]
