"""Certificate authorities that are loaded once https may be used: plain http pays nothing."""

import base64
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from aiohttp import web
from pydantic import SecretStr

from batchrun.apify.transport import open_transport
from batchrun.errors import ConnectFailed
from batchrun.notify.notification import Notification, Undelivered
from batchrun.notify.webhook_channel import WebhookChannel
from batchrun.runtime.certificate_authorities import loading_authorities, postponed_authorities
from batchrun.worker.worker_address import WorkerAddress
from batchrun.worker.worker_client import open_client
from tests.support.server_api import ACTORS, open_api

#: Imports aiohttp as commands do; prints how many authorities a context of ssl trusts, and then those of aiohttp that
#: verify and that do not, before and after they are needed.
LEAN_IMPORT = """
import ssl
import anyio
from batchrun.runtime.certificate_authorities import need_authorities
from batchrun.runtime.lean_imports import import_leanly
import_leanly()
from aiohttp import connector
contexts = (connector._SSL_CONTEXT_VERIFIED, connector._SSL_CONTEXT_UNVERIFIED)
print(len(ssl.create_default_context().get_ca_certs()))
for _ in range(2):
    print(*(len(context.get_ca_certs()) for context in contexts))
    anyio.run(need_authorities)
"""
#: Nobody listens there.
NOWHERE = "https://localhost:1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the certificate of an authority."""
    file = tmp_path_factory.mktemp("tls") / "authority.crt"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-subj", "/CN=an authority", "-days", "2", "-nodes"]
    subprocess.run([*command, "-keyout", "/dev/null", "-out", file], check=True, capture_output=True)
    return file


@pytest.fixture
def context(authority: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ssl.SSLContext]:
    """Return a context that verifies certificates and waits for its one authority."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    with postponed_authorities():
        context = ssl.create_default_context()
    assert _count(context) == 0
    yield context
    with loading_authorities(NOWHERE):
        pass  # none waits for the next test


def _count(context: ssl.SSLContext) -> int:
    return context.cert_store_stats()["x509_ca"]


def test_they_are_loaded_beside_other_work_if_the_address_is_https(context: ssl.SSLContext) -> None:
    """They are there when the work is done; plain http loads none."""
    with loading_authorities("http://127.0.0.1:8080"):
        pass
    assert _count(context) == 0
    with loading_authorities("HTTPS://api.apify.com"):
        pass
    assert _count(context) == 1


def test_aiohttp_is_imported_without_them_and_has_the_usual_ones_later() -> None:
    """Only the context that verifies certificates gets them; ssl is as it was."""
    done = subprocess.run([sys.executable, "-c", LEAN_IMPORT], capture_output=True, text=True, timeout=60, check=True)
    usual, *counts = done.stdout.split()
    assert counts == ["0", "0", usual, "0"]


async def test_the_api_over_https_has_them(context: ssl.SSLContext) -> None:
    """They are loaded before the first request."""
    async with open_transport("http://localhost:1", None, request_rate_per_s=1):
        assert _count(context) == 0
    async with open_transport(NOWHERE, None, request_rate_per_s=1):
        assert _count(context) == 1


@asynccontextmanager
async def _serving(**response: Any) -> AsyncIterator[str]:
    """Give the address of a server of plain http that has one answer."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(**response)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_a_redirect_to_https_has_them(context: ssl.SSLContext) -> None:
    """The address was plain http, and the server knows better."""
    async with (
        _serving(status=301, headers={"Location": NOWHERE}) as url,
        open_transport(url, None, request_rate_per_s=1) as transport,
    ):
        with pytest.raises(ConnectFailed):
            await transport.send("GET", "/users/me", lambda answer: answer.body)
    assert _count(context) == 1


async def test_a_log_that_may_be_redirected_to_https_has_them(context: ssl.SSLContext) -> None:
    """It is read in another way than the rest."""
    async with (
        _serving(text="a log\n") as url,
        open_transport(url, None, request_rate_per_s=1) as transport,
    ):
        await transport.read_tail("/logs/r", 100)
    assert _count(context) == 1


async def test_a_worker_over_the_network_has_them(context: ssl.SSLContext, tmp_path: Path) -> None:
    """Its socket needs none; an address of plain http may redirect to https."""
    async with open_client(WorkerAddress("http://localhost", socket=tmp_path / "s"), lambda _: None):
        assert _count(context) == 0
    async with open_client(WorkerAddress("http://localhost:1"), lambda _: None):
        assert _count(context) == 1


async def test_a_notification_has_them(context: ssl.SSLContext) -> None:
    """A webhook is called with them."""
    channel = WebhookChannel(SecretStr(NOWHERE), is_slack=False, signing_key=None, environ={})
    with pytest.raises(Undelivered):
        await channel.deliver(Notification(id="n-1", event="finished", text="it is over"))
    assert _count(context) == 1


async def test_a_webhook_of_the_embedded_server_has_them(context: ssl.SSLContext, tmp_path: Path) -> None:
    """A Run's webhook is called with them."""
    webhook = base64.b64encode(orjson.dumps([{"eventTypes": ["ACTOR.RUN.CREATED"], "requestUrl": NOWHERE}])).decode()
    async with open_api(tmp_path / "server", actors=(ACTORS,), allow_private_addresses=True) as api:
        await api.send("POST", "/v2/actors/test~echo/runs", {}, webhooks=webhook)
        with anyio.fail_after(60):
            while not any(each.get("calls") for each in (await api.get("/v2/webhook-dispatches")).data["items"]):
                pass
    assert _count(context) == 1
