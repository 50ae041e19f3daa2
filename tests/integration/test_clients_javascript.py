"""The official JavaScript client, SDK and crawler, unmodified, in pinned versions from npm."""

import shutil
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import orjson
import pytest

from batchrun.server import InlineContext
from tests.support.command_line import batchrun, embedded_batch
from tests.support.json_lines import read_lines
from tests.support.npm_packages import install_packages
from tests.support.server_api import ACTORS, Api, open_api

JAVASCRIPT = Path(__file__).parents[1] / "support" / "javascript"


@pytest.fixture(scope="session")
def packages(request: pytest.FixtureRequest) -> Path:
    """A directory with the scripts, the Actors and their packages, kept between test runs."""
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("javascript")
    install_packages(folder, JAVASCRIPT / "package.json")
    shutil.copytree(JAVASCRIPT, folder, dirs_exist_ok=True)
    for name in ("javascript_scraper", "javascript_crawler", "javascript_counter"):
        shutil.copytree(ACTORS / name, folder / "actors" / name, dirs_exist_ok=True)
    return folder


async def wait_long(context: InlineContext) -> None:
    """Run until aborted."""
    await context.log("going on")
    await anyio.sleep_forever()


@pytest.fixture
async def api(tmp_path: Path, packages: Path) -> AsyncIterator[Api]:
    """A server with the Actors among their packages."""
    inline = {"test/long": wait_long}
    actors = (packages / "actors",)
    async with open_api(tmp_path / "server", actors=actors, inline_actors=inline, abort_grace_s=0.1) as api:
        yield api


async def test_the_javascript_client_does_all_a_task_user_does(api: Api, packages: Path) -> None:
    """Tasks, starts with options, Runs to their end, steering, all storages, account, refusals."""
    command = ["node", "client.js", api.server.base_url, api.server.token]
    run = partial(subprocess.run, command, cwd=packages, capture_output=True, text=True, timeout=60, check=False)
    done = await anyio.to_thread.run_sync(run)
    assert done.returncode == 0, done.stderr
    assert orjson.loads(done.stdout) == {
        "sameTask": True,
        "updated": "A task",
        "mergedInput": {"a": 1, "b": {"d": 2}},
        "input": {"a": 1, "b": {"d": 2}},
        "tasks": ["javascript"],
        "webhooks": [],
        "run": ["SUCCEEDED", 0, 512, "API"],
        "items": [[1, 2000]],
        "output": {"d": 2},
        "missing": True,
        "lastRun": True,
        "started": ["FAILED", 128, 30, 5],
        "failed": [True],
        "runs": 2,
        "live": "RUNNING",
        "message": "half way",
        "aborted": "ABORTED",
        "log": True,
        "resurrected": 256,
        "deletedRun": True,
        "page": [[{"n": 1098}, {"n": 1099}], 1100, 2],
        "csv": ["n", "0", "1"],
        "itemCount": 1100,
        "renamed": "js-renamed",
        "json": {"a": "ü"},
        "bytes": [0, 255],
        "exists": [True, False],
        "keys": ["bytes", "json"],
        "batch": 40,
        "locked": 3,
        "handled": 1,
        "requests": 40,
        "user": "local",
        "limits": 25,
        "refused": [402, "actor-memory-limit-exceeded"],
        "deletedTask": True,
    }


async def run(api: Api, actor: str, given: Any) -> tuple[Any, list[Any], str]:
    """Run an Actor through a task; return the ended Run, its items and its log."""
    task = await api.create_task(actor, name="template", options={"memoryMbytes": 1024})
    ended = await api.finish((await api.start(task, given)).data["id"])
    items = (await api.get(f"/v2/datasets/{ended['defaultDatasetId']}/items")).body
    return ended, items, (await api.get(f"/v2/logs/{ended['id']}")).body.decode()


async def test_a_javascript_scraper_in_the_shape_of_the_template_works(api: Api) -> None:
    """Input with defaults, compressed pushes, state, a value, the queue, the exit message."""
    page = f"{api.server.base_url}/demo/abc.html"
    ended, items, log = await run(api, "local/javascript-scraper", {"url": page})
    assert (ended["status"], ended["statusMessage"]) == ("SUCCEEDED", "Pushed 3 headings"), log
    assert [len(item["padding"]) for item in items] == [1000] * 3
    store = f"/v2/actor-runs/{ended['id']}/key-value-store/records"
    assert (await api.get(f"{store}/OUTPUT")).body == {"url": page, "headings": 3}
    assert (await api.get(f"{store}/STATE")).body == {"headings": 3}
    queue = (await api.get(f"/v2/request-queues/{ended['defaultRequestQueueId']}")).data
    assert (queue["totalRequestCount"], queue["handledRequestCount"]) == (1, 1)


async def test_a_javascript_crawler_with_crawlee_works(api: Api) -> None:
    """The Cheerio crawler takes the Run's own queue and dataset; its limit on requests holds."""
    given = {"startUrls": [{"url": f"{api.server.base_url}/demo/"}], "maxRequestsPerCrawl": 4}
    ended, items, log = await run(api, "local/javascript-crawler", given)
    assert ended["status"] == "SUCCEEDED", log
    assert len(items) == 4, log
    assert len({item["url"] for item in items}) == 4
    assert items[0]["title"] == "Python standard library: a site to scrape"


async def test_a_batch_brings_the_javascript_scrapers_server_along(api: Api, packages: Path, tmp_path: Path) -> None:
    """`batchrun run` with `api.base_url = "embedded"`: the same Actor, unmodified; another server has the page."""
    page = f"{api.server.base_url}/demo/abc.html"
    lines = [orjson.dumps({"url": page}).decode()]
    await anyio.to_thread.run_sync(embedded_batch, tmp_path, packages / "actors", "local/javascript-scraper", lines)
    said = await anyio.to_thread.run_sync(lambda: batchrun("run", "batch.toml", cwd=tmp_path))
    assert said.code == 0, said.err
    output = tmp_path / "batch.out"
    items = read_lines(output / "items.jsonl")
    records = read_lines(output / "records.jsonl")
    assert [record["outcome"] for record in records] == ["succeeded"]
    assert [record["output"]["url"] for record in records] == [page]
    assert {item["_run"] for item in items} == {record["run"]["id"] for record in records}
    assert len(items) == sum(record["output"]["headings"] for record in records) > 0
    assert all(len(item["padding"]) == 1000 for item in items)


async def test_a_server_that_stops_makes_no_javascript_actor_push_twice(packages: Path, tmp_path: Path) -> None:
    """The SDK answers `migrating` with a reboot: the Actor goes on from its state with the next server, not before."""
    settings: dict[str, Any] = {"actors": (packages / "actors" / "javascript_counter",), "migration_notice_s": 20}
    async with open_api(tmp_path / "server", **settings) as api:
        run = await api.run_actor("local~javascript-counter", {"more": 5})
        first = await api.items(run, 5)
    async with open_api(tmp_path / "server", **settings) as api:
        ended = await api.finish(run["id"])
        items = await api.items(run)
        log = (await api.get(f"/v2/logs/{run['id']}")).body.decode()
    assert [item["n"] for item in items] == list(range(1, len(items) + 1)), log
    assert len(items) >= len(first) + 5
    assert (ended["stats"]["rebootCount"], ended["stats"]["migrationCount"]) == (1, 1)
    assert (ended["status"], ended["statusMessage"]) == ("SUCCEEDED", "Counting")
