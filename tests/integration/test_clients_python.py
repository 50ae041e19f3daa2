"""The official Python client, unmodified, does everything that a user of tasks does; the async and the sync one."""

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from apify_client import ApifyClient, ApifyClientAsync
from apify_client.errors import ApifyApiError

from batchrun.server import InlineContext
from tests.support.server_api import ACTORS, Api, open_api

_ACCESSORS = frozenset(
    {
        "task", "tasks", "run", "runs", "last_run", "dataset", "datasets", "key_value_store", "key_value_stores",
        "request_queue", "request_queues", "user", "log", "webhooks", "actor", "actors", "build",
    }
)  # fmt: skip


class InThread:
    """The synchronous client with every request in a thread, so that one test serves both clients."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def access(*args: Any, **options: Any) -> InThread:
            return InThread(method(*args, **options))

        async def ask(*args: Any, **options: Any) -> Any:
            return await anyio.to_thread.run_sync(lambda: method(*args, **options))

        async def iterate(*args: Any, **options: Any) -> AsyncIterator[Any]:
            for item in await anyio.to_thread.run_sync(lambda: list(method(*args, **options))):
                yield item

        return access if name in _ACCESSORS else iterate if name.startswith("iterate") else ask


async def wait_long(context: InlineContext) -> None:
    """Run until aborted."""
    await context.log("going on")
    await anyio.sleep_forever()


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A server with Actors of all sorts."""
    inline = {"test/long": wait_long}
    async with open_api(tmp_path / "server", actors=(ACTORS,), inline_actors=inline, abort_grace_s=0.1) as api:
        yield api


@pytest.fixture(params=["asynchronous", "synchronous"])
def client(request: pytest.FixtureRequest, api: Api) -> Any:
    """The official client, asynchronous or synchronous."""
    options: dict[str, Any] = {"token": api.server.token, "api_url": api.server.base_url}
    return ApifyClientAsync(**options) if request.param == "asynchronous" else InThread(ApifyClient(**options))


async def test_tasks_are_kept(client: Any) -> None:
    """Create, read by id and by name, update, list, iterate, input, webhooks, delete."""
    created = await client.tasks().create(
        actor_id="test/echo",
        name="kept",
        title="A task",
        build="latest",
        memory_mbytes=256,
        run_timeout=timedelta(seconds=60),
        max_items=10,
        restart_on_error=False,
        task_input={"a": 1, "b": {"c": 1}},
    )
    task = client.task(created.id)
    assert (await client.task("local/kept").get()).id == created.id
    assert (await task.update(name="renamed", memory_mbytes=512, title=None)).options.memory_mbytes == 512
    assert await task.get_input() == {"a": 1, "b": {"c": 1}}
    assert await task.update_input(task_input={"b": {"d": 2}}) == {"a": 1, "b": {"d": 2}}
    await client.tasks().create(actor_id="test/long", name="other")
    listed = await client.tasks().list(limit=1, desc=True)
    assert ([item.name for item in listed.items], listed.total) == (["other"], 2)
    assert [item.name async for item in client.tasks().iterate()] == ["renamed", "other"]
    assert (await task.webhooks().list()).items == []
    with pytest.raises(ApifyApiError) as caught:
        await client.tasks().create(actor_id="test/echo", name="Renamed")
    assert (caught.value.status_code, caught.value.type) == (409, "actor-task-name-not-unique")
    await task.delete()
    assert await task.get() is None


async def test_a_start_takes_all_options(client: Any) -> None:
    """The Run shows each option; the override is merged over the task's input."""
    created = await client.tasks().create(actor_id="test/echo", name="options", task_input={"a": 1, "b": 1})
    run = await client.task(created.id).start(
        task_input={"b": 2},
        build="latest",
        max_items=7,
        max_total_charge_usd=Decimal("1.5"),
        memory_mbytes=512,
        run_timeout=timedelta(seconds=77),
        restart_on_error=True,
        wait_for_finish=10,
        webhooks=[{"event_types": ["ACTOR.RUN.SUCCEEDED"], "request_url": "http://127.0.0.1:9/none"}],
    )
    options = run.options
    assert (options.memory_mbytes, options.timeout_secs, options.max_items) == (512, 77, 7)
    assert (options.max_total_charge_usd, options.build) == (Decimal("1.5"), "latest")
    assert (run.status, run.actor_task_id, run.meta.origin) == ("SUCCEEDED", created.id, "API")
    record = await client.key_value_store(run.default_key_value_store_id).get_record("INPUT")
    assert record["value"] == {"a": 1, "b": 2}


async def test_a_call_is_followed_to_its_end(client: Any) -> None:
    """`call()` returns the ended Run, whose storages hold its output; a failed Run is a value, not an exception."""
    created = await client.tasks().create(actor_id="test/echo", name="called", task_input={"a": 1})
    task = client.task(created.id)
    run = await task.call(task_input={"b": 2}, wait_duration=timedelta(seconds=30))
    assert (run.status, run.exit_code) == ("SUCCEEDED", 0)
    assert (await client.run(run.id).dataset().list_items()).items == [{"a": 1, "b": 2}]
    assert (await task.last_run().get()).id == run.id
    assert (await task.last_run(status="SUCCEEDED").key_value_store().get_record("OUTPUT"))["value"] == {"a": 1, "b": 2}
    failed = await task.call(task_input={"fail": 3})
    assert (failed.status, failed.exit_code) == ("FAILED", 3)
    assert [item.id for item in (await task.runs().list(status="FAILED")).items] == [failed.id]
    assert [item.id async for item in client.runs().iterate()] == [run.id, failed.id]
    assert [item.id for item in (await client.runs().list(started_after=failed.started_at)).items][-1] == failed.id


async def test_a_run_is_steered(client: Any) -> None:
    """Status message, log, abort, wait, resurrect, reboot, delete; a live Run cannot be deleted."""
    created = await client.tasks().create(actor_id="test/long", name="steered")
    started = await client.task(created.id).start()
    run = client.run(started.id)
    assert (await run.update(status_message="half way")).status_message == "half way"
    assert (await run.wait_for_finish(wait_duration=timedelta(seconds=1))).status == "RUNNING"
    assert (await run.reboot()).status == "RUNNING"
    with pytest.raises(ApifyApiError):
        await run.delete()
    await run.abort(gracefully=True)
    assert (await run.wait_for_finish()).status == "ABORTED"
    assert "going on" in await run.log().get()
    assert b"going on" in await client.log(started.id).get_as_bytes()
    assert (await run.resurrect(memory_mbytes=256)).options.memory_mbytes == 256
    await client.task(created.id).last_run().abort()
    assert (await run.wait_for_finish()).status == "ABORTED"
    await run.delete()
    assert await run.get() is None


async def test_items_are_pushed_and_read(client: Any) -> None:
    """Datasets: named, paged, iterated, in other formats, renamed, deleted."""
    made = await client.datasets().get_or_create(name="items")
    assert (await client.datasets().get_or_create(name="items")).id == made.id
    dataset = client.dataset(made.id)
    await dataset.push_items([{"n": n, "text": "ü" * 40, "#hidden": 1} for n in range(1100)])
    await dataset.push_items({"n": 1100})
    page = await dataset.list_items(limit=2, offset=1099, clean=True)
    assert page.items == [{"n": 1099, "text": "ü" * 40}, {"n": 1100}]
    assert page.total == 1101
    assert [item["n"] async for item in dataset.iterate_items(chunk_size=400)] == list(range(1101))
    csv = await dataset.get_items_as_bytes(item_format="csv", fields=["n"], limit=2)
    assert csv.decode("utf-8-sig").split() == ["n", "0", "1"]
    assert (await dataset.get()).item_count == 1101
    await dataset.get_statistics()
    assert (await dataset.update(name="renamed")).name == "renamed"
    assert [item.name for item in (await client.datasets().list()).items] == ["renamed"]
    await dataset.delete()
    assert await dataset.get() is None


async def test_values_are_stored_and_read(client: Any) -> None:
    """Key-value stores: JSON, text, bytes; existence, keys, deletion."""
    made = await client.key_value_stores().get_or_create(name="values")
    store = client.key_value_store(made.id)
    await store.set_record("json", {"a": ["ü"] * 900})
    await store.set_record("text", "ü")
    await store.set_record("bytes", b"\x00\xff", content_type="image/png")
    assert (await store.get_record("json"))["value"] == {"a": ["ü"] * 900}
    assert (await store.get_record("text"))["value"] == "ü"
    assert (await store.get_record_as_bytes("bytes"))["value"] == b"\x00\xff"
    assert (await store.get_record("bytes"))["content_type"] == "image/png"
    assert [await store.record_exists(key) for key in ("text", "none")] == [True, False]
    keys = await store.list_keys(limit=2)
    assert ([key.key for key in keys.items], keys.is_truncated) == (["bytes", "json"], True)
    assert [key.key async for key in store.iterate_keys()] == ["bytes", "json", "text"]
    await store.delete_record("text")
    assert await store.get_record("text") is None
    assert (await store.get_record_public_url("json")).startswith("http")
    assert [item.name for item in (await client.key_value_stores().list()).items] == ["values"]
    await store.delete()
    assert await store.get() is None


async def test_requests_are_queued(client: Any) -> None:
    """Request queues: add, batches, head, locks, handling, deletion."""
    made = await client.request_queues().get_or_create(name="requests")
    queue = client.request_queue(made.id, client_key="me")
    added = await queue.add_request({"url": "http://a.test/0", "unique_key": "0"})
    batch = [{"url": f"http://a.test/{n}", "unique_key": str(n), "method": "GET"} for n in range(60)]
    result = await queue.batch_add_requests(batch)
    assert (len(result.processed_requests), result.unprocessed_requests) == (60, [])
    assert sum(each.was_already_present for each in result.processed_requests) == 1
    # Parts of a batch are sent at once and arrive in any order.
    assert [item.unique_key for item in (await queue.list_head(limit=1)).items] == ["0"]
    locked = await queue.list_and_lock_head(lock_duration=timedelta(seconds=60), limit=3)
    assert len(locked.items) == 3
    await queue.prolong_request_lock(locked.items[0].id, lock_duration=timedelta(seconds=90))
    await queue.delete_request_lock(locked.items[0].id)
    await queue.unlock_requests()
    request = await queue.get_request(added.request_id)
    assert request.url == "http://a.test/0"
    handled = {"id": request.id, "unique_key": "0", "url": request.url, "handled_at": "2026-01-01T00:00:00.000Z"}
    await queue.update_request(handled)
    assert (await queue.get()).handled_request_count == 1
    assert len((await queue.list_requests(limit=100)).items) == 60
    await queue.batch_delete_requests([{"unique_key": "5"}])
    await queue.delete_request(added.request_id)
    assert (await queue.get()).total_request_count >= 58
    await queue.delete()
    assert await queue.get() is None


async def test_the_account_and_its_actors_are_shown(client: Any) -> None:
    """User, limits, Actors and the Runs of one."""
    assert (await client.user().get()).username == "local"
    assert (await client.user().limits()).limits.max_concurrent_actor_jobs == 25
    actors = {f"{item.username}/{item.name}" for item in (await client.actors().list()).items}
    assert {"test/echo", "test/long", "local/sdk"} <= actors
    actor = client.actor("test/echo")
    assert (await actor.get()).default_run_options.build == "latest"
    run = await actor.call(run_input={"a": 1}, memory_mbytes=128, logger=None)
    assert (run.status, (await actor.last_run().get()).id) == ("SUCCEEDED", run.id)
    assert [item.id for item in (await actor.runs().list()).items] == [run.id]
    assert (await client.build(run.build_id).get()).status == "SUCCEEDED"


async def test_a_refused_start_is_the_clients_own_error(api: Api, client: Any) -> None:
    """For a full account, input against the schema and an unknown build: the API's types, and nothing is started."""
    task = await client.tasks().create(actor_id="test/echo", name="refused")
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"memory_mbytes": 16384}, "actor-memory-limit-exceeded"),
        ({"memory_mbytes": 100}, "invalid-value"),
        ({"build": "nightly"}, "unknown-build-tag"),
    ]
    for options, error_type in refusals:
        with pytest.raises(ApifyApiError) as caught:
            await client.task(task.id).start(**options)
        assert caught.value.type == error_type
    assert api.server.runs_started == 0
