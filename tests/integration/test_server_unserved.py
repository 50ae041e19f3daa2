"""What is not served is refused once and for all; the routes beside the documented ones that clients use."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from apify_client import ApifyClientAsync
from apify_client.errors import ApifyApiError
from openapi_spec_validator import OpenAPIV30SpecValidator

from batchrun.server import AccountSettings
from tests.support import operations
from tests.support.server_api import Api, open_api

PICTURE = b"\x89PNG\r\n\x1a\n\xff"


SCHEMA = {
    "type": "object",
    "schemaVersion": 1,
    "properties": {
        "urls": {"title": "URLs", "type": "array", "editor": "requestListSources", "prefill": []},
        "depth": {"type": "integer", "editor": "number", "minimum": 0, "default": 1},
    },
    "required": ["urls"],
}


#: Source: the paths of the platform's whole OpenAPI document.
REST_OF_THE_API = (
    "GET POST /v2/actors/{a}/versions",
    "GET PUT DELETE /v2/actors/{a}/versions/{v}",
    "GET POST /v2/actors/{a}/versions/{v}/env-vars",
    "GET PUT DELETE /v2/actors/{a}/versions/{v}/env-vars/{e}",
    "GET /v2/actors/{a}/webhooks",
    "GET POST /v2/actors/{a}/builds",
    "GET /v2/actors/{a}/builds/{b}",
    "POST /v2/actors/{a}/builds/{b}/abort",
    "GET /v2/actors/{a}/builds/{b}/openapi.json",
    "GET POST /v2/actors/{a}/run-sync",
    "GET POST /v2/actors/{a}/run-sync-get-dataset-items",
    "GET /v2/actors/{a}/runs/{r}",
    "POST /v2/actors/{a}/runs/{r}/abort",
    "POST /v2/actors/{a}/runs/{r}/metamorph",
    "POST /v2/actors/{a}/runs/{r}/resurrect",
    "GET /v2/actors/{a}/runs/last",
    "GET /v2/actors/{a}/runs/last/log",
    "GET PUT DELETE /v2/actors/{a}/runs/last/dataset",
    "GET POST /v2/actors/{a}/runs/last/dataset/items",
    "GET PUT DELETE /v2/actors/{a}/runs/last/key-value-store",
    "GET /v2/actors/{a}/runs/last/key-value-store/keys",
    "GET PUT DELETE /v2/actors/{a}/runs/last/request-queue",
    "POST /v2/actor-tasks/{t}/publish",
    "POST /v2/actor-tasks/{t}/unpublish",
    "GET /v2/actor-builds",
    "POST /v2/actor-builds/{b}/abort",
    "GET /v2/actor-builds/{b}/openapi.json",
    "GET POST /v2/webhooks",
    "GET PUT DELETE /v2/webhooks/{w}",
    "POST /v2/webhooks/{w}/test",
    "GET /v2/webhooks/{w}/dispatches",
    "GET /v2/webhook-dispatches",
    "GET /v2/webhook-dispatches/{d}",
    "GET POST /v2/schedules",
    "GET PUT DELETE /v2/schedules/{s}",
    "GET /v2/schedules/{s}/log",
    "GET /v2/store",
    "GET /v2/users/{u}",
    "GET POST PUT DELETE /v2/tools/browser-info",
    "POST /v2/tools/encode-and-sign",
    "POST /v2/tools/decode-and-verify",
)


def _write_actor(folder: Path) -> None:
    (folder / ".actor").mkdir(parents=True)
    definition = {"actorSpecification": 1, "name": "mine", "version": "0.3", "environmentVariables": {"MODE": "fast"}}
    definition |= {"title": "Mine", "input": SCHEMA}
    (folder / ".actor" / "actor.json").write_text(json.dumps(definition))
    (folder / "__main__.py").write_text("print('ran')")
    (folder / "picture.png").write_bytes(PICTURE)
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "left-out.js").write_text("")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A server with one Actor and two accounts."""
    await anyio.to_thread.run_sync(_write_actor, tmp_path / "mine")
    accounts = (AccountSettings(username="other", token="other-token"),)
    async with open_api(tmp_path / "server", actors=(tmp_path / "mine",), accounts=accounts) as api:
        yield api


async def test_the_official_client_asks_once_for_what_is_not_served(api: Api) -> None:
    """Creating an Actor, a build, a schedule, the store: one request each, whose error says what there is instead."""
    client = ApifyClientAsync(api.server.token, api_url=api.server.base_url, max_retries=3)
    calls: list[tuple[Any, str]] = [
        (client.actors().create(name="another"), "Actors come from directories"),
        (client.actor("local/mine").build(version_number="0.3"), "becomes a build automatically"),
        (client.schedules().list(), "batchrun worker"),
        (client.store().list(), "GET /v2/actors lists"),
        (client.actor("local/mine").version("0.3").env_vars().create(name="A", value="b"), "environmentVariables"),
    ]
    for call, instead in calls:
        with pytest.raises(ApifyApiError, match=instead) as refused:
            await call
        assert (refused.value.status_code, refused.value.type) == (403, "operation-not-allowed")
        assert refused.value.attempt == 1


def test_each_operation_of_the_api_has_an_answer() -> None:
    """Those that the stored part of the document leaves out: served, or refused with what there is instead."""
    for line in REST_OF_THE_API:
        methods, path = line.split(" /", 1)
        for method in methods.split():
            answer = operations.answer_of(method, f"/{path}", "")
            assert answer == "served" or answer.startswith("403: "), (method, path, answer)


async def test_a_client_without_a_token_sees_what_is_missing_too(api: Api) -> None:
    """Apify's command line searches the store without one."""
    answer = await api.send("GET", "/v2/store", token=None)
    assert answer.refusal == (403, "operation-not-allowed")
    assert "this server has no store" in answer.body["error"]["message"]


async def test_a_run_is_steered_under_its_actor(api: Api) -> None:
    """`/actors/A/runs/R` and its verbs are those of the Run; under another Actor there is no such Run."""
    run = await api.run_actor("test~echo", {"a": 1})
    await api.finish(run["id"])
    one = f"/v2/actors/test~echo/runs/{run['id']}"
    assert (await api.get(one)).data["status"] == "SUCCEEDED"
    assert (await api.send("POST", f"{one}/abort")).data["status"] == "SUCCEEDED"
    assert (await api.send("POST", f"{one}/resurrect")).data["stats"]["resurrectCount"] == 1
    assert (await api.get(f"/v2/acts/local~mine/runs/{run['id']}")).refusal == (404, "record-not-found")
    assert (await api.send("POST", f"{one}/abort", token="other-token")).status in (403, 404)


async def test_builds_are_read_under_their_actor(api: Api) -> None:
    """`/actors/A/builds/B` is the build, of this Actor alone."""
    build = (await api.get("/v2/actors/local~mine/builds/default")).data
    assert (await api.get(f"/v2/actors/local~mine/builds/{build['id']}")).data == build
    assert (await api.get(f"/v2/actors/test~echo/builds/{build['id']}")).status == 404
    abort = f"builds/{build['id']}/abort"
    assert (await api.send("POST", f"/v2/actors/local~mine/{abort}")).data == build
    assert (await api.send("POST", f"/v2/actors/test~echo/{abort}")).status == 404


async def test_a_build_has_an_openapi_document(api: Api) -> None:
    """Valid OpenAPI 3.0 that starts the Actor; by the build's id, or its Actor's; only for who may see the build."""
    client = ApifyClientAsync(api.server.token, api_url=api.server.base_url)
    build = (await api.get("/v2/actors/local~mine/builds/default")).data
    document = await client.build(build["id"]).get_open_api_definition()
    OpenAPIV30SpecValidator(document).validate()
    for path in (f"builds/{build['id']}", "builds/default"):
        assert (await api.get(f"/v2/actors/local~mine/{path}/openapi.json")).body == document
    assert document["info"] == {"title": "Mine", "description": "", "version": "0.3", "x-build-id": build["id"]}
    assert document["components"]["schemas"]["inputSchema"] == {
        "type": "object",
        "properties": {
            "urls": {"type": "array", "title": "URLs", "items": {}},
            "depth": {"type": "integer", "minimum": 0, "default": 1},
        },
        "required": ["urls"],
    }
    started = [f"{document['servers'][0]['url']}{path}" for path in document["paths"]]
    assert started[1] == f"{api.server.base_url}/v2/acts/local~mine/runs"
    for url in started:
        answer = await api.send("POST", url.removeprefix(api.server.base_url), {"urls": []})
        assert answer.status in (200, 201), answer.body
    assert (await api.send("GET", f"/v2/actor-builds/{build['id']}/openapi.json", token=None)).status == 404


async def test_a_version_has_its_files_and_variables(api: Api) -> None:
    """Text and binary source files, no by-products; only for the owner. `apify actors pull` reads them."""
    version = (await api.get("/v2/actors/local~mine")).data["versions"][0]
    files = {file["name"]: file for file in version["sourceFiles"]}
    assert set(files) == {".actor/actor.json", "__main__.py", "picture.png"}
    assert files["__main__.py"]["content"] == "print('ran')"
    assert base64.b64decode(files["picture.png"]["content"]) == PICTURE
    variables = "/v2/actors/local~mine/versions/0.3/env-vars"
    assert (await api.get(variables)).data["items"] == [{"name": "MODE", "value": "fast", "isSecret": False}]
    assert (await api.get(f"{variables}/MODE")).data["value"] == "fast"
    assert (await api.get(f"{variables}/NONE")).status == 404
    assert (await api.send("GET", "/v2/actors/local~mine", token="other-token")).status == 404
    assert (await api.send("GET", "/v2/actors/apify~hello-world", token=None)).data["versions"][0]["sourceFiles"] == []


async def test_anybody_sees_who_a_user_is(api: Api) -> None:
    """By name or id, also the publisher of a bundled Actor; nothing private."""
    for address in ("other", "apify", (await api.get("/v2/users/me")).data["id"]):
        shown = (await api.send("GET", f"/v2/users/{address}", token=None)).data
        assert set(shown) == {"username", "profile"}
    assert (await api.get("/v2/users/nobody-here")).refusal == (404, "record-not-found")


async def test_webhooks_of_single_runs_are_listed(api: Api) -> None:
    """Beside those of the account, for the account alone."""
    hook = {"eventTypes": ["ACTOR.RUN.FAILED"], "requestUrl": "http://127.0.0.1:1/"}
    stored = (await api.send("POST", "/v2/webhooks", hook | {"condition": {}})).data
    encoded = base64.b64encode(json.dumps([hook]).encode()).decode()
    run = await api.run_actor("test~echo", webhooks=encoded)
    listed = (await api.get("/v2/webhooks")).data
    assert (listed["total"], [doc["condition"] for doc in listed["items"]]) == (2, [{}, {"actorRunId": run["id"]}])
    assert listed["items"][0]["id"] == stored["id"]
    assert (await api.get("/v2/webhooks", desc=1, limit=1)).data["items"][0]["isAdHoc"]
    assert (await api.send("GET", "/v2/webhooks", token="other-token")).data["total"] == 0
