"""Actors in the shape of the official Python templates, run unmodified as real processes."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import orjson
import pytest
from apify_client import ApifyClientAsync

from tests.support.command_line import batchrun, embedded_batch
from tests.support.json_lines import read_lines
from tests.support.server_api import ACTORS, Api, open_api


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A server with the Actors of `tests/support/actors`."""
    async with open_api(tmp_path / "server", actors=(ACTORS,)) as api:
        yield api


async def run(api: Api, actor: str, given: Any) -> tuple[Any, list[Any], str]:
    """Run an Actor through a task; return the ended Run, its items and its log."""
    task = await api.create_task(actor, name="template", options={"memoryMbytes": 1024})
    ended = await api.finish((await api.start(task, given)).data["id"])
    items = (await api.get(f"/v2/datasets/{ended['defaultDatasetId']}/items")).body
    return ended, items, (await api.get(f"/v2/logs/{ended['id']}")).body.decode()


async def test_a_scraper_in_the_shape_of_the_template_works(api: Api) -> None:
    """Input defaults, a queue of pages followed to a depth, items, state, a value, status messages.

    A start URL that cannot be reached is logged, and the Run goes on.
    """
    site, unreachable = f"{api.server.base_url}/demo/", "http://127.0.0.1:9/"
    given = {"start_urls": [{"url": unreachable}, {"url": site}]}
    ended, items, log = await run(api, "local/python-scraper", given)
    assert (ended["status"], ended["statusMessage"]) == ("SUCCEEDED", "Scraped 6 pages in all"), log
    assert f"Cannot extract data from {unreachable}" in log
    assert [item["depth"] for item in items] == [0, 1, 1, 1, 1]
    assert items[0] == {"url": site, "depth": 0, "title": "Python standard library: a site to scrape"}
    assert "abc" in items[1]["title"]
    store = f"/v2/actor-runs/{ended['id']}/key-value-store/records"
    assert (await api.get(f"{store}/OUTPUT")).body == {"pages": 6}
    assert (await api.get(f"{store}/APIFY_GLOBAL_STATE")).body == {"pages": 6}
    queue = (await api.get(f"/v2/request-queues/{ended['defaultRequestQueueId']}")).data
    assert (queue["totalRequestCount"], queue["handledRequestCount"]) == (6, 6)


async def test_input_is_checked_before_the_scraper_starts(api: Api) -> None:
    """The template's schema: a required field, a minimum."""
    task = await api.create_task("local/python-scraper", name="template")
    assert (await api.send("PUT", f"/v2/actor-tasks/{task}/input", {"start_urls": 1})).error_type == "invalid-input"
    assert (await api.start(task, {"start_urls": [], "max_depth": -1})).error_type == "invalid-input"


async def test_a_crawler_with_crawlee_works(api: Api) -> None:
    """Crawlee takes the Run's own queue and dataset; its limit on requests holds."""
    given = {"start_urls": [{"url": f"{api.server.base_url}/demo/"}], "max_requests": 4}
    ended, items, log = await run(api, "local/python-crawler", given)
    assert ended["status"] == "SUCCEEDED", log
    assert len(items) >= 4, log
    assert len({item["url"] for item in items}) == len(items)
    assert items[0]["title"] == "Python standard library: a site to scrape"


async def test_a_batch_runs_the_scraper_and_the_official_client_sees_its_runs(api: Api, tmp_path: Path) -> None:
    """`batchrun run` starts a Run per page; another client sees each Run whole."""
    task = await api.create_task("local/python-scraper", name="batch", input={"start_urls": [], "max_depth": 0})
    pages = [f"{api.server.base_url}/demo/{name}.html" for name in ("abc", "base64")]
    jobs = b"".join(orjson.dumps({"start_urls": [{"url": page}]}) + b"\n" for page in pages)
    (tmp_path / "jobs.jsonl").write_bytes(jobs)
    command = ["run", "--task", task, "--jobs", "jobs.jsonl", "--out", "out", "--api-url", api.server.base_url]
    batch = partial(batchrun, *command, cwd=tmp_path, environ={"APIFY_TOKEN": api.server.token})
    said = await anyio.to_thread.run_sync(batch)
    assert said.code == 0, said.err
    records = read_lines(tmp_path / "out" / "records.jsonl")
    client = ApifyClientAsync(token=api.server.token, api_url=api.server.base_url)
    seen = []
    for record in records:
        run = await client.run(record["run"]["id"]).wait_for_finish()
        assert run is not None
        assert (run.status, run.actor_task_id) == ("SUCCEEDED", task)
        seen += [item["url"] for item in (await client.dataset(run.default_dataset_id).list_items()).items]
    assert sorted(seen) == pages


async def test_a_batch_brings_the_scrapers_server_along(api: Api, tmp_path: Path) -> None:
    """`batchrun run` with `api.base_url = "embedded"`: the same Actor, unmodified; another server has the page."""
    page = f"{api.server.base_url}/demo/abc.html"
    line = orjson.dumps({"start_urls": [{"url": page}], "max_depth": 0}).decode()
    await anyio.to_thread.run_sync(embedded_batch, tmp_path, ACTORS, "local/python-scraper", [line])
    said = await anyio.to_thread.run_sync(lambda: batchrun("run", "batch.toml", cwd=tmp_path))
    assert said.code == 0, said.err
    output = tmp_path / "batch.out"
    items = read_lines(output / "items.jsonl")
    records = read_lines(output / "records.jsonl")
    assert [item["url"] for item in items] == [page]
    assert [(record["outcome"], record["output"]) for record in records] == [("succeeded", {"pages": 1})]
