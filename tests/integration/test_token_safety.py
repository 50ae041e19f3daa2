"""The token goes to the API alone, by proxies and redirects too; and what a person reads when TLS or a proxy fails."""

import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import yarl
from aiohttp import web
from pydantic import SecretStr

from batchrun.apify import transport
from batchrun.apify.client import ApifyClient, open_client
from batchrun.apify.redirects import NearbySockets, redirect_of
from batchrun.errors import ApiError, ConfigError, ConnectFailed, ForeignAnswer, TransportError
from batchrun.model import Mark, RunId, RunOptions, TaskId
from batchrun.policy.retry import Backoff
from tests.integration.test_connections import open_server
from tests.support.command_line import batchrun

TOKEN = "apify_api_secret"
RUN = b'{"data":{"id":"r","status":"SUCCEEDED","startedAt":"2026-01-01T00:00:00.000Z"}}'
READ_RUN = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(RUN), RUN)


@asynccontextmanager
async def opened(url: str, *, allow_plain_http: bool = False) -> AsyncIterator[ApifyClient]:
    """Open a client with a token."""
    async with open_client(url, SecretStr(TOKEN), request_rate_per_s=1000, allow_plain_http=allow_plain_http) as client:
        yield client


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(transport, "READ_BACKOFF", Backoff(first_s=0.01, max_s=0.01))


async def start(client: ApifyClient) -> None:
    """Start a Run."""
    await client.start_run(TaskId("t"), b"{}", RunOptions(), Mark("m"))


@pytest.mark.parametrize("user", ["", "me:p%40ss@"])
async def test_a_proxy_is_asked_for_a_tunnel_and_told_no_token(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    """CONNECT names host and port; the proxy's own password goes to the proxy and into no message."""
    async with open_server(lambda _: (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", False)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://", f"http://{user}"))
        async with opened("https://api.example") as client:
            with pytest.raises(ConnectFailed) as caught:
                await start(client)
    (request,) = proxy.requests
    assert request.startswith(b"CONNECT api.example:443 HTTP/1.1\r\n")
    assert (b"Proxy-Authorization: Basic bWU6cEBzcw==" in request) is bool(user)
    assert TOKEN.encode() not in request
    assert str(caught.value) == ("no connection to api.example: the proxy does not connect to it: 502 Bad Gateway")


async def test_a_proxy_that_wants_a_password_ends_the_first_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No retry mends it; the message says where to write the password, and does not show the one that failed."""
    answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    async with open_server(lambda _: (answer, False)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://", "http://me:wrong@"))
        async with opened("https://api.example") as client:
            with pytest.raises(ConnectFailed, match=r"\(407\); write them into HTTPS_PROXY") as caught:
                await client.get_account()
    assert len(proxy.requests) == 1
    assert "wrong" not in str(caught.value)


async def test_an_unreachable_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Host and port only."""
    async with open_server(lambda _: (b"", False)) as proxy:
        pass
    monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://", "http://me:secret@"))
    async with opened("https://api.example") as client:
        with pytest.raises(ConnectFailed) as caught:
            await start(client)
    where = proxy.url.removeprefix("http://")
    assert str(caught.value) == f"no connection to api.example: the proxy {where}: Connection refused"


@pytest.mark.parametrize("answer", [b"\x15\x03\x01\x00\x02\x02\x50", b"SSH-2.0-OpenSSH\r\n\r\n"])
async def test_a_proxy_that_speaks_no_http_is_told_of_without_its_password(
    monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    """As one that wants TLS itself, or the port of another service."""
    async with open_server(lambda _: (answer, False)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("http://", "http://me:wrong@"))
        async with opened("https://api.example") as client:
            with pytest.raises(TransportError) as caught:
                await start(client)
    assert "400" in str(caught.value)
    assert "wrong" not in f"{caught.value}"


def _same(answer: tuple[bytes, bool], _: bytes) -> tuple[bytes, bool]:
    return answer


async def test_a_token_that_an_answer_repeats_is_in_no_message() -> None:
    """Gateways show the headers that they refuse, in the API's form or in one of their own."""
    told: list[str] = []
    body = b'{"error": {"type": "refused", "message": "sent: Bearer %b"}}'
    for said in (body, b"<html><title>Bearer %b</title>", b"Bearer %b"):
        text = said % TOKEN.encode()
        answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
        async with open_server(partial(_same, (answer, True))) as server, opened(server.url) as client:
            with pytest.raises((ApiError, ForeignAnswer)) as caught:
                await start(client)
            told.append(str(caught.value))
    assert ["***" in each for each in told] == [True] * 3
    assert not any(TOKEN in each for each in told)


async def test_a_log_is_read_without_the_token() -> None:
    """An Actor may print its environment."""
    text = b"APIFY_TOKEN=%b\n" % TOKEN.encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
    async with open_server(lambda _: (answer, False)) as server, opened(server.url) as client:
        assert await client.get_log_tail(RunId("r"), 1000) == b"APIFY_TOKEN=***\n"


async def test_what_an_actor_says_is_read_without_the_token() -> None:
    """The platform may give Runs the user's own, and the URL that failed has it."""
    said = f'"id": "r", "status": "FAILED", "statusMessage": "GET https://example.com/?token={TOKEN}: 404"'
    run = f'{{"data": {{{said}, "items": [{{{said}}}], "total": 1}}}}'.encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(run), run)
    async with open_server(lambda _: (answer, True)) as server, opened(server.url) as client:
        listed = await client.list_task_runs(TaskId("t"))
        started = await client.start_run(TaskId("t"), b"{}", RunOptions(), Mark("m"))
        for each in (started, await client.get_run(RunId("r")), listed.runs[RunId("r")]):
            assert each.fields["statusMessage"] == "GET https://example.com/?token=***: 404"


async def test_this_machine_is_reached_in_spite_of_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy is not asked."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    async with open_server(lambda _: (READ_RUN, True)) as server, opened(server.url) as client:
        assert (await client.get_run(RunId("r"))).id == "r"


async def test_a_token_is_not_sent_over_plain_http_to_another_machine() -> None:
    """Unless the configuration says so; this machine is no other one."""
    with pytest.raises(ConfigError, match=r"api\.base_url: http://api\.example is plain http.*allow_plain_http"):
        async with opened("http://api.example"):
            pass
    async with opened("http://api.example", allow_plain_http=True):
        pass
    async with open_client("http://api.example", None, request_rate_per_s=1):
        pass


async def test_a_name_under_localhost_is_this_machines_whatever_a_name_server_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The token goes there by plain HTTP; `serve` prints such names, and where they are pasted they may be unknown."""
    asked: list[object] = []

    def other_machine(host: object, *_: object, **__: object) -> list[object]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.2", 80))]

    async with open_server(lambda _: (READ_RUN, True)) as server:
        monkeypatch.setattr(socket, "getaddrinfo", other_machine)
        async with opened(server.url.replace("127.0.0.1", "abcd.localhost")) as client:
            assert (await client.get_run(RunId("r"))).id == "r"
    assert asked == []


async def test_a_redirect_to_another_server_carries_no_token() -> None:
    """A read follows it, and its answer counts if the API can be read there without a token."""
    async with open_server(lambda _: (READ_RUN, True)) as other:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {other.url}/x?signed=1\r\nContent-Length: 0\r\n\r\n".encode()
        async with open_server(lambda _: (moved, True)) as server, opened(server.url) as client:
            assert (await client.get_run(RunId("r"))).id == "r"
    assert all(TOKEN.encode() in request for request in server.requests)
    assert [TOKEN.encode() in request for request in other.requests] == [False]


def test_a_redirect_leads_from_https_to_https_only() -> None:
    """Nobody on the way can choose what is read; a password in it goes nowhere."""
    secure, plain = yarl.URL("https://api.example/v2/x"), yarl.URL("http://127.0.0.1:1/v2/x")
    for url, location, expected in (
        (secure, "https://s3.example/k?signed=1#f", "https://s3.example/k?signed=1"),
        (secure, "/v2/y", "https://api.example/v2/y"),
        (secure, "https://me:pass@s3.example/", "https://s3.example/"),
        (secure, "http://s3.example/", "None"),
        (secure, "//[", "None"),
        (plain, "https://s3.example/", "https://s3.example/"),
        (plain, "http://s3.example/", "http://s3.example/"),
        (plain, "ftp://s3.example/", "None"),
        (plain, "file:///etc/passwd", "None"),
    ):
        assert str(redirect_of(url, 302, {"Location": location})) == expected
    assert redirect_of(plain, 200, {"Location": "/"}) is None


def test_a_platform_of_the_internet_leads_to_no_private_address() -> None:
    """By plain http; one on this machine, or in a private network, may redirect there."""
    there, here = ("198.41.0.4", 80), ("127.0.0.1", 80)

    def opened(sockets: NearbySockets, address: tuple[str, int]) -> bool:
        with suppress(OSError), sockets.open_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", address)):
            return True
        return False

    for first, later, expected in ((there, here, False), (there, there, True), (here, here, True), (here, there, True)):
        sockets = NearbySockets()
        assert opened(sockets, first)
        assert opened(sockets, later) is expected


async def test_redirects_without_an_end_are_given_up() -> None:
    """The message says that it is a redirect."""
    moved = b"HTTP/1.1 302 Found\r\nLocation: /v2/again\r\nContent-Length: 0\r\n\r\n"
    async with open_server(lambda _: (moved, True)) as server, opened(server.url) as client:
        with anyio.move_on_after(0.5):
            await client.get_account()
    assert "status 302: a redirect to another page of the same host" in (client.last_failure or "")


async def test_headers_behind_a_redirect_are_bounded() -> None:
    """Those of the other server too: a thousand reads may wait for answers at once."""
    endless = b"HTTP/1.1 200 OK\r\n" + b"X: %s\r\n" % (b"x" * 20_000) * 20
    async with open_server(lambda _: (endless, True)) as other:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {other.url}/x\r\nContent-Length: 0\r\n\r\n".encode()
        async with open_server(lambda _: (moved, True)) as server, opened(server.url) as client:
            with anyio.move_on_after(0.5):
                await client.get_account()
    assert "its headers have more than 262,144 bytes" in (client.last_failure or "")


async def test_a_start_is_never_redirected() -> None:
    """Its effect is unknown; the other server sees nothing."""
    async with open_server(lambda _: (READ_RUN, True)) as other:
        moved = f"HTTP/1.1 308 Moved\r\nLocation: {other.url}/x\r\nContent-Length: 0\r\n\r\n".encode()
        async with open_server(lambda _: (moved, True)) as server, opened(server.url) as client:
            with pytest.raises(ForeignAnswer, match=f"a redirect to {other.url} "):
                await start(client)
    assert other.requests == []


async def test_a_refusal_behind_a_redirect_says_nothing_about_the_token() -> None:
    """The other server was told no token, and misses it: the message names the redirect."""
    body = b'{"error":{"type":"token-not-provided","message":"m"}}'
    refusal = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with open_server(lambda _: (refusal, True)) as other:
        moved = f"HTTP/1.1 308 Moved\r\nLocation: {other.url}/x\r\nContent-Length: 0\r\n\r\n".encode()
        async with open_server(lambda _: (moved, True)) as server, opened(server.url) as client:
            with anyio.move_on_after(0.5):
                await client.get_account()
    words = f"a redirect to {other.url} (if the API is there, set api.base_url to it), which answers with status 401"
    assert client.last_failure == f"GET /users/me: {words}"


@asynccontextmanager
async def _open_web_server(certificate: Path | None = None) -> AsyncIterator[int]:
    """Serve on a free port, with TLS if there is a certificate; give the port."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        await anyio.to_thread.run_sync(context.load_cert_chain, certificate)
    runner = web.ServerRunner(web.Server(_read_run))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _read_run(_: web.BaseRequest) -> web.Response:
    return web.Response(body=RUN)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate for `localhost` that nothing vouches for."""
    file = tmp_path_factory.mktemp("tls") / "pair.pem"
    part = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2", "-nodes"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *part, "-keyout", str(file), "-out", f"{file}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


@pytest.mark.parametrize(
    ("file", "step"),
    [
        ("", "set SSL_CERT_FILE to a file with that CA's certificate"),
        ("/none.pem", "/none.pem (SSL_CERT_FILE) must exist and hold that CA's certificate"),
    ],
)
async def test_a_certificate_that_is_not_accepted_ends_the_first_read_at_once(
    certificate: Path, file: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No retry mends it; the message names the next step."""
    monkeypatch.setenv("SSL_CERT_FILE", file)
    async with _open_web_server(certificate) as port, opened(f"https://localhost:{port}") as client:
        with anyio.fail_after(60), pytest.raises(ConnectFailed) as caught:
            await client.get_account()
    reason = "its certificate is not accepted (self-signed certificate)"
    assert str(caught.value) == f"no connection to localhost: {reason}; if a private CA has signed it, {step}"


async def test_a_server_without_tls_ends_the_first_read_at_once() -> None:
    """The address is wrong, and stays so."""
    async with _open_web_server() as port, opened(f"https://localhost:{port}") as client:
        with anyio.fail_after(60), pytest.raises(ConnectFailed, match=r"TLS failed .* begins with http://"):
            await client.get_account()


async def test_what_fails_later_is_an_outage() -> None:
    """Once the API has answered, a certificate that is not accepted is retried: it may be a login page's."""
    async with open_server(lambda _: (READ_RUN, True)) as server, opened(server.url) as client:
        await client.get_run(RunId("r"))
        error = ConnectFailed("a certificate", is_lasting=True)
        await client._transport._back_off("GET", "/x", 1, error)


def test_a_command_says_within_a_second_what_it_waits_for(tmp_path: Path) -> None:
    """A server that takes the connection and says nothing: the first line does not wait for it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (tmp_path / "jobs.jsonl").write_text('{"n": 1}\n')
        command = ["run", "--task", "t", "--jobs", "jobs.jsonl", "--api-url", url]
        module = "batchrun.account.connect"
        soon = {f"{module}.PATIENCE_S": 1.0, f"{module}.FIRST_WAIT_NOTED_AFTER_S": 0.1}
        said = batchrun(*command, cwd=tmp_path, constants=soon)
    assert said.err.startswith(f"Connecting to {url} (no answer yet)\nbatchrun: {url} does not answer")
