"""The bundled Actors and the demo site."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from batchrun.server import DEMO_MODULES
from tests.support.server_api import Api, open_api


async def test_the_demo_site_has_pages_that_link_to_each_other(api: Api) -> None:
    """At least 110 modules on the index; each page has a title and headings, and leads only to pages that exist."""
    assert len(set(DEMO_MODULES)) == len(DEMO_MODULES) >= 110
    index = (await api.send("GET", "/demo/", token=None)).body.decode()
    assert all(f'href="/demo/{name}.html"' in index for name in DEMO_MODULES)
    page = (await api.send("GET", "/demo/json.html", token=None)).body.decode()
    assert "<title>Python: package json</title>" in page
    assert "<h1>" in page
    assert 'href="file:' not in page
    assert (await api.get("/demo/json.html")).body.decode() == page


async def test_the_demo_site_shows_nothing_of_its_users_machine(api: Api) -> None:
    """Neither where this Python is, in the user's home perhaps, nor what it runs with; constants of modules it does."""
    pages = {
        name: (await api.send("GET", f"/demo/{name}.html", token=None)).body.decode()
        for name in ("sys", "os", "platform", "json", "math")
    }
    own = [path for path in (sys.prefix, sys.base_prefix, *sys.path) if path[1:] and not path.startswith("/usr")]
    assert [(name, path) for name, page in pages.items() for path in own if path in page] == []
    assert "<strong>orig_argv</strong>" in pages["sys"]
    assert "3.14159" in pages["math"]


@pytest.mark.parametrize("name", ["os", "antigravity.html", "..%2fos.html", "json.html.html", "os.path", "%00.html"])
async def test_the_demo_site_serves_nothing_but_its_list(api: Api, name: str) -> None:
    """Any other name is no page, however it is spelled."""
    assert (await api.get(f"/demo/{name}")).error_type == "page-not-found"


async def test_the_scraper_follows_links_up_to_its_limit(api: Api) -> None:
    """One item per page, the start page first, each with its title, headings, links and figures."""
    task = await api.create_task("batchrun/page-scraper", name="pages")
    given = {"startUrls": [{"url": "/demo/"}], "maxRequestsPerCrawl": 4, "maxConcurrency": 1}
    run = await api.finish((await api.start(task, given)).data["id"])
    assert (run["status"], run["statusMessage"]) == ("SUCCEEDED", "4 page(s) scraped")
    items = await api.items(run)
    names = ["", *(f"{name}.html" for name in DEMO_MODULES[:3])]
    assert [item["url"] for item in items] == [f"{api.server.base_url}/demo/{name}" for name in names]
    assert [item["status"] for item in items] == [200] * 4
    assert items[0]["title"] == "Python standard library: a site to scrape"
    assert items[0]["headings"] == [{"level": 1, "text": "Python standard library: a site to scrape"}]
    assert items[0]["linkCount"] == len(DEMO_MODULES)
    assert items[1]["title"] == f"Python: module {DEMO_MODULES[0]}"
    assert items[1]["textLength"] > 1000
    assert items[1]["durationMs"] > 0


async def test_the_scraper_fails_when_its_start_page_does(api: Api) -> None:
    """FAILED with a message that names the page and the reason; also for a URL that leads nowhere."""
    task = await api.create_task("batchrun/page-scraper", name="pages")
    run = await api.finish((await api.start(task, {"startUrls": ["/demo/none.html"]})).data["id"])
    assert (run["status"], run["exitCode"]) == ("FAILED", 1)
    assert run["statusMessage"] == f"Start page failed: {api.server.base_url}/demo/none.html answered 404"
    run = await api.finish((await api.start(task, {"startUrls": ["ftp://127.0.0.1/x"]})).data["id"])
    assert "is not an http or https URL" in run["statusMessage"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_the_scraper_reaches_no_private_address(tmp_path: Path, host: str) -> None:
    """By default, whatever its name; the platform itself is reached, and the rest with a flag."""
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        return web.Response(text="<title>inside</title>", content_type="text/html")

    seen: list[tuple[str, str, list[str]]] = []
    async with web_site(answer) as port:
        given = {"startUrls": ["/demo/", f"http://{host}:{port}/"], "maxRequestsPerCrawl": 2, "maxConcurrency": 1}
        for is_allowed in (False, True):
            async with open_api(tmp_path / "server", allow_private_addresses=is_allowed) as api:
                run = await api.finish((await api.run_actor("batchrun~page-scraper", given))["id"])
                assert (await api.items(run))[0]["status"] == 200
                seen.append((run["status"], run["statusMessage"], list(asked)))
    assert (seen[0][0], seen[0][2]) == ("FAILED", [])
    assert "is not a public address" in seen[0][1]
    assert (seen[1][0], seen[1][2]) == ("SUCCEEDED", ["/"])


@pytest.mark.parametrize(
    ("host", "is_reached"),
    [
        ("127.0.0.2:8080", False),
        ("10.0.0.1:8080", False),
        ("10%2e0%2e0%2e1:8080", False),
        ("10.0.0.1.:8080", False),
        ("shop.invalid:8080", True),
        ("127.0.0.1:{proxy}", False),
    ],
)
async def test_the_scraper_reaches_no_private_address_through_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, is_reached: bool
) -> None:
    """This machine and its network may be open to the proxy; a name that only the proxy knows is not ours to judge."""
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.host)
        return web.Response(text="<title>inside</title>", content_type="text/html")

    async with web_site(answer) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        async with open_api(tmp_path / "server", allow_private_addresses=False) as api:
            given = {"startUrls": [f"http://{host.format(proxy=port)}/"]}
            run = await api.finish((await api.run_actor("batchrun~page-scraper", given))["id"])
    assert (run["status"], asked) == (("SUCCEEDED", [host.partition(":")[0]]) if is_reached else ("FAILED", []))
    assert is_reached or "is not " in run["statusMessage"]


async def test_the_scraper_follows_no_redirect_to_another_kind_of_address(tmp_path: Path) -> None:
    """To FTP, whose addresses nothing would check."""

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(status=302, headers={"Location": f"ftp://{request.host}/"})

    async with web_site(answer) as port, open_api(tmp_path / "server", allow_private_addresses=True) as api:
        given = {"startUrls": [f"http://127.0.0.1:{port}/"]}
        run = await api.finish((await api.run_actor("batchrun~page-scraper", given))["id"])
    assert (run["status"], "unknown url type: ftp" in run["statusMessage"]) == ("FAILED", True)


@pytest.mark.parametrize("path", ["/v2/acts/apify~hello-world/run-sync", "//v2/acts/apify~hello-world/run-sync"])
async def test_the_scraper_calls_no_api_of_its_server(api: Api, path: str) -> None:
    """A GET there can start a Run, whose webhook starts the scraper again, without end; nor by a page's redirect."""

    async def answer(_request: web.BaseRequest) -> web.Response:
        return web.Response(status=302, headers={"Location": url})

    url = f"{api.server.base_url}{path}?token={api.server.token}"
    async with web_site(answer) as port:
        for start in (url, f"http://127.0.0.1:{port}/"):
            run = await api.finish((await api.run_actor("batchrun~page-scraper", {"startUrls": [start]}))["id"])
            assert run["status"] == "FAILED"
            assert "is of the server's API; page-scraper is for pages" in run["statusMessage"]
    assert (await api.get("/v2/acts/apify~hello-world/runs")).data["total"] == 0


@asynccontextmanager
async def web_site(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    """Open a site on loopback; give its port."""
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def test_hello_world_takes_any_input(api: Api) -> None:
    """An object, text, nothing: it greets, stores an item and an output."""
    actor = "/v2/acts/apify~hello-world/run-sync"
    assert (await api.send("POST", actor, {"message": "hé"})).body == {"greeting": "hé", "input": {"message": "hé"}}
    assert (await api.send("POST", actor, raw=b"raw", headers={"Content-Type": "text/plain"})).body["input"] == "raw"
    assert (await api.send("POST", actor)).body == {"greeting": "Hello, world!", "input": None}
