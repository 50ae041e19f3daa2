"""What an Actor finds: its environment, storages by alias, a port, a proxy."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from batchrun.server.content.demo_pages import open_demo_site
from batchrun.server.http import forward_proxy
from tests.support.server_api import Api, open_api

#: Variables that the platform documents for every Run. Source: its page on environment variables.
DOCUMENTED = {
    *("ACTOR_ID", "ACTOR_FULL_NAME", "ACTOR_RUN_ID", "ACTOR_BUILD_ID", "ACTOR_BUILD_NUMBER", "ACTOR_BUILD_TAGS"),
    *("ACTOR_DEFAULT_DATASET_ID", "ACTOR_DEFAULT_KEY_VALUE_STORE_ID", "ACTOR_DEFAULT_REQUEST_QUEUE_ID"),
    *("ACTOR_STORAGES_JSON", "ACTOR_INPUT_KEY", "ACTOR_MEMORY_MBYTES", "ACTOR_STARTED_AT", "ACTOR_TIMEOUT_AT"),
    *(
        "ACTOR_PERMISSION_LEVEL",
        "ACTOR_EVENTS_WEBSOCKET_URL",
        "ACTOR_WEB_SERVER_URL",
        "ACTOR_WEB_SERVER_PORT",
        "ACTOR_STANDBY_URL",
    ),
    *("APIFY_TOKEN", "APIFY_USER_ID", "APIFY_USER_IS_PAYING", "APIFY_IS_AT_HOME", "APIFY_DEDICATED_CPUS"),
    *("APIFY_API_BASE_URL", "APIFY_API_PUBLIC_BASE_URL", "APIFY_CLIENT_BASE_URL", "APIFY_META_ORIGIN"),
    *("APIFY_WORKFLOW_KEY", "APIFY_PROXY_HOSTNAME", "APIFY_PROXY_PORT", "APIFY_PROXY_PASSWORD"),
    "APIFY_PROXY_STATUS_URL",
}
#: Those of a task's Run with all options.
WITH_OPTIONS = DOCUMENTED | {"ACTOR_TASK_ID", "ACTOR_MAX_TOTAL_CHARGE_USD", "ACTOR_RESTART_ON_ERROR"}


def _write_actor(folder: Path, code: str, **definition: Any) -> None:
    (folder / ".actor").mkdir(parents=True)
    described = {"actorSpecification": 1, "name": folder.name, "version": "0.1", **definition}
    (folder / ".actor" / "actor.json").write_text(json.dumps(described))
    (folder / "__main__.py").write_text(code)


STORAGES = {
    "datasets": {"default": {}, "prices": {"actorSpecification": 1}},
    "keyValueStores": {"pictures": "./p.json"},
}
#: Shows its environment; then serves one request at its web server's address, and ends.
SHOWS = """
import http.server, json, os, urllib.request
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(os.environ["ACTOR_RUN_ID"].encode())
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", int(os.environ["ACTOR_WEB_SERVER_PORT"])), Handler)
url = f"{os.environ['APIFY_API_BASE_URL']}/v2/datasets/{os.environ['ACTOR_DEFAULT_DATASET_ID']}/items"
headers = {"Authorization": "Bearer " + os.environ["APIFY_TOKEN"], "Content-Type": "application/json"}
urllib.request.urlopen(urllib.request.Request(url, json.dumps([dict(os.environ)]).encode(), headers))
server.handle_request()
"""
#: Asks for a proxy as Actors do, and scrapes a page of the demo site through it, plainly and by a tunnel.
ASKS = """
import asyncio, os
import aiohttp
from apify import Actor
async def main():
    async with Actor:
        proxies = await Actor.create_proxy_configuration(groups=["RESIDENTIAL"], country_code="US")
        url = await proxies.new_url("one")
        demo = os.environ["APIFY_API_BASE_URL"] + "/demo/"
        async with aiohttp.ClientSession() as session:
            async with session.get(demo, proxy=url) as answer:
                await Actor.push_data({"status": answer.status, "length": len(await answer.read())})
            async with session.get("http://127.0.0.1:1/", proxy=url) as answer:
                await Actor.push_data({"status": answer.status})
            async with session.get(demo, proxy=url.replace(os.environ["APIFY_PROXY_PASSWORD"], "wrong")) as answer:
                await Actor.push_data({"status": answer.status})
        host, port = os.environ["APIFY_API_BASE_URL"].removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["APIFY_PROXY_PORT"]))
        credentials = aiohttp.BasicAuth("auto", os.environ["APIFY_PROXY_PASSWORD"]).encode()
        writer.write(f"CONNECT {host}:{port} HTTP/1.1\\r\\nProxy-Authorization: {credentials}\\r\\n\\r\\n".encode())
        assert b" 200 " in await reader.readuntil(b"\\r\\n\\r\\n")
        writer.write(b"GET /demo/ HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n")
        tunnelled = await reader.read()
        await Actor.push_data({"tunnelled": b"<html" in tunnelled})
asyncio.run(main())
"""
#: Asks for a proxy as the SDK does, without its second of imports.
ASKS_PLAINLY = """
import os, urllib.request
given = os.environ
url = "http://auto:{APIFY_PROXY_PASSWORD}@{APIFY_PROXY_HOSTNAME}:{APIFY_PROXY_PORT}".format_map(given)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": url}))
opener.open(given["APIFY_PROXY_STATUS_URL"] + "/?format=json").read()
"""
PUSHES = """
items = "{APIFY_API_BASE_URL}/v2/datasets/{ACTOR_DEFAULT_DATASET_ID}/items".format_map(given)
headers = {"Authorization": "Bearer " + given["APIFY_TOKEN"], "Content-Type": "application/json"}
urllib.request.urlopen(urllib.request.Request(items, b"{}", headers)).read()
"""


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A server with both Actors."""
    await anyio.to_thread.run_sync(lambda: _write_actor(tmp_path / "actors" / "shows", SHOWS, storages=STORAGES))
    await anyio.to_thread.run_sync(_write_actor, tmp_path / "actors" / "asks", ASKS)
    async with open_api(tmp_path / "server", actors=(tmp_path / "actors",), usage_settle_s=0) as api:
        yield api


async def _fetch(url: str) -> str:
    parts = url.removeprefix("http://").split(":")
    stream = await anyio.connect_tcp(parts[0], int(parts[1]))
    async with stream:
        await stream.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        with anyio.fail_after(60):
            async for part in stream:
                answer += part
    return answer.rpartition(b"\r\n\r\n")[2].decode()


async def test_a_run_finds_all_that_the_platform_documents(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable is set, that of a browser passed on; two Runs side by side are reached at their `containerUrl`."""
    monkeypatch.setenv("APIFY_DEFAULT_BROWSER_PATH", "/usr/bin/a-browser")
    task = await api.create_task("local/shows")
    options = {"maxTotalChargeUsd": 1, "restartOnError": "true", "timeout": 60}
    runs = [(await api.start(task, **options)).data for _ in range(2)]
    for run in runs:
        [found] = await api.items(run, 1)
        assert {name for name in WITH_OPTIONS if not found.get(name)} == set()
        assert found["APIFY_DEFAULT_BROWSER_PATH"] == "/usr/bin/a-browser"
        assert await _fetch(found["ACTOR_WEB_SERVER_URL"]) == run["id"]
        ended = await api.finish(run["id"])
        assert (ended["status"], ended["containerUrl"]) == ("SUCCEEDED", found["ACTOR_WEB_SERVER_URL"])
    assert runs[0]["containerUrl"] != runs[1]["containerUrl"]


async def test_storages_of_actor_json_are_there(api: Api) -> None:
    """Each alias is a storage of the Run, written to and deleted with it; the default ones are named too."""
    run = await api.run_actor("local~shows")
    [found] = await api.items(run, 1)
    ids = json.loads(found["ACTOR_STORAGES_JSON"])
    assert ids == run["storageIds"]
    assert {kind: sorted(aliases) for kind, aliases in ids.items()} == {
        "datasets": ["default", "prices"],
        "keyValueStores": ["default", "pictures"],
        "requestQueues": ["default"],
    }
    assert ids["datasets"]["default"] == run["defaultDatasetId"]
    prices = f"/v2/datasets/{ids['datasets']['prices']}"
    assert (await api.send("POST", f"{prices}/items", [{"price": 1}])).status == 201
    assert (await api.get(prices)).data["actRunId"] == run["id"]
    assert (await api.get(f"/v2/key-value-stores/{ids['keyValueStores']['pictures']}")).status == 200
    await _fetch(found["ACTOR_WEB_SERVER_URL"])
    assert (await api.finish(run["id"]))["usage"]["DATASET_WRITES"] == 2
    await api.send("DELETE", f"/v2/actor-runs/{run['id']}")
    assert (await api.get(prices)).status == 404


async def test_an_actor_that_asks_for_a_proxy_gets_one(api: Api) -> None:
    """The SDK accepts it; pages come through it; a site that is down has its status; the log says so."""
    run = await api.finish((await api.run_actor("local~asks"))["id"])
    log = (await api.get(f"/v2/logs/{run['id']}")).body.decode()
    assert run["status"] == "SUCCEEDED", log
    page, down, refused, tunnelled = await api.items(run)
    assert (page["status"], page["length"] > 100) == (200, True)
    assert (down, refused, tunnelled) == ({"status": 594}, {"status": 407}, {"tunnelled": True})
    assert log.count("it hides no address") == 1
    assert "access check timed out" not in log


async def test_an_actor_that_sends_nothing_through_its_proxy_does_not_look_well(api: Api, tmp_path: Path) -> None:
    """It succeeds, as on the platform; its message and its log say that the proxy was asked for in vain."""
    await anyio.to_thread.run_sync(_write_actor, tmp_path / "actors" / "in-vain", ASKS_PLAINLY)
    await api.server._backend.builds.look()
    run = await api.finish((await api.run_actor("local~in-vain"))["id"])
    log = (await api.get(f"/v2/logs/{run['id']}")).body.decode()
    assert run["status"] == "SUCCEEDED", log
    assert "sent nothing through it" in run["statusMessage"]
    assert "sent nothing through it" in log


@pytest.mark.parametrize(("pushes", "status"), [(False, "FAILED"), (True, "SUCCEEDED")])
async def test_an_actor_whose_client_misreads_the_proxys_url_fails(
    api: Api, tmp_path: Path, pushes: bool, status: str
) -> None:
    """Scrapy on http pages, by the line that it prints: FAILED with the reason, unless items came all the same."""
    printed = "print('ValueError: invalid hostname: ' + url.removeprefix('http://').rpartition(':')[0])\n"
    code = ASKS_PLAINLY + printed + (PUSHES if pushes else "")
    await anyio.to_thread.run_sync(_write_actor, tmp_path / "actors" / "misreads", code)
    await api.server._backend.builds.look()
    run = await api.finish((await api.run_actor("local~misreads"))["id"])
    assert (run["status"], "https:// pages or no proxy" in run["statusMessage"]) == (status, not pushes)


async def test_only_live_runs_go_out_through_the_proxy(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a live Run's id a request is refused, and what is no HTTP ends its connection alone, as do too many."""
    run = await api.run_actor("local~shows")
    [found] = await api.items(run, 1)
    proxy = ("127.0.0.1", int(found["APIFY_PROXY_PORT"]))
    credentials = base64.b64encode(f"auto:{run['id']}".encode())
    admitted = b"Proxy-Authorization: Basic " + credentials + b"\r\n\r\n"
    for sent, status in [
        (b"GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"407"),
        (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nProxy-Authorization: Basic ???\r\n\r\n", b"407"),
        (b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nProxy-Authorization: Basic \xff\r\n\r\n", b"407"),
        (b"CONNECT a\0b:1 HTTP/1.1\r\n" + admitted, b"593"),
        (b"CONNECT nowhere.invalid:443 HTTP/1.1\r\n" + admitted, b"593"),
        (b"CONNECT 127.0.0.1:99999 HTTP/1.1\r\n" + admitted, b"400"),
        (b"GET http://[::1/ HTTP/1.1\r\n" + admitted, b"400"),
        (b"GET ftp://127.0.0.1/ HTTP/1.1\r\n" + admitted, b"400"),
        (b"\x16\x03\x01\r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
    ]:
        stream = await anyio.connect_tcp(*proxy)
        async with stream:
            await stream.send(sent)
            assert (await stream.receive()).split(b" ")[1] == status
    stream = await anyio.connect_tcp(*proxy)
    async with stream:
        await stream.send(b"GET http://a/ HTTP/1.1\r\nX: " + b"x" * 70_000)
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()
    await _fetch(found["ACTOR_WEB_SERVER_URL"])
    monkeypatch.setattr(forward_proxy, "_MAX_CLIENTS", 1)
    async with await anyio.connect_tcp(*proxy) as first, await anyio.connect_tcp(*proxy) as second:
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await first.receive()
        await second.send(b"no HTTP\r\n\r\n")
        assert b" 400 " in await second.receive(), "the oldest one without a password makes room"
    assert (await api.finish(run["id"]))["status"] == "SUCCEEDED"


async def test_a_password_of_apify_proxy_is_passed_on(tmp_path: Path) -> None:
    """Actors then use Apify Proxy; the account that the server is for sees the password, another does not."""
    await anyio.to_thread.run_sync(lambda: _write_actor(tmp_path / "shows", SHOWS))
    async with open_api(tmp_path / "server", actors=(tmp_path / "shows",), proxy_password="real") as api:
        [found] = await api.items(await api.run_actor("local~shows"), 1)
        me = (await api.get("/v2/users/me")).data
    assert me["proxy"]["password"] == "real"
    assert {name: found[f"APIFY_PROXY_{name}"] for name in ("HOSTNAME", "PORT", "PASSWORD")} == {
        "HOSTNAME": "proxy.apify.com",
        "PORT": "8000",
        "PASSWORD": "real",
    }


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system does not show environments")
async def test_the_demo_site_runs_no_code_of_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may write to it, as to /tmp. Nor can an Actor read the server's environment from the site's process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APIFY_TOKEN", "of-the-user")
    for name in ("wave", "inspect", "pkgutil"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    async with open_demo_site() as site:
        assert b"Wave_read" in await site.page("wave.html")
        assert site._renderer is not None
        environ = await anyio.Path(f"/proc/{site._renderer.pid}/environ").read_bytes()
    assert (environ, (tmp_path / "run").exists()) == (b"", False)
