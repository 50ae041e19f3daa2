"""Software that nobody here wrote: the official client and the official SDK, both unmodified."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from apify_client import ApifyClientAsync

from tests.support.server_api import ACTORS, Api, open_api


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A server with the Actors of `tests/support/actors`."""
    async with open_api(tmp_path / "server", actors=(ACTORS,)) as api:
        yield api


@pytest.fixture
def client(api: Api) -> ApifyClientAsync:
    """The official client."""
    return ApifyClientAsync(token=api.server.token, api_url=api.server.base_url)


async def test_the_official_client_does_all_a_task_user_does(api: Api, client: ApifyClientAsync) -> None:
    """Create, read, change, call, list, read outputs, delete."""
    created = await client.tasks().create(actor_id="test/echo", name="official", task_input={"a": 1, "b": 1})
    task = client.task("local/official")
    got = await task.get()
    assert got is not None
    assert got.id == created.id
    await task.update(name="renamed", memory_mbytes=256)
    run = await client.task(created.id).call(task_input={"b": 2})
    assert run is not None
    assert (run.status, run.options.memory_mbytes, run.actor_task_id) == ("SUCCEEDED", 256, created.id)
    assert (await client.dataset(run.default_dataset_id).list_items()).items == [{"a": 1, "b": 2}]
    record: Any = await client.run(run.id).key_value_store().get_record("OUTPUT")
    assert record["value"] == {"a": 1, "b": 2}
    assert await client.run(run.id).key_value_store().get_record("MISSING") is None
    assert [item.id for item in (await client.task(created.id).runs().list()).items] == [run.id]
    assert [item.id for item in (await client.runs().list()).items] == [run.id]
    assert [item.name for item in (await client.tasks().list()).items] == ["renamed"]
    assert (await client.user().limits()).limits.max_concurrent_actor_jobs == 25
    await client.task(created.id).delete()
    assert await client.task(created.id).get() is None
    assert await client.run("nosuchrunnosuchru").get() is None


async def test_the_official_client_stores_and_reads(client: ApifyClientAsync) -> None:
    """Named storages, large compressed pushes, iteration, keys."""
    dataset = await client.datasets().get_or_create(name="things")
    await client.dataset(dataset.id).push_items([{"n": n, "pad": "x" * 50} for n in range(2500)])
    found = [item["n"] async for item in client.dataset(dataset.id).iterate_items()]
    assert found == list(range(2500))
    store = await client.key_value_stores().get_or_create(name="values")
    await client.key_value_store(store.id).set_record("text", "ü" * 2000)
    await client.key_value_store(store.id).set_record("data", {"a": [1]})
    assert [key.key for key in (await client.key_value_store(store.id).list_keys()).items] == ["data", "text"]
    record: Any = await client.key_value_store(store.id).get_record("text")
    assert record["value"] == "ü" * 2000


async def test_the_official_client_starts_and_aborts(client: ApifyClientAsync) -> None:
    """A process Actor by its id: start, read the log, abort, wait."""
    actor = await client.actor("local/acrobat").get()
    assert actor is not None
    run = await client.actor(actor.id).start(run_input={"do": "hang"})
    await client.run(run.id).abort()
    ended = await client.run(run.id).wait_for_finish()
    assert ended is not None
    assert ended.status == "ABORTED"
    assert "Starting a local process" in (await client.run(run.id).log().get() or "")


async def test_an_actor_with_the_official_sdk_runs_as_at_home(api: Api) -> None:
    """Input, compressed pushes, a value, a terminal status message, the log."""
    task = await api.create_task("local/sdk", name="sdk")
    run = await api.finish((await api.start(task, {"count": 4})).data["id"])
    log = (await api.get(f"/v2/logs/{run['id']}")).body.decode()
    assert (run["status"], run["statusMessage"]) == ("SUCCEEDED", "all done"), log
    items = (await api.get(f"/v2/datasets/{run['defaultDatasetId']}/items")).body
    assert items == [{"n": n, "text": "ü" * 600} for n in range(4)] + [{"last": True}]
    output = await api.get(f"/v2/actor-runs/{run['id']}/key-value-store/records/OUTPUT")
    assert output.body == {"given": {"count": 4}, "run": run["id"]}
    assert "working on {'count': 4}" in log


async def test_an_exception_under_the_official_sdk_fails_the_run(api: Api) -> None:
    """Exit code 91; what was pushed stays."""
    task = await api.create_task("local/sdk", name="sdk")
    run = await api.finish((await api.start(task, {"count": 0, "fail": "on purpose"})).data["id"])
    assert (run["status"], run["exitCode"]) == ("FAILED", 91)
    assert (await api.get(f"/v2/datasets/{run['defaultDatasetId']}/items")).body == [{"last": True}]
