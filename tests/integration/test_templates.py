"""Actors in the shape of the platform's public templates, unmodified, each with its own packages, on the demo site."""

import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import pytest

from tests.support.command_line import batchrun
from tests.support.server_api import Api, open_api

TEMPLATES = Path(__file__).parents[1] / "support" / "templates"
#: Installing takes minutes: `make long` runs these.
pytestmark = pytest.mark.long


@pytest.fixture
def installed(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """A function that installs a template's packages, and returns its directory. Skips where that is impossible."""
    assert request.config.cache is not None
    kept = request.config.cache.mkdir("templates")

    def install(name: str) -> Path:
        if name.startswith(("js", "ts")) and not (shutil.which("node") and shutil.which("npm")):
            pytest.skip("Node and npm are not on this machine")
        shutil.copytree(TEMPLATES / name, kept / name, dirs_exist_ok=True)
        try:
            done = batchrun("actors", "install", name, cwd=kept)
        except subprocess.TimeoutExpired:
            pytest.skip(f"the packages of {name} were not installed in time")
        if done.code:
            pytest.skip(f"the packages of {name} cannot be installed: {done.err.strip().splitlines()[-1:]}")
        return kept / name

    return install


@pytest.fixture
async def api(tmp_path: Path, installed: Callable[[str], Path], request: pytest.FixtureRequest) -> AsyncIterator[Api]:
    """A server with the test's template."""
    folder = await anyio.to_thread.run_sync(partial(installed, request.param))
    async with open_api(tmp_path / "server", actors=(folder,)) as api:
        yield api


async def _run(api: Api, name: str, given: Any) -> tuple[Any, list[Any], str]:
    run = await api.finish((await api.run_actor(f"local~{name}", given))["id"])
    return run, await api.items(run), (await api.get(f"/v2/logs/{run['id']}")).body.decode()


@pytest.mark.parametrize(
    ("api", "name"), [(name, name) for name in ("python-start", "js-start", "ts-start")], indirect=["api"]
)
async def test_a_start_template_pushes_the_headings_of_a_page(api: Api, name: str) -> None:
    """The page is fetched, its heading is pushed."""
    run, items, log = await _run(api, name, {"url": f"{api.server.base_url}/demo/"})
    assert run["status"] == "SUCCEEDED", log
    assert items == [{"level": "h1", "text": "Python standard library: a site to scrape"}], log


CRAWLERS = ("python-beautifulsoup", "python-crawlee-parsel", "python-crawlee-beautifulsoup", "js-crawlee-cheerio")


@pytest.mark.parametrize(("api", "name"), [(name, name) for name in CRAWLERS], indirect=["api"])
async def test_a_crawler_follows_links_through_the_proxy(api: Api, name: str) -> None:
    """With `useApifyProxy`, as the templates' inputs have it; each page once, and the log says what the proxy is."""
    given = {"startUrls": [{"url": f"{api.server.base_url}/demo/"}], "proxyConfiguration": {"useApifyProxy": True}}
    run, items, log = await _run(api, name, given)
    assert run["status"] == "SUCCEEDED", log
    assert len({item["url"] for item in items}) == len(items) >= 10, log
    assert {"url": f"{api.server.base_url}/demo/", "title": "Python standard library: a site to scrape"} in items
    assert "it hides no address" in log


@pytest.mark.parametrize("api", ["python-scrapy"], indirect=True)
async def test_a_scrapy_spider_follows_links(api: Api) -> None:
    """Its scheduler is the Run's queue, its pipeline the Run's dataset."""
    given = {"startUrls": [{"url": f"{api.server.base_url}/demo/"}], "proxyConfiguration": {"useApifyProxy": False}}
    run, items, log = await _run(api, "python-scrapy", given)
    assert run["status"] == "SUCCEEDED", log
    assert len({item["url"] for item in items}) == len(items) >= 10, log


@pytest.mark.parametrize("api", ["python-scrapy"], indirect=True)
async def test_a_scrapy_spider_that_cannot_use_its_proxy_fails(api: Api) -> None:
    """Twisted takes the proxy's user and password for a part of its host's name: FAILED, with the reason."""
    given = {"startUrls": [{"url": f"{api.server.base_url}/demo/"}], "proxyConfiguration": {"useApifyProxy": True}}
    run, items, log = await _run(api, "python-scrapy", given)
    assert (run["status"], items) == ("FAILED", []), log
    assert "https:// pages or no proxy" in run["statusMessage"]


@pytest.mark.parametrize("api", ["js-crawlee-playwright"], indirect=True)
async def test_a_crawler_uses_the_browser_that_the_servers_environment_names(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chromium of the machine, headless, through the proxy."""
    if (browser := shutil.which("chromium")) is None:
        pytest.skip("Chromium is not on this machine")
    monkeypatch.setenv("APIFY_DEFAULT_BROWSER_PATH", browser)
    given = {"startUrls": [{"url": f"{api.server.base_url}/demo/"}], "proxyConfiguration": {"useApifyProxy": True}}
    run, items, log = await _run(api, "js-crawlee-playwright", given)
    assert run["status"] == "SUCCEEDED", log
    assert len({item["url"] for item in items}) == len(items) >= 3, log
    assert "it hides no address" in log


@pytest.mark.parametrize("api", ["js-express-server"], indirect=True)
async def test_a_web_server_is_reached_at_the_runs_own_address(api: Api) -> None:
    """Two Runs side by side, each at its `containerUrl`."""
    runs = [await api.run_actor("local~js-express-server") for _ in range(2)]
    async with aiohttp.ClientSession() as session:
        for run in runs:
            async with session.get(f"{api.server.base_url}/v2/logs/{run['id']}?stream=1") as log:
                with anyio.fail_after(60):
                    await log.content.readuntil(b"Listening at")
            async with session.get(run["containerUrl"]) as answer:
                assert await answer.text() == f"Hello from {run['id']}"
            async with session.post(f"{run['containerUrl']}/items", json={"n": 1}) as answer:
                assert answer.status == 200
        for run in runs:
            async with session.post(f"{run['containerUrl']}/stop") as answer:
                assert answer.status == 200
            ended = await api.finish(run["id"])
            assert (ended["status"], ended["statusMessage"]) == ("SUCCEEDED", "Served")
            assert await api.items(run) == [{"n": 1}]


def test_a_new_javascript_actor_works_once_its_packages_are_installed(tmp_path: Path) -> None:
    """`actors new --lang js`, `actors install`, `run --actors`, as its own lines say."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node and npm are not on this machine")
    assert batchrun("actors", "new", "greeter", "--lang", "js", cwd=tmp_path).code == 0
    installed = batchrun("actors", "install", "greeter", cwd=tmp_path)
    if installed.code:
        pytest.skip(f"npm cannot install packages: {installed.err.strip().splitlines()[-1:]}")
    done = batchrun("run", "--actors", "greeter", "--jobs", "greeter/example.jsonl", "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err
    assert '"greeting":"Hello, Grace!"' in (tmp_path / "out" / "items.jsonl").read_text()
