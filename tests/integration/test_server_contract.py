"""Every answer of the server is judged by the platform's own description of its API."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from batchrun.server import InlineContext
from batchrun.server.api.unserved_routes import UNSERVED
from tests.support import operations
from tests.support.openapi import DOCUMENT, OpenApi
from tests.support.server_api import ACTORS, Answer, Api, open_api

needs_document = pytest.mark.skipif(not DOCUMENT.exists(), reason=f"the OpenAPI document is not at {DOCUMENT}")


class Judged:
    """Sends requests and judges each answer."""

    def __init__(self, api: Api, openapi: OpenApi) -> None:
        self._api, self._openapi = api, openapi
        self.problems: list[str] = []
        self.exercised: set[str] = set()

    async def send(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """Send a request; note what is wrong with its answer, if the document knows the operation."""
        answer = await self._api.send(method, path, body, **options)
        operation = self._openapi.find(method, path)
        if operation is not None:
            found = self._openapi.problems(operation, answer.status, answer.headers, answer.body)
            self.problems += [f"{method} {path} {answer.status}: {problem}" for problem in found]
            if answer.status < 400:
                self.exercised.add(operation.name)
        return answer

    async def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """Send a request that must succeed."""
        answer = await self.send(method, path, body, **options)
        assert answer.status < 400, (method, path, answer.status, answer.body)
        return answer


async def wait_long(context: InlineContext) -> None:
    """Play an Actor that does not end by itself."""
    await anyio.sleep_forever()


async def write_changing(folder: Path, code: str) -> None:
    """Write the Actor `local/changing`, as it is now."""
    definition = anyio.Path(folder / ".actor" / "actor.json")
    await definition.parent.mkdir(parents=True, exist_ok=True)
    await definition.write_text('{"actorSpecification": 1, "name": "changing", "version": "0.1"}')
    await anyio.Path(folder / "__main__.py").write_text(f"print({code!r})")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A server with Actors that end at once, never, and as real processes."""
    await write_changing(tmp_path / "changing", "first")
    async with open_api(
        tmp_path / "server",
        actors=(ACTORS, tmp_path / "changing"),
        inline_actors={"test/long": wait_long},
        is_rate_limited=False,
        abort_grace_s=0.1,
    ) as api:
        yield api


@pytest.fixture
def openapi() -> OpenApi:
    """The document."""
    return OpenApi()


async def use_dataset(judged: Judged, one: str) -> None:
    """Do with a dataset all that is documented, except deleting it."""
    await judged.ok("PUT", one, {})
    await judged.ok("POST", f"{one}/items", [{"a": 1, "b": {"c": "ü"}}, {"a": None}])
    await judged.ok("POST", f"{one}/items", {"a": 2})
    for query in ({}, {"limit": 1, "offset": 1}, {"desc": 1, "clean": 1, "fields": "a"}, {"format": "csv"}):
        await judged.ok("GET", f"{one}/items", **query)
    await judged.ok("GET", f"{one}/items", format="jsonl", attachment="true")
    await judged.ok("HEAD", f"{one}/items")
    await judged.ok("GET", f"{one}/statistics")
    await judged.ok("GET", one)


async def use_store(judged: Judged, one: str) -> None:
    """Do with a key-value store all that is documented, except deleting it."""
    await judged.ok("PUT", one, {})
    await judged.ok("PUT", f"{one}/records/json", {"a": 1})
    await judged.ok("POST", f"{one}/records/text", raw="ü".encode(), headers={"Content-Type": "text/plain"})
    await judged.ok("GET", f"{one}/records/json")
    await judged.ok("GET", f"{one}/records/text", attachment="true")
    await judged.ok("HEAD", f"{one}/records/json")
    for query in ({}, {"limit": 1}, {"exclusiveStartKey": "json"}, {"prefix": "te"}):
        await judged.ok("GET", f"{one}/keys", **query)
    await judged.ok("GET", f"{one}/records", prefix="t")
    await judged.ok("DELETE", f"{one}/records/text")
    assert (await judged.send("GET", f"{one}/records/text")).status == 404
    await judged.ok("GET", one)


async def use_queue(judged: Judged, one: str) -> None:
    """Do with a request queue all that is documented, except deleting it."""
    await judged.ok("PUT", one, {})
    added = await judged.ok("POST", f"{one}/requests", {"url": "http://a.test/1", "uniqueKey": "1", "method": "GET"})
    batch = [{"url": f"http://a.test/{n}", "uniqueKey": str(n), "userData": {"n": n}} for n in (1, 2, 3)]
    await judged.ok("POST", f"{one}/requests/batch", batch)
    request = f"{one}/requests/{added.data['requestId']}"
    shown = (await judged.ok("GET", request)).data
    await judged.ok("GET", f"{one}/requests", limit=2)
    await judged.ok("GET", f"{one}/head", limit=2)
    await judged.ok("POST", f"{one}/head/lock", lockSecs=60, limit=2, clientKey="me")
    await judged.ok("PUT", f"{request}/lock", lockSecs=60, clientKey="me")
    await judged.ok("DELETE", f"{request}/lock", clientKey="me")
    await judged.ok("POST", f"{one}/requests/unlock", clientKey="me")
    await judged.ok("PUT", request, {**shown, "handledAt": "2026-01-01T00:00:00.000Z"})
    await judged.ok("DELETE", request)
    await judged.ok("DELETE", f"{one}/requests/batch", [{"uniqueKey": "2"}])
    await judged.ok("GET", one)


_USES = {"dataset": use_dataset, "key-value-store": use_store, "request-queue": use_queue}


async def use_collections(judged: Judged) -> None:
    """Create, list and delete storages of every kind."""
    for kind, use in _USES.items():
        collection = f"/v2/{kind}s"
        created = await judged.ok("POST", collection, name=f"my-{kind}")
        assert (await judged.ok("POST", collection, name=f"my-{kind}")).status == 200
        one = f"{collection}/{created.data['id']}"
        await use(judged, one)
        await judged.ok("PUT", one, {"name": f"your-{kind}"})
        await judged.ok("GET", collection, unnamed="true")
        await judged.ok("DELETE", one)
        assert (await judged.send("GET", one)).status == 404


async def use_tasks(judged: Judged) -> str:
    """Do with a task all that is documented, except deleting it; return its address."""
    await judged.ok("GET", "/v2/actor-tasks")
    options = {"build": "latest", "timeoutSecs": 60, "memoryMbytes": 256, "maxItems": 5, "restartOnError": False}
    given = {"actId": "test/echo", "name": "judged", "title": "A task", "input": {"a": 1}, "options": options}
    task = (await judged.ok("POST", "/v2/actor-tasks", given)).data["id"]
    assert (await judged.send("POST", "/v2/actor-tasks", given)).status == 409
    one = f"/v2/actor-tasks/{task}"
    await judged.ok("PUT", one, {"title": "Another title"})
    await judged.ok("GET", one)
    await judged.ok("GET", "/v2/actor-tasks", desc=1, limit=1)
    await judged.ok("PUT", f"{one}/input", {"b": 2})
    await judged.ok("GET", f"{one}/input")
    await judged.ok("GET", f"{one}/webhooks")
    for method in ("GET", "POST"):
        await judged.ok(method, f"{one}/run-sync")
        await judged.ok(method, f"{one}/run-sync-get-dataset-items")
    assert (await judged.send("POST", f"{one}/run-sync", {"fail": 1})).status == 400
    await judged.ok("POST", f"{one}/runs", {"c": 3}, waitForFinish=60)
    await judged.ok("GET", f"{one}/runs", status="SUCCEEDED")
    return one


async def use_run(judged: Judged, api: Api, run: Any) -> None:
    """Do with a Run all that is documented, except deleting it."""
    one = f"/v2/actor-runs/{run['id']}"
    await judged.ok("PUT", one, {"runId": run["id"], "statusMessage": "working"})
    await judged.ok("GET", one)
    await judged.ok("POST", f"{one}/reboot")
    await judged.ok("POST", f"{one}/metamorph", {}, targetActorId="test/long")
    await judged.ok("POST", f"{one}/abort", gracefully="true")
    await api.finish(run["id"])
    await judged.ok("GET", one, waitForFinish=60)
    await judged.ok("GET", f"{one}/log")
    await judged.ok("POST", f"{one}/resurrect", timeout=100)
    assert (await judged.send("DELETE", one)).status == 400
    await judged.ok("POST", f"{one}/abort")
    await api.finish(run["id"])
    await judged.ok("GET", "/v2/actor-runs", status="ABORTED", startedAfter=run["startedAt"])
    await judged.ok("GET", f"/v2/logs/{run['id']}")


async def use_last_run(judged: Judged, api: Api, task: str) -> None:
    """Do with the last Run of a task all that is documented."""
    last = f"{task}/runs/last"
    await judged.ok("GET", last, status="SUCCEEDED")
    await judged.ok("GET", f"{last}/log")
    for kind, use in _USES.items():
        await use(judged, f"{last}/{kind}")
    long = (await api.send("POST", "/v2/actor-tasks", {"actId": "test/long", "name": "long"})).data["id"]
    started = (await api.start(long)).data
    of_long = f"/v2/actor-tasks/{long}/runs/last"
    await judged.ok("POST", f"{of_long}/reboot")
    await judged.ok("POST", f"{of_long}/metamorph", targetActorId="test/long")
    await judged.ok("POST", f"{of_long}/abort")
    await api.finish(started["id"])
    for kind in _USES:
        await judged.ok("DELETE", f"{last}/{kind}")


async def use_actors(judged: Judged) -> Any:
    """Do with an Actor all that is served; return a Run that goes on."""
    await judged.ok("GET", "/v2/actors")
    for actor in (await judged.ok("GET", "/v2/actors", my="true")).data["items"]:
        await judged.ok("GET", f"/v2/actors/{actor['id']}")
        build = (await judged.ok("GET", f"/v2/actors/{actor['id']}/builds/default")).data["id"]
        await judged.ok("GET", f"/v2/actor-builds/{build}")
        await judged.ok("GET", f"/v2/actor-builds/{build}/log")
    await judged.ok("POST", "/v2/actors/test~echo/validate-input", {"a": 1})
    run = (await judged.ok("POST", "/v2/actors/test~long/runs", {"a": 1}, memory=256, timeout=300)).data
    await judged.ok("GET", "/v2/actors/test~long/runs")
    return run


async def use_charges(judged: Judged, api: Api) -> None:
    """Charge for events of a Run of an Actor that is paid per event."""
    run = (await judged.ok("POST", "/v2/actors/local~paid/runs")).data
    status = ""
    while status != "RUNNING":
        await anyio.sleep(0.02)
        status = (await judged.ok("GET", f"/v2/actor-runs/{run['id']}")).data["status"]
    await judged.ok("POST", f"/v2/actor-runs/{run['id']}/charge", {"eventName": "page", "count": 1})
    await judged.ok("POST", f"/v2/actor-runs/{run['id']}/abort")
    await api.finish(run["id"])


async def use_builds(judged: Judged, api: Api) -> None:
    """Delete a build that is the default no more."""
    default = "/v2/actors/local~changing/builds/default"
    build = (await judged.ok("GET", default)).data["id"]
    assert (await judged.send("DELETE", f"/v2/actor-builds/{build}")).error_type == "deleting-default-build"
    await write_changing(api.server._backend.settings.actors[-1], "second")
    with anyio.fail_after(60):
        while (await judged.ok("GET", default)).data["id"] == build:  # the server may be taking it in by itself
            await api.server._backend.builds.look()
    await judged.ok("DELETE", f"/v2/actor-builds/{build}")


async def use_everything(api: Api, judged: Judged) -> None:
    """Exercise every operation that is served, each with success."""
    await judged.ok("GET", "/v2/users/me")
    await judged.ok("GET", "/v2/users/me/limits")
    await judged.ok("PUT", "/v2/users/me/limits", {"maxMonthlyUsageUsd": 100, "dataRetentionDays": 7})
    await judged.ok("GET", "/v2/users/me/usage/monthly")
    await use_collections(judged)
    run = await use_actors(judged)
    await use_builds(judged, api)
    for kind, use in _USES.items():
        await use(judged, f"/v2/actor-runs/{run['id']}/{kind}")
    await use_run(judged, api, run)
    for kind in _USES:
        await judged.ok("DELETE", f"/v2/actor-runs/{run['id']}/{kind}")
    await judged.ok("DELETE", f"/v2/actor-runs/{run['id']}")
    task = await use_tasks(judged)
    await use_last_run(judged, api, task)
    await judged.ok("DELETE", task)
    await use_charges(judged, api)


@needs_document
async def test_every_operation_answers_as_documented(api: Api, openapi: OpenApi) -> None:
    """Status, headers and body of every served operation's success, and of errors met on the way."""
    judged = Judged(api, openapi)
    await use_everything(api, judged)
    assert sorted(judged.problems) == []
    served = {
        operation.name
        for operation in openapi.operations
        if operations.answer_of(operation.method, operation.path, "x").startswith("served")
    }
    assert served - judged.exercised == set()


@needs_document
async def test_every_operation_refuses_as_documented(api: Api, openapi: OpenApi) -> None:
    """A wrong token, an unknown id, a body that is not JSON: documented statuses, the API's envelope, a type."""
    judged = Judged(api, openapi)
    for operation in openapi.operations:
        path = "/".join("nosuchthing" if part.startswith("{") else part for part in operation.path.split("/"))
        if operations.answer_of(operation.method, operation.path, "").startswith("403:"):
            assert (await api.send(operation.method, path)).refusal == (403, "operation-not-allowed"), operation.name
            continue
        assert (await judged.send(operation.method, path, token="wrong")).status == 401, operation.name
        if "{" in path or "nosuchthing" in path:
            answer = await judged.send(operation.method, path, raw=b"{", headers={"Content-Type": "application/json"})
            assert answer.status in (400, 404), operation.name
        assert (await api.send("PATCH", path)).status == 405, operation.name
    assert sorted(judged.problems) == []


@needs_document
def test_the_table_of_operations_is_what_the_server_serves(openapi: OpenApi) -> None:
    """OPERATIONS.md is what `python -m tests.support.operations` writes."""
    assert operations.FILE.read_text("utf-8") == operations.render(openapi)


def test_the_table_of_operations_is_true() -> None:
    """Without the document too: each row says what the route table says."""
    rows = operations.rows()
    assert len(rows) > 144
    for method, path, answer in rows:
        success = answer.removeprefix("served: ") if answer.startswith("served: ") else ""
        assert operations.answer_of(method, path, success) == answer, (method, path)


def test_only_what_nobody_serves_is_refused() -> None:
    """No operation is named as unserved that is served by now."""
    for methods, path, reason in UNSERVED:
        for method in methods.split():
            assert operations.answer_of(method, path, "") == f"403: {reason}", (method, path)
