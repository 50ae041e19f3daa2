"""Tasks over HTTP: create, change, list, their input, and starting them."""

from functools import partial
from pathlib import Path

import anyio
import anyio.abc
import orjson
import pytest

from batchrun.model import JsonObject
from batchrun.server import app
from batchrun.server.catalog import task_book
from batchrun.server.content import request_bodies
from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.store import task_table
from tests.support.server_api import Api, open_api

SCRAPER = "batchrun/page-scraper"
SERVER = {"max_concurrent_runs": 2}


async def test_a_created_task_is_found_by_id_and_by_name(api: Api) -> None:
    """Id, `~name` and `username~name` address the same task; Location names it."""
    created = await api.send("POST", "/v2/actor-tasks", {"actId": "test~echo", "name": "My-Task", "input": {"a": 1}})
    assert created.status == 201
    assert created.headers["Location"] == f"{api.server.base_url}/v2/actor-tasks/{created.data['id']}"
    for address in (created.data["id"], "~my-task", "local~My-Task"):
        assert (await api.get(f"/v2/actor-tasks/{address}")).data == created.data


async def test_a_task_without_name_and_input_gets_both(api: Api) -> None:
    """The platform makes up a name, counts it up, and takes the schema's prefill as input."""
    first = (await api.send("POST", "/v2/actor-tasks", {"actId": SCRAPER})).data
    second = (await api.send("POST", "/v2/actor-tasks", {"actId": SCRAPER})).data
    assert (first["name"], second["name"]) == ("my-page-scraper-task", "my-page-scraper-task-1")
    assert first["input"] == {"startUrls": [{"url": "/demo/"}]}


async def test_a_taken_name_is_a_conflict_whatever_its_case(api: Api) -> None:
    """409 on create and on rename; a task may keep its own name."""
    task = await api.create_task(name="taken")
    other = await api.create_task(name="other")
    answer = await api.send("POST", "/v2/actor-tasks", {"actId": "test/echo", "name": "TAKEN"})
    assert (answer.status, answer.error_type) == (409, "actor-task-name-not-unique")
    assert (await api.send("PUT", f"/v2/actor-tasks/{other}", {"name": "Taken"})).status == 409
    assert (await api.send("PUT", f"/v2/actor-tasks/{task}", {"name": "TAKEN"})).status == 200


@pytest.mark.parametrize(
    ("body", "status", "error_type"),
    [
        ({}, 400, "invalid-request"),
        ({"actId": 7}, 400, "invalid-request"),
        ({"actId": "no/such"}, 404, "record-not-found"),
        ({"actId": "test/echo", "name": "ab"}, 400, "invalid-value"),
        ({"actId": "test/echo", "name": "-abc"}, 400, "invalid-value"),
        ({"actId": "test/echo", "name": "ä-ö-ü"}, 400, "invalid-value"),
        ({"actId": "test/echo", "name": "x" * 64}, 400, "invalid-value"),
        ({"actId": "test/echo", "name": 5}, 400, "invalid-value"),
        ({"actId": "test/echo", "options": {"memoryMbytes": 100}}, 400, "invalid-value"),
        ({"actId": "test/echo", "options": {"timeoutSecs": -1}}, 400, "invalid-value"),
        ({"actId": "test/echo", "options": {"timeoutSecs": 1e300}}, 400, "invalid-value"),
        ({"actId": "test/echo", "options": []}, 400, "invalid-request"),
        ({"actId": "test/echo", "input": [1]}, 400, "invalid-request"),
        ({"actId": SCRAPER, "input": {"startUrls": "x"}}, 400, "invalid-input"),
        ({"actId": SCRAPER, "input": {}, "title": 3}, 400, "invalid-request"),
        ([], 400, "invalid-request"),
    ],
)
async def test_a_task_that_cannot_be_is_refused(api: Api, body: object, status: int, error_type: str) -> None:
    """Each wrong body gets its status and error type, and creates nothing."""
    assert (await api.send("POST", "/v2/actor-tasks", raw=orjson.dumps(body))).refusal == (status, error_type)
    assert (await api.get("/v2/actor-tasks")).data["total"] == 0


async def test_putting_a_task_replaces_its_input_and_putting_its_input_merges(api: Api) -> None:
    """`PUT task` takes the input whole; `PUT task/input` merges top-level keys and answers without an envelope."""
    task = await api.create_task(name="some", input={"a": 1, "b": {"c": 2}})
    merged = await api.send("PUT", f"/v2/actor-tasks/{task}/input", {"b": {"d": 3}})
    assert merged.body == {"a": 1, "b": {"d": 3}}
    changed = await api.send("PUT", f"/v2/actor-tasks/{task}", {"input": {"x": 9}, "title": "T"})
    assert (changed.data["input"], changed.data["title"], changed.data["name"]) == ({"x": 9}, "T", "some")
    assert (await api.get(f"/v2/actor-tasks/{task}/input")).body == {"x": 9}


async def test_tasks_are_listed_by_creation(api: Api) -> None:
    """Offset, limit and desc; the envelope says what was applied."""
    for name in ("one", "two", "three"):
        await api.create_task(name=name)
    page = (await api.get("/v2/actor-tasks", offset=1, limit=1)).data
    assert [item["name"] for item in page["items"]] == ["two"]
    assert {key: page[key] for key in ("total", "count", "offset", "limit", "desc")} == {
        "total": 3, "count": 1, "offset": 1, "limit": 1, "desc": False,
    }  # fmt: skip
    page = (await api.get("/v2/actor-tasks", desc=1, limit=2)).data
    assert [item["name"] for item in page["items"]] == ["three", "two"]
    assert page["items"][0]["actName"] == "echo"


async def test_a_deleted_task_is_gone_and_its_runs_stay(api: Api) -> None:
    """204, then 404; Runs it has started can still be read."""
    task = await api.create_task(name="gone")
    run = await api.finish((await api.start(task)).data["id"])
    assert (await api.send("DELETE", f"/v2/actor-tasks/{task}")).status == 204
    assert (await api.get(f"/v2/actor-tasks/{task}")).error_type == "record-not-found"
    assert (await api.start(task)).status == 404
    assert (await api.get(f"/v2/actor-runs/{run['id']}")).data["actorTaskId"] == task


async def test_a_task_that_is_deleted_while_it_is_changed_stays_deleted(tmp_path: Path) -> None:
    """While the change is being stored, and while its body comes: no task is in the database that nothing counts."""
    async with open_api(tmp_path) as api:
        tasks, account = api.server._backend.tasks, api.server._backend.accounts.first
        raced, late = await api.create_task(name="raced"), await api.create_task(name="late")
        doc = tasks.find(raced, account)
        async with anyio.create_task_group() as children:
            children.start_soon(tasks.delete, doc)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(ErrorAnswer, match="was not found"):
                await tasks.update(doc, {"title": "x"})
        path = f"/v2/actor-tasks/{late}"
        client = await _begun(api, path, b'{"title":"x"}')
        async with client:
            assert (await api.send("DELETE", path)).status == 204
            await client.send(b"}")
            assert (await client.receive()).startswith(b"HTTP/1.1 404 ")
    async with open_api(tmp_path) as api:
        assert (await api.get("/v2/actor-tasks")).data["total"] == 0


async def _begun(api: Api, path: str, body: bytes) -> anyio.abc.SocketStream:
    """Send a PUT without the last byte of its body."""
    host, _, port = api.server.base_url.removeprefix("http://").partition(":")
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.server.token}\r\nContent-Length: {len(body)}"
    client = await anyio.connect_tcp(host, int(port))
    await client.send(f"{head}\r\nContent-Type: application/json\r\n\r\n".encode() + body[:-1])
    await anyio.wait_all_tasks_blocked()
    return client


async def test_tasks_that_are_too_many_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in the database: each start would take memory for them."""
    async with open_api(tmp_path) as api:
        for n in range(4):
            await api.create_task(name=f"task-{n}", input={"text": "x" * 1000})
    monkeypatch.setattr(task_table, "_MAX_BYTES", 3200)
    async with open_api(tmp_path) as api:
        assert (await api.get("/v2/actor-tasks")).data["total"] == 2


async def test_input_is_merged_shallowly_over_defaults_and_task(api: Api) -> None:
    """Schema defaults, under the task's input, under the override; the merged object is the stored INPUT."""
    task = await api.create_task(SCRAPER, name="merge", input={"startUrls": [{"url": "/a"}], "maxConcurrency": 3})
    run = (await api.start(task, {"startUrls": ["/demo/"], "note": {"ü": 1}}, memory=128)).data
    stored = await api.get(f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}/records/INPUT")
    assert stored.body == {
        "startUrls": ["/demo/"], "maxRequestsPerCrawl": 1, "maxConcurrency": 3, "requestTimeoutSecs": 20,
        "delaySecs": 0, "maxLinksPerPage": 200, "note": {"ü": 1},
    }  # fmt: skip
    await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")
    await api.finish(run["id"])


@pytest.mark.parametrize(
    ("raw", "error_type"),
    [
        (b"{", "run-input-body-not-valid-json"),
        (b'{"a": "\xff"}', "run-input-body-not-valid-json"),
        (b"NaN", "run-input-body-not-valid-json"),
        (b"[1]", "invalid-input"),
        (b'"x"', "invalid-input"),
        (b"null", "invalid-input"),
    ],
)
async def test_an_override_that_is_no_object_starts_nothing(api: Api, raw: bytes, error_type: str) -> None:
    """400, and no Run."""
    task = await api.create_task(name="strict")
    json = {"Content-Type": "application/json"}
    assert (await api.send("POST", f"/v2/actor-tasks/{task}/runs", raw=raw, headers=json)).refusal == (400, error_type)
    assert api.server.runs_started == 0


async def test_an_input_against_the_schema_names_the_field(api: Api) -> None:
    """400 `invalid-input` with the platform's sentence; no Run."""
    task = await api.create_task(SCRAPER, name="strict")
    answer = await api.start(task, {"maxRequestsPerCrawl": 0})
    assert (answer.status, answer.error_type) == (400, "invalid-input")
    assert answer.body["error"]["message"] == "Input is not valid: Field input.maxRequestsPerCrawl must be >= 1"
    assert api.server.runs_started == 0


async def test_options_of_the_start_win_over_the_task_and_the_actor(api: Api) -> None:
    """Every option of the query shows on the Run; what is not given comes from the task."""
    task = await api.create_task(name="opts", options={"timeoutSecs": 50, "memoryMbytes": 256, "maxItems": 5})
    options = (await api.start(task)).data["options"]
    assert options == {"build": "latest", "timeoutSecs": 50, "memoryMbytes": 256, "diskMbytes": 512, "maxItems": 5}
    given = {"timeout": "7.0", "memory": 512, "maxItems": 9, "maxTotalChargeUsd": 1.5, "build": "0.0.1"}
    options = (await api.start(task, restartOnError="true", webhooks="W10=", **given)).data["options"]
    assert options == {
        "build": "0.0.1", "timeoutSecs": 7, "memoryMbytes": 512, "diskMbytes": 1024, "maxItems": 9,
        "maxTotalChargeUsd": 1.5, "restartOnError": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("query", "status", "error_type"),
    [
        ({"memory": 100}, 400, "invalid-value"),
        ({"memory": "x"}, 400, "invalid-value"),
        ({"memory": 65536}, 400, "invalid-value"),
        ({"timeout": -1}, 400, "invalid-value"),
        ({"timeout": "nan"}, 400, "invalid-value"),
        ({"timeout": "1e999"}, 400, "invalid-value"),
        ({"timeout": 1.5}, 400, "invalid-value"),
        ({"waitForFinish": "soon"}, 400, "invalid-value"),
        ({"maxItems": 10**30}, 400, "invalid-value"),
        ({"restartOnError": "maybe"}, 400, "invalid-value"),
        ({"build": "nightly"}, 404, "unknown-build-tag"),
        ({"webhooks": "%%%"}, 400, "invalid-value"),
        ({"webhooks": "e30="}, 400, "invalid-value"),
    ],
)
async def test_options_that_cannot_be_start_nothing(
    api: Api, query: dict[str, object], status: int, error_type: str
) -> None:
    """Each wrong option gets its status and error type; no Run."""
    task = await api.create_task(name="strict")
    assert (await api.start(task, **query)).refusal == (status, error_type)
    assert api.server.runs_started == 0


async def test_run_sync_answers_with_the_output(api: Api) -> None:
    """201 and the OUTPUT record, by POST with an override and by GET without; another key on request."""
    task = await api.create_task(name="sync", input={"a": 1})
    answer = await api.send("POST", f"/v2/actor-tasks/{task}/run-sync", {"b": 2})
    assert (answer.status, answer.body) == (201, {"a": 1, "b": 2})
    answer = await api.get(f"/v2/actor-tasks/{task}/run-sync")
    assert (answer.status, answer.body) == (201, {"a": 1})
    answer = await api.get(f"/v2/actor-tasks/{task}/run-sync", outputRecordKey="NONE")
    assert (answer.status, answer.body) == (201, b"")


async def test_run_sync_items_answers_with_the_dataset(api: Api) -> None:
    """201, the items, the headers of a page; item parameters apply."""
    task = await api.create_task(name="sync", input={"a": 1, "b": 2})
    answer = await api.get(f"/v2/actor-tasks/{task}/run-sync-get-dataset-items", fields="b")
    assert (answer.status, answer.body, answer.headers["X-Apify-Pagination-Total"]) == (201, [{"b": 2}], "1")


async def test_run_sync_of_a_failing_run_is_400(api: Api) -> None:
    """`run-failed`; the Run's id stands in the message only."""
    task = await api.create_task(name="sync")
    answer = await api.send("POST", f"/v2/actor-tasks/{task}/run-sync", {"fail": 3})
    assert (answer.status, answer.error_type) == (400, "run-failed")
    run_id = (await api.get(f"/v2/actor-tasks/{task}/runs")).data["items"][0]["id"]
    assert f"run ID: {run_id}, status: FAILED" in answer.body["error"]["message"]


async def test_the_statistics_of_a_task_outlive_the_server(tmp_path: Path) -> None:
    """A start does not write its task; its Runs tell all the same."""
    async with open_api(tmp_path) as api:
        task = await api.create_task(name="counted")
        runs = [(await api.start(task, waitForFinish=60)).data for _ in range(3)]
        before = (await api.get(f"/v2/actor-tasks/{task}")).data["stats"]
    async with open_api(tmp_path) as api:
        after = (await api.get(f"/v2/actor-tasks/{task}")).data["stats"]
        assert after["totalRuns"] == before["totalRuns"] == 3
        assert after["lastRunStartedAt"] == runs[-1]["startedAt"]


async def test_the_input_of_a_tasks_run_is_json_and_says_so(api: Api) -> None:
    """A form, plain text or nobody knows what is refused, as on the platform, whatever it holds."""
    path = f"/v2/actor-tasks/{await api.create_task(name='typed')}/runs"
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        refused = await api.send("POST", path, raw=b'{"a": 1}', headers={"Content-Type": kind})
        assert (refused.status, refused.error_type) == (400, "invalid-request")
    taken = await api.send("POST", path, raw=b'{"a": 1}', headers={"Content-Type": "application/json; charset=x"})
    assert (taken.status, api.server.runs_started) == (201, 1)


async def test_an_input_is_no_larger_than_a_body_may_be(api: Api) -> None:
    """Also where it is merged, piece by piece: each start stores it whole. What it was stays."""
    task = await api.create_task(input={"a": "x" * 5_000_000})
    more = {"b": "x" * 5_000_000}
    assert (await api.send("PUT", f"/v2/actor-tasks/{task}/input", more)).refusal == (413, "request-too-large")
    assert (await api.start(task, more)).refusal == (413, "request-too-large")
    assert (await api.start(task, {"a": "x"})).status == 201
    assert [*(await api.get(f"/v2/actor-tasks/{task}/input")).body] == ["a"]


async def test_the_tasks_of_an_account_take_a_bounded_memory(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inputs count as JSON, other properties as they are in memory. A task may always be made smaller."""
    monkeypatch.setattr(task_book, "_MAX_BYTES", 100_000)
    first = await api.create_task(input={"a": "x" * 60_000})
    path = f"/v2/actor-tasks/{first}"
    others: tuple[JsonObject, ...] = ({"input": {"a": "x" * 60_000}}, {"publicConfig": {"a": [{}] * 1_000}})
    for more in others:
        refused = await api.send("POST", "/v2/actor-tasks", {"actId": "test/echo", **more})
        assert (refused.status, refused.error_type) == (403, "too-many-actor-tasks")
    assert (await api.send("PUT", path, {"input": {"a": "x" * 120_000}})).status == 403
    assert len((await api.get(f"{path}/input")).body["a"]) == 60_000
    monkeypatch.setattr(task_book, "_MAX_BYTES", 20_000)
    assert (await api.send("PUT", path, {"input": {"a": "x" * 30_000}})).status == 200


async def test_a_body_of_millions_of_values_is_refused(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would stop the server for all accounts, and take twenty times its size."""
    monkeypatch.setattr(request_bodies, "MAX_PARTS", 1_000)
    dataset, task = (await api.send("POST", "/v2/datasets")).data["id"], await api.create_task()
    body = b'{"a":[' + b"[]," * 1_000 + b"[]]}"
    for path in (f"datasets/{dataset}/items", f"actor-tasks/{task}/runs", "actors/test~echo/runs", "webhooks"):
        refused = await api.send("POST", f"/v2/{path}", raw=body, headers={"Content-Type": "application/json"})
        assert (refused.status, "1,003 objects and lists; 1,000 are allowed" in refused.body["error"]["message"]) == (
            400,
            True,
        )


async def test_large_bodies_are_parsed_when_there_is_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another; a Run that a body has started holds up none."""
    monkeypatch.setattr(app, "_BODIES_MB", 1)
    begun = anyio.Event()

    async def waits(_context: object) -> None:
        begun.set()
        await anyio.sleep_forever()

    async with (
        open_api(tmp_path / "server", inline_actors={"test/waits": waits}) as api,
        anyio.create_task_group() as children,
    ):
        dataset = (await api.send("POST", "/v2/datasets")).data["id"]
        path = f"/v2/datasets/{dataset}/items"
        children.start_soon(partial(api.run_actor, "test~waits", {"a": ["x"] * 100_000}, waitForFinish=60))
        with anyio.fail_after(60):
            await begun.wait()
            async with anyio.create_task_group() as pushes:
                for _ in range(5):
                    pushes.start_soon(api.send, "POST", path, [{"n": n} for n in range(20_000)])
        assert (await api.get(f"/v2/datasets/{dataset}")).data["itemCount"] == 100_000
        children.cancel_scope.cancel()
