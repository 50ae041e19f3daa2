"""Requests over kept-alive connections, against a server on loopback whose answers a test scripts."""

import gc
import gzip
import inspect
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import aiohttp
import anyio
import pytest
import yarl
from anyio.abc import SocketStream

from batchrun.apify import connections as module
from batchrun.apify.client import open_client
from batchrun.apify.connections import Answer, Connections, open_socket
from batchrun.errors import AnswerTooLarge, ConnectFailed, TransportError
from batchrun.model import Mark, RunId, RunOptions, TaskId

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
#: The server's answer to a request as bytes, and whether it keeps the connection.
Reply = tuple[bytes, bool]
TIMEOUT = aiohttp.ClientTimeout(sock_connect=5, sock_read=5)


class ScriptedServer:
    """Answers the n-th request (from 0) as the script says; notes each request and its connection."""

    def __init__(self, script: Callable[[int], Reply]) -> None:
        self._script = script
        self.requests: list[bytes] = []
        self.came_on: list[int] = []
        self._connections = 0
        self.port = 0
        #: Set when a connection has ended.
        self.has_ended = anyio.Event()
        #: While this is not set, only the first piece of a request is read.
        self.may_read = anyio.Event()
        self.may_read.set()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, stream: SocketStream) -> None:
        """Serve one connection."""
        number, self._connections = self._connections, self._connections + 1
        async with stream:
            keeps, received = True, bytearray()
            while keeps:
                try:
                    received += await stream.receive(1 << 20)
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    break
                await self.may_read.wait()
                if not _is_whole(received):
                    continue
                self.requests.append(bytes(received))
                self.came_on.append(number)
                received = bytearray()
                answer, keeps = self._script(len(self.requests) - 1)
                await stream.send(answer)
        self.has_ended.set()


def _is_whole(request: bytearray) -> bool:
    end = request.find(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", request[: max(0, end)])
    return end >= 0 and len(request) == end + 4 + (int(length[1]) if length else 0)


@asynccontextmanager
async def open_server(script: Callable[[int], Reply]) -> AsyncIterator[ScriptedServer]:
    """Serve on a free port."""
    server = ScriptedServer(script)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    server.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as children:
        children.start_soon(listener.serve, server.serve)
        yield server
        children.cancel_scope.cancel()


@asynccontextmanager
async def opened(script: Callable[[int], Reply]) -> AsyncIterator[tuple[ScriptedServer, Connections]]:
    """Open a server and a pool of connections to it."""
    connector = aiohttp.TCPConnector()
    async with open_server(script) as server, connector:
        with closing(Connections(connector, yarl.URL(server.url), {"Accept": "*/*"})) as connections:
            yield server, connections


async def get(connections: Connections) -> Answer:
    """Send a GET."""
    return await connections.send("GET", "/v2/x?y=1", timeout=TIMEOUT)


async def test_a_request_has_only_the_headers_that_http_needs() -> None:
    """Target, host, the given headers and the body's length are sent, each once."""
    async with opened(lambda _: (OK, True)) as (server, connections):
        await get(connections)
        await connections.send("POST", "/v2/x", timeout=TIMEOUT, headers={"Accept": "a/b", "X-Y": "z"}, body=b"{}")
        await connections.send("POST", "/v2/x", timeout=TIMEOUT)
    same = f"Host: 127.0.0.1:{server.port}\r\nAccept-Encoding: gzip, deflate, br\r\n".encode()
    assert server.requests == [
        b"GET /v2/x?y=1 HTTP/1.1\r\n" + same + b"Accept: */*\r\n\r\n",
        b"POST /v2/x HTTP/1.1\r\n" + same + b"Accept: a/b\r\nX-Y: z\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /v2/x HTTP/1.1\r\n" + same + b"Accept: */*\r\nContent-Length: 0\r\n\r\n",
    ]
    assert server.came_on == [0, 0, 0], "a connection is kept"


LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n"


@pytest.mark.parametrize("answer", [LONG, LONG[:50], CHUNKED], ids=["whole", "announced", "chunked"])
async def test_a_body_that_does_not_fit_is_given_up(answer: bytes) -> None:
    """Its reader is asked with the size that has come or is announced; the connection is not used again."""
    asked: list[int] = []

    def fits(size: int, _: int = 0) -> bool:
        asked.append(size)
        return size < 1000

    async with opened(lambda nth: (OK if nth else answer, True)) as (server, connections):
        with pytest.raises(AnswerTooLarge, match="1,000 bytes"):
            await connections.send("GET", "/v2/x", timeout=TIMEOUT, fits=fits)
        assert (await connections.send("GET", "/v2/x", timeout=TIMEOUT, fits=fits)).body == b"ok"
    assert asked == [1000, 2]
    assert server.came_on == [0, 1]


@pytest.mark.parametrize("pieces", [1, 50])
async def test_a_body_is_decompressed_no_further_than_it_fits(pieces: int) -> None:
    """A few KB on the wire may be gigabytes: what does not fit is found while it grows, whatever has come with it."""
    packed = gzip.compress(b"x" * 70_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    cut = len(packed) // pieces
    answer = head + packed[:cut]
    async with opened(lambda _: (answer, True)) as (_, connections):
        with pytest.raises(AnswerTooLarge) as refused:
            await connections.send("GET", "/v2/x", timeout=TIMEOUT, fits=lambda size, _=0: size < 1_000_000)
    assert refused.value.size < 8_000_000


async def test_headers_without_an_end_are_given_up() -> None:
    """There may be thousands of them; interim answers count as well."""
    endless = b"HTTP/1.1 103 Early Hints\r\nLink: %s\r\n\r\n" % (b"x" * 20_000) * 20
    async with opened(lambda _: (endless, True)) as (_, connections):
        with pytest.raises(aiohttp.ClientPayloadError, match="its headers have more than 262,144 bytes"):
            await get(connections)


async def test_an_answer_that_is_larger_than_the_apis_is_not_the_apis() -> None:
    """The request and what to look at are named; of a start it is unknown whether a Run was started."""
    body = b'{"data":{"id":"r","pad":"%s"}}' % (b"x" * (1 << 20))
    answer = b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    async with (
        open_server(lambda _: (answer, True)) as server,
        open_client(server.url, None, request_rate_per_s=1000) as client,
    ):
        with pytest.raises(TransportError) as error:
            await client.start_run(TaskId("t"), b"{}", RunOptions(), Mark("m"))
        assert client.last_failure == str(error.value)
    assert str(error.value) == (
        "POST /actor-tasks/t/runs: an answer of more than 1,048,576 bytes, which is not from the API; is api.base_url"
        f" {server.url} right?"
    )


async def test_an_answer_is_held_by_its_reader_alone() -> None:
    """A body of 100 MB is freed once it is parsed; the loop holds a future for as long as its waiter runs."""
    async with opened(lambda _: (OK, True)) as (_, connections):
        answer = await get(connections)
        holders = [each for each in gc.get_referrers(answer) if not inspect.isframe(each)]
    assert [type(each) for each in holders if not inspect.iscoroutine(each)] == []


async def test_a_header_with_a_line_break_is_refused() -> None:
    """Nothing is sent."""
    async with opened(lambda _: (OK, True)) as (server, connections):
        with pytest.raises(ValueError, match="header"):
            await connections.send("GET", "/", timeout=TIMEOUT, headers={"X": "a\r\nAuthorization: b"})
    assert server.requests == []


@pytest.mark.parametrize(
    ("answer", "keeps", "body"),
    [
        (OK, True, b"ok"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", True, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True, b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, True, b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nok", False, b"ok"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 10_000_000, True, b"x" * 10_000_000),
    ],
    ids=["length", "chunked", "no-content", "empty", "interim", "until-close", "large"],
)
async def test_every_way_to_end_a_body_is_read(answer: bytes, keeps: bool, body: bytes) -> None:
    """The body is whole; the connection is used again if the server keeps it, and only then."""
    async with opened(lambda _: (answer, keeps)) as (server, connections):
        assert (await get(connections)).body == body
        assert (await get(connections)).body == body
    assert server.came_on == ([0, 0] if keeps else [0, 1])


async def test_a_compressed_body_is_read() -> None:
    """Also a body that is far larger than what was sent."""
    body = b"x" * 5_000_000
    packed = gzip.compress(body)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    async with opened(lambda _: (head + packed, True)) as (_, connections):
        assert (await get(connections)).body == body
        assert (await get(connections)).body == body


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Security-Policy: " + b"https://a.example.com " * 420 + b"\r\n",
        b"X-Policy: " + b"x" * 40_000 + b"\r\n",
        b"".join(b"Set-Cookie: c%d=%s\r\n" % (n, b"v" * 300) for n in range(60)),
        b"".join(b"X-%d: v\r\n" % n for n in range(200)),
    ],
    ids=["9 KB", "40 KB", "60 cookies", "200 headers"],
)
async def test_large_and_many_headers_are_read(headers: bytes) -> None:
    """Company proxies and content networks add them to every answer; by the session too, for a streamed one."""
    answer = b"HTTP/1.1 200 OK\r\n" + headers + b"Content-Length: 2\r\n\r\nok"
    async with opened(lambda _: (answer, True)) as (server, connections):
        assert (await get(connections)).body == b"ok"
        async with open_client(server.url, None, request_rate_per_s=1000) as client:
            assert await client.get_log_tail(RunId("r"), 100) == b"ok"


async def test_headers_are_read_in_any_case() -> None:
    """The names of HTTP headers are case-insensitive."""
    answer = b"HTTP/1.1 429 Too Many\r\nx-RATELIMIT-limit: 60\r\nContent-Length: 0\r\n\r\n"
    async with opened(lambda _: (answer, True)) as (_, connections):
        found = await get(connections)
    assert (found.status, found.headers.get("X-RateLimit-Limit")) == (429, "60")


async def test_connection_close_is_obeyed() -> None:
    """The connection is not used again, even if the server has not closed it yet."""
    answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
    async with opened(lambda _: (answer, True)) as (server, connections):
        await get(connections)
        await get(connections)
    assert server.came_on == [0, 1]


async def test_a_get_on_a_closed_idle_connection_is_retried_at_once() -> None:
    """A server may close an idle connection at any time; the GET goes out once more on a new connection."""
    async with opened(lambda n: (b"", False) if n == 1 else (OK, True)) as (server, connections):
        await get(connections)
        assert (await get(connections)).body == b"ok"
    assert server.came_on == [0, 0, 1]


async def test_a_get_on_a_new_connection_is_sent_once() -> None:
    """If the server closes a new connection without an answer, the request fails."""
    async with opened(lambda _: (b"", False)) as (server, connections):
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await get(connections)
    assert len(server.requests) == 1


async def test_a_post_is_never_sent_twice() -> None:
    """If the server closes an idle connection instead of answering, a POST on it fails."""
    async with opened(lambda n: (b"", False) if n == 1 else (OK, True)) as (server, connections):
        await get(connections)
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await connections.send("POST", "/", timeout=TIMEOUT, body=b"{}")
        await get(connections)
    assert server.came_on == [0, 0, 1]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200",
    ],
    ids=["short", "chunks-missing", "not-gzip", "not-http", "half-a-head"],
)
async def test_a_broken_answer_is_an_error(answer: bytes) -> None:
    """Nothing that is cut off or garbled is taken for an answer."""
    async with opened(lambda _: (answer, False)) as (_, connections):
        with pytest.raises(aiohttp.ClientError):
            await get(connections)


async def test_a_second_answer_to_one_request_is_dropped() -> None:
    """The request fails, its connection is closed, and the next request gets its own answer."""
    async with opened(lambda n: (OK + OK if n == 0 else OK.replace(b"ok", b"42"), True)) as (server, connections):
        with pytest.raises(aiohttp.ClientPayloadError):
            await get(connections)
        assert (await get(connections)).body == b"42"
    assert server.came_on == [0, 1]


async def test_the_answer_to_a_cancelled_request_is_dropped() -> None:
    """The next request does not get the answer that the cancelled one waited for."""
    async with opened(lambda n: (b"" if n == 0 else OK, True)) as (server, connections):
        async with anyio.create_task_group() as children:
            children.start_soon(get, connections)
            while not server.requests:
                await anyio.lowlevel.checkpoint()
            children.cancel_scope.cancel()
        assert (await get(connections)).body == b"ok"
    assert server.came_on == [0, 1]


async def test_a_request_fails_if_the_server_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `sock_read` without a byte the request fails; its connection is not used again."""
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.01)
    timeout = aiohttp.ClientTimeout(sock_connect=5, sock_read=0.01)
    async with opened(lambda n: (b"" if n == 0 else OK, True)) as (server, connections):
        with pytest.raises(aiohttp.SocketTimeoutError):
            await connections.send("GET", "/", timeout=timeout)
        assert (await get(connections)).body == b"ok"
    assert server.came_on == [0, 1]


async def test_a_server_that_is_slow_to_read_is_not_silent() -> None:
    """A server cannot answer while a large body is on its way: silence is counted from the end of the body."""
    async with opened(lambda _: (OK, True)) as (server, connections), anyio.create_task_group() as children:
        server.may_read = anyio.Event()

        async def read_after_a_while() -> None:
            while not connections._open:
                await anyio.lowlevel.checkpoint()
            for connection in connections._open:
                connection.check_silence(anyio.current_time() + 1000)
            server.may_read.set()

        children.start_soon(read_after_a_while)
        answer = await connections.send("POST", "/", timeout=TIMEOUT, body=b"x" * 16_000_000)
    assert answer.body == b"ok"
    assert len(server.requests[0]) > 16_000_000


async def test_idle_connections_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that was idle for `MAX_IDLE_S` is closed, and not used again."""
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(module, "MAX_IDLE_S", 0.0)
    async with opened(lambda _: (OK, True)) as (server, connections):
        await get(connections)
        with anyio.fail_after(60):
            await server.has_ended.wait()
        await get(connections)
    assert server.came_on == [0, 1]


async def test_the_most_recently_used_connection_is_taken() -> None:
    """Connections that were opened for a burst stay idle, so that they are closed."""
    async with opened(lambda _: (OK, True)) as (server, connections):
        async with anyio.create_task_group() as children:
            for _ in range(3):
                children.start_soon(get, connections)
        for _ in range(5):
            await get(connections)
    assert sorted(server.came_on[:3]) == [0, 1, 2]
    assert len(set(server.came_on[3:])) == 1


async def test_a_redirected_read_is_followed_and_a_redirected_start_is_not() -> None:
    """A redirected start fails: it would be sent a second time."""
    async with open_server(
        lambda _: (b'HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{"data":{"id":"t"}}', True)
    ) as target:
        away = f"HTTP/1.1 307 Away\r\nLocation: {target.url}/there\r\nContent-Length: 0\r\n\r\n".encode()
        async with (
            open_server(lambda _: (away, True)) as server,
            open_client(server.url, None, request_rate_per_s=1000) as client,
        ):
            assert await client.get_task(TaskId("t")) == {"id": "t"}
            with pytest.raises(Exception, match="307"):
                await client.start_run(TaskId("t"), b"{}", RunOptions(), Mark("m"))
    assert [request.split(b" ")[:2] for request in target.requests] == [[b"GET", b"/there"]]


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux bounds how long probes may fail")
def test_the_kernel_probes_silent_connections() -> None:
    """A poll sends nothing for a minute: a network that swallows packets is noticed before its timeout."""
    with open_socket((socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", 1))) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle_s = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        dead_after_ms = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert idle_s + dead_after_ms / 1000 <= 40


async def test_a_failed_connect_is_a_class_apart() -> None:
    """Without a connection nothing was started; after a broken one that is unknown."""
    async with (
        open_server(lambda _: (b"", False)) as server,
        open_client(server.url, None, request_rate_per_s=1000) as client,
    ):
        with pytest.raises(TransportError) as broken:
            await client.start_run(TaskId("t"), b"{}", RunOptions(), Mark("m"))
        assert not isinstance(broken.value, ConnectFailed)
    async with open_client(server.url, None, request_rate_per_s=1000) as client:
        with pytest.raises(ConnectFailed, match=r"^no connection to 127\.0\.0\.1: Connection refused$"):
            await client.start_run(TaskId("t"), b"{}", RunOptions(), Mark("m"))


async def test_a_start_is_not_sent_if_its_time_passed_while_a_connection_was_opened() -> None:
    """This process may be frozen there, and overtaken. The connection stays for the next request."""
    run = b'{"data":{"id":"r","status":"RUNNING","startedAt":"2026-01-01T00:00:00.000Z"}}'
    answer = b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(run), run)
    async with (
        open_server(lambda _: (answer, True)) as server,
        open_client(server.url, None, request_rate_per_s=1000) as client,
    ):
        with pytest.raises(ConnectFailed, match="the time to send the request has passed"):
            await client.start_run(TaskId("t"), b"{}", RunOptions(), Mark("late"), lambda: False)
        assert server.requests == []
        await client.start_run(TaskId("t"), b"{}", RunOptions(), Mark("m"), lambda: True)
    assert [b"(m)" in request for request in server.requests] == [True]


async def test_each_start_sends_its_own_options() -> None:
    """Whatever the one before it has sent, and also if two starts have one object."""
    run = b'{"data":{"id":"r","status":"RUNNING","startedAt":"2026-01-01T00:00:00.000Z"}}'
    answer = b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%b" % (len(run), run)
    of_batch = RunOptions(memory_mb=512)
    async with (
        open_server(lambda _: (answer, True)) as server,
        open_client(server.url, None, request_rate_per_s=1000) as client,
    ):
        for options in (of_batch, of_batch, RunOptions(timeout_s=9), of_batch, RunOptions()):
            await client.start_run(TaskId("t"), b"{}", options, Mark("m"))
    queries = [re.search(rb"/runs\?(\S+)", request) for request in server.requests]
    own = [b"memory=512&", b"memory=512&", b"timeout=9&", b"memory=512&", b""]
    assert [found and found[1] for found in queries] == [each + b"waitForFinish=0" for each in own]


async def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy gets the request with the whole address."""
    run = b'{"data":{"id":"r","status":"SUCCEEDED","startedAt":"2026-01-01T00:00:00.000Z"}}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(run), run)
    async with open_server(lambda _: (answer, True)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        async with open_client("http://api.invalid", None, request_rate_per_s=1000) as client:
            await client.get_run(RunId("r"))
    assert proxy.requests[0].startswith(b"GET http://api.invalid/v2/actor-runs/r HTTP/1.1\r\n")


async def test_an_unreachable_proxy_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error does not blame the platform."""
    async with open_server(lambda _: (b"", False)) as proxy:
        pass
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    message = f"no connection to api.invalid: the proxy {proxy.url.removeprefix('http://')}: Connection refused"
    async with open_client("http://api.invalid", None, request_rate_per_s=1000) as client:
        with pytest.raises(ConnectFailed, match=f"^{re.escape(message)}$"):
            await client.start_run(TaskId("t"), b"{}", RunOptions(), Mark("m"))
