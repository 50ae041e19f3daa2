"""What goes wrong with one Run, webhook or client of the server is no other's trouble."""

import base64
import errno
import os
import socket
import sqlite3
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AsyncExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import anyio
import anyio.abc
import anyio.to_thread
import pytest
import structlog
from anyio.streams.stapled import MultiListener

from batchrun.runtime.logs import silence
from batchrun.server import InlineContext
from batchrun.server.http.forward_proxy import serve_forward_proxy
from batchrun.server.runs import lifecycle
from tests.support.server_api import Api, open_api
from tests.support.slow_names import slow_names, until_looked_up

_MESSAGE = "There was an unexpected error on the server, which its log describes"


class _Unspeakable(Exception):
    def __str__(self) -> NoReturn:
        raise LookupError


@pytest.mark.parametrize("trouble", ["cannot be stored", "cannot be executed"])
async def test_a_run_that_breaks_the_servers_code_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    """It is FAILED, with the reason; the Runs beside it go on."""
    monkeypatch.setattr(lifecycle, "_END_AGAIN_S", 0)
    is_to_break, opened = anyio.Event(), anyio.Event()

    async def gate(_: InlineContext) -> None:
        await opened.wait()

    async def break_all(context: InlineContext) -> None:
        await is_to_break.wait()
        if trouble == "cannot be executed":
            raise _Unspeakable
        await context.set_status_message("half a character: \ud800")

    async with open_api(tmp_path, inline_actors={"test/gate": gate, "test/break": break_all}) as api:
        other, broken = await api.run_actor("test~gate"), await api.run_actor("test~break")
        is_to_break.set()
        await _until(api, f"/v2/actor-runs/{broken['id']}", lambda run: run["finishedAt"])
        opened.set()
        assert (await api.finish(other["id"]))["status"] == "SUCCEEDED"
        ended = (await api.get(f"/v2/actor-runs/{broken['id']}")).data
    assert (ended["status"], ended["statusMessage"]) == ("FAILED", _MESSAGE)


async def test_a_full_disk_ends_no_run_and_prints_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """507 to who wants to store something; Runs end, as their work did, once there is room."""
    monkeypatch.setattr(lifecycle, "_END_AGAIN_S", 0.01)
    opened = anyio.Event()

    async def say_much(context: InlineContext) -> None:
        await opened.wait()
        with suppress(sqlite3.OperationalError):
            await context.set_status_message("x" * 1000)

    async with open_api(tmp_path, inline_actors={"test/say": say_much}) as api:
        runs = [await api.run_actor("test~say") for _ in range(12)]
        database = api.server._backend.database
        await database.write(_limit_pages, 0)
        with _heard_logs() as lines:
            opened.set()
            with anyio.fail_after(60):
                while not any(  # noqa: ASYNC110 - a line in a log sets no event
                    line["event"] == "run_end_waits_for_disk_space" for line in lines
                ):
                    await anyio.sleep(0.01)
                created = await api.send("POST", "/v2/datasets")
                while created.status == 201:  # the last page may have room for a row or two
                    created = await api.send("POST", "/v2/datasets")
        assert created.refusal == (507, "insufficient-storage")
        assert {line["event"] for line in lines} == {"run_end_waits_for_disk_space", "request_not_stored"}
        assert not any("exc_info" in line for line in lines)
        await database.write(_limit_pages, 1000)
        assert [(await api.finish(run["id"]))["status"] for run in runs] == ["SUCCEEDED"] * 12


@contextmanager
def _heard_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as lines:
        yield lines
    silence()


def _limit_pages(database: sqlite3.Connection, more: int) -> None:
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages + more}")


async def _until(api: Api, path: str, meant: Callable[[Any], Any]) -> Any:
    """Wait until something that may be unreadable for a while has what is meant; return that."""
    value = None
    with anyio.fail_after(60):
        while not value:
            await anyio.sleep(0.02)
            answer = await api.get(path)
            value = meant(answer.data) if answer.status == 200 else None
    return value


async def test_what_cannot_be_read_of_one_run_or_webhook_holds_up_no_other(tmp_path: Path) -> None:
    """At the start and later: the other Runs migrate and get their final costs, the other webhooks are called."""
    opened = anyio.Event()

    async def gate(_: InlineContext) -> None:
        await opened.wait()

    settings: dict[str, Any] = {"inline_actors": {"test/gate": gate}, "webhook_retry_s": 0.01}
    async with open_api(tmp_path, **settings) as api:
        live = [(await api.run_actor("test~gate"))["id"] for _ in range(2)]
        ended = [(await api.run_actor("test~echo", {}, waitForFinish=60))["id"] for _ in range(2)]
        given = {"eventTypes": ["TEST"], "requestUrl": f"{api.server.base_url}/nowhere", "doNotRetry": True}
        hooks = [(await api.send("POST", "/v2/webhooks", given)).data["id"] for _ in range(2)]
    await anyio.to_thread.run_sync(_damage, tmp_path / "server.sqlite3", live[0], ended[0], hooks[0])
    async with open_api(tmp_path, **settings) as api:
        opened.set()
        assert (await api.finish(live[1]))["stats"]["migrationCount"] == 1
        await _until(api, f"/v2/actor-runs/{ended[1]}", lambda run: run["usage"].get("DATASET_WRITES"))
        calls = [await _called(api, hook) for hook in hooks]
    assert calls[0]["errorMessage"].startswith("There was an unexpected error on the server: ")
    assert calls[1]["responseStatus"] == 404  # this server is where that one was


def _damage(file: Path, live: str, ended: str, hook: str) -> None:
    """Leave what no server writes; all usage is to be made final at once."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE runs SET settle_ms = 0 WHERE settle_ms IS NOT NULL")
        connection.execute("UPDATE runs SET doc = json_remove(doc, '$.options') WHERE id = ?", (live,))
        connection.execute("UPDATE runs SET doc = json_remove(doc, '$.stats') WHERE id = ?", (ended,))
        connection.execute("UPDATE webhooks SET doc = json_set(doc, '$.requestUrl', 5) WHERE id = ?", (hook,))


async def _called(api: Api, hook: str) -> Any:
    """Test a webhook; return what came of the call."""
    dispatch = (await api.send("POST", f"/v2/webhooks/{hook}/test")).data["id"]
    return await _until(api, f"/v2/webhook-dispatches/{dispatch}", lambda sent: sent["calls"] and sent["calls"][0])


async def test_a_client_that_breaks_the_proxy_is_the_only_one_that_it_fails() -> None:
    """The next one is answered."""

    async def admit(password: str, _: bool) -> bool:
        if not password:
            raise LookupError
        return False

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as children:
        children.start_soon(serve_forward_proxy, listener, admit)
        assert await _asked(port, "") == b""
        assert (await _asked(port, "Proxy-Authorization: Basic Ong=\r\n")).startswith(b"HTTP/1.1 407 ")
        children.cancel_scope.cancel()


class _SecondAcceptFails(anyio.abc.SocketListener):
    """As if no file descriptor were free then."""

    def __init__(self, listener: anyio.abc.SocketListener) -> None:
        self._listener = listener
        self._fails = iter((False, True))

    @property
    def _raw_socket(self) -> socket.socket:
        return self._listener._raw_socket

    async def accept(self) -> anyio.abc.SocketStream:
        if next(self._fails, False):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return await self._listener.accept()

    async def aclose(self) -> None:
        await self._listener.aclose()


async def test_the_proxy_goes_on_after_a_connection_that_it_could_not_accept() -> None:
    """Neither the server nor the clients that are connected end with it."""

    async def admit(_: str, __: bool) -> bool:
        return False

    [listener] = (await anyio.create_tcp_listener(local_host="127.0.0.1")).listeners
    assert isinstance(listener, anyio.abc.SocketListener)
    failing = MultiListener([_SecondAcceptFails(listener)])
    port = failing.extra(anyio.abc.SocketAttribute.local_port)
    async with anyio.create_task_group() as children, await anyio.connect_tcp("127.0.0.1", port) as earlier:
        children.start_soon(serve_forward_proxy, failing, admit)
        assert (await _asked(port, "")).startswith(b"HTTP/1.1 407 ")
        assert (await _answered(earlier, "")).startswith(b"HTTP/1.1 407 ")
        children.cancel_scope.cancel()


async def test_a_run_whose_sites_names_are_slow_delays_no_other_runs_proxy() -> None:
    """Nor does an address that does not answer, if the site has another one."""

    async def admit(_: str, __: bool) -> bool:
        return True

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    with slow_names(site=["127.0.0.2", "127.0.0.1"]) as looked_up, socket.create_server(("127.0.0.1", 0)) as site:
        async with anyio.create_task_group() as children, AsyncExitStack() as stack:
            children.start_soon(serve_forward_proxy, listener, admit)
            for number in range(16):
                crawler = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
                await crawler.send(f"CONNECT slow-{number}:80 HTTP/1.1\r\n{_password('one')}\r\n".encode())
            await until_looked_up(looked_up, 1)
            other = await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
            await other.send(f"CONNECT site:{site.getsockname()[1]} HTTP/1.1\r\n{_password('another')}\r\n".encode())
            with anyio.fail_after(60):
                assert (await other.receive()).startswith(b"HTTP/1.1 200 ")
            children.cancel_scope.cancel()


def _password(text: str) -> str:
    return f"Proxy-Authorization: Basic {base64.b64encode(f'auto:{text}'.encode()).decode()}\r\n"


async def _asked(port: int, header: str) -> bytes:
    """Return what the proxy answers."""
    async with await anyio.connect_tcp("127.0.0.1", port) as client:
        return await _answered(client, header)


async def _answered(client: anyio.abc.SocketStream, header: str) -> bytes:
    answer = b""
    await client.send(f"CONNECT there:80 HTTP/1.1\r\n{header}\r\n".encode())
    while True:
        try:
            answer += await client.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return answer
