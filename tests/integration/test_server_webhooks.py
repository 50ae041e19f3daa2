"""Webhooks delivered over HTTP to a receiver on loopback that answers as it is told."""

import base64
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import anyio
import anyio.abc
import orjson
import pytest
from aiohttp import web
from apify_client import ApifyClientAsync

from batchrun.server import InlineContext
from batchrun.server.api import webhook_chains
from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.settings import AccountSettings
from batchrun.server.store import webhook_table
from batchrun.server.webhooks import webhook_book, webhook_delivery, webhook_templates
from tests.support import api_process
from tests.support.server_api import ACTORS, Api, open_api
from tests.support.slow_names import slow_names, until_looked_up

_ENDS = ["ACTOR.RUN.SUCCEEDED", "ACTOR.RUN.FAILED", "ACTOR.RUN.ABORTED", "ACTOR.RUN.TIMED_OUT"]


@dataclass
class Receiver:
    """Notes what comes in, and answers with the next status; 200 when none is left."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    received: list[tuple[Any, Any]] = field(default_factory=list)
    arrived: anyio.Event = field(default_factory=anyio.Event)
    on_call: Callable[[], None] = lambda: None

    async def take(self, request: web.BaseRequest) -> web.Response:
        """Answer one call."""
        self.on_call()
        self.received.append((request.headers, orjson.loads(await request.read())))
        self.arrived.set()
        self.arrived = anyio.Event()
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200, text="thanks")

    async def wait_for(self, count: int) -> list[Any]:
        """Wait for so many calls; return their payloads."""
        with anyio.fail_after(60):
            while len(self.received) < count:
                await self.arrived.wait()
        return [payload for _, payload in self.received]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver()
    runner = web.ServerRunner(web.Server(receiver.take))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


#: A server that does not wait long before it calls again.
SERVER: dict[str, Any] = {"actors": (ACTORS,), "webhook_retry_s": 0.02}


def _adhoc(*webhooks: Any) -> str:
    return base64.b64encode(orjson.dumps(webhooks)).decode()


async def _dispatch(api: Api, is_meant: Callable[[Any], bool], path: str = "/v2/webhook-dispatches") -> Any:
    """Wait for a dispatch that is as meant."""
    with anyio.fail_after(60):
        while True:
            for dispatch in (await api.get(path)).data["items"]:
                if is_meant(dispatch):
                    return dispatch
            await anyio.sleep(0.01)


def _is_over(dispatch: Any) -> bool:
    return bool(dispatch["status"] != "ACTIVE")


async def test_an_adhoc_webhook_brings_the_default_payload(api: Api, receiver: Receiver) -> None:
    """The Run as the API shows it, whose it is, and which event; with the platform's headers."""
    webhooks = _adhoc({"eventTypes": _ENDS, "requestUrl": receiver.url})
    task = await api.create_task(name="hooked")
    run = (await api.start(task, {"a": 1}, webhooks=webhooks)).data
    (payload,) = await receiver.wait_for(1)
    headers, _ = receiver.received[0]
    dispatch = await _dispatch(api, _is_over)
    assert payload["eventType"] == "ACTOR.RUN.SUCCEEDED"
    assert payload["eventData"] == {"actorId": run["actId"], "actorTaskId": task, "actorRunId": run["id"]}
    assert (payload["resource"]["id"], payload["resource"]["status"]) == (run["id"], "SUCCEEDED")
    assert (payload["userId"], payload["createdAt"]) == (run["userId"], dispatch["createdAt"])
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["X-Apify-Webhook-Dispatch-Id"] == dispatch["id"]
    assert headers["X-Apify-Webhook"] == dispatch["webhookId"]
    assert "Authorization" not in headers
    (call,) = dispatch["calls"]
    assert (dispatch["status"], call["responseStatus"], call["responseBody"]) == ("SUCCEEDED", 200, "thanks")


async def test_a_stored_webhook_fires_for_what_its_condition_says(api: Api, receiver: Receiver) -> None:
    """For Runs of its task and its events, no others; it stands in the task's list with its last dispatch."""
    task, other = await api.create_task(name="hooked"), await api.create_task(name="other")
    given = {"eventTypes": ["ACTOR.RUN.FAILED"], "requestUrl": receiver.url, "condition": {"actorTaskId": "~hooked"}}
    created = await api.send("POST", "/v2/webhooks", given)
    assert created.status == 201, created.body
    starts: list[tuple[str, Any]] = [(other, {"fail": 1}), (task, {}), (task, {"fail": 1})]
    *_, run = [await api.finish((await api.start(*start)).data["id"]) for start in starts]
    await _dispatch(api, _is_over)
    assert [payload["resource"]["id"] for payload in await receiver.wait_for(1)] == [run["id"]]
    (listed,) = (await api.get(f"/v2/actor-tasks/{task}/webhooks")).data["items"]
    assert (listed["id"], listed["stats"]) == (created.data["id"], {"totalDispatches": 1})
    assert listed["lastDispatch"]["status"] == "SUCCEEDED"
    assert (await api.get(f"/v2/actor-tasks/{other}/webhooks")).data["total"] == 0


async def test_a_new_build_sets_off_webhooks(tmp_path: Path, receiver: Receiver) -> None:
    """Created and succeeded at once, for the Actor that the condition names; also one that was changed meanwhile."""
    code = anyio.Path(tmp_path / "actors" / "one" / "__main__.py")
    await (code.parent / ".actor").mkdir(parents=True)
    await (code.parent / ".actor" / "actor.json").write_text('{"name": "one", "version": "0.1"}')
    await code.write_text("print(1)")
    settings: dict[str, Any] = {"actors": (tmp_path / "actors",), "reload_every_s": 3600}
    async with open_api(tmp_path / "server", **settings) as api:
        for actor, event in (("local~one", "ACTOR.BUILD.CREATED"), ("test~echo", "ACTOR.BUILD.SUCCEEDED")):
            hook = {"eventTypes": [event], "requestUrl": receiver.url, "condition": {"actorId": actor}}
            assert (await api.send("POST", "/v2/webhooks", hook)).status == 201
        hook = {"eventTypes": ["ACTOR.BUILD.SUCCEEDED"], "requestUrl": receiver.url}
        assert (await api.send("POST", "/v2/webhooks", hook)).status == 201
        await code.write_text("print(2)")
        await api.server._backend.builds.look()
        payloads = await receiver.wait_for(2)
        build = (await api.get("/v2/actors/local~one/builds/default")).data
    await code.write_text("print(3)")
    async with open_api(tmp_path / "server", **settings):
        payloads = await receiver.wait_for(4)
    assert sorted(payload["eventType"] for payload in payloads) == [
        *["ACTOR.BUILD.CREATED"] * 2,
        *["ACTOR.BUILD.SUCCEEDED"] * 2,
    ]
    assert [payload["resource"]["buildNumber"] for payload in payloads] == ["0.1.2"] * 2 + ["0.1.3"] * 2
    assert payloads[0]["eventData"] == {"actorId": build["actId"], "actorBuildId": build["id"]}
    assert payloads[0]["resource"] == build


async def test_starts_and_resurrections_are_events_too(api: Api, receiver: Receiver) -> None:
    """CREATED, SUCCEEDED, RESURRECTED, SUCCEEDED; a webhook of one Run fires in its second life as well."""
    events = ["ACTOR.RUN.CREATED", "ACTOR.RUN.RESURRECTED", *_ENDS]
    webhooks = _adhoc({"eventTypes": events, "requestUrl": receiver.url})
    run = (await api.send("POST", "/v2/actors/test~echo/runs", {}, webhooks=webhooks, waitForFinish=60)).data
    await receiver.wait_for(2)
    await api.send("POST", f"/v2/actor-runs/{run['id']}/resurrect")
    seen = sorted(payload["eventType"] for payload in await receiver.wait_for(4))
    assert seen == ["ACTOR.RUN.CREATED", "ACTOR.RUN.RESURRECTED", "ACTOR.RUN.SUCCEEDED", "ACTOR.RUN.SUCCEEDED"]


async def test_templates_decide_payload_and_headers(api: Api, receiver: Receiver) -> None:
    """Fixed headers stay what they are."""
    webhook = {
        "eventTypes": _ENDS,
        "requestUrl": receiver.url,
        "payloadTemplate": '{"run": {{resource.id}}, "text": "it {{eventType}}"}',
        "headersTemplate": '{"X-Run": "{{resource.id}}", "Content-Type": "text/plain", "X-Apify-Webhook": "me"}',
        "shouldInterpolateStrings": True,
    }
    run = (await api.send("POST", "/v2/actors/test~echo/runs", {}, webhooks=_adhoc(webhook))).data
    (payload,) = await receiver.wait_for(1)
    headers, _ = receiver.received[0]
    assert payload == {"run": run["id"], "text": "it ACTOR.RUN.SUCCEEDED"}
    assert (headers["X-Run"], headers["Content-Type"]) == (run["id"], "application/json; charset=utf-8")
    assert headers["X-Apify-Webhook"] != "me"


async def test_what_is_not_a_2xx_is_tried_again(api: Api, receiver: Receiver) -> None:
    """Until one comes; every try stands in the dispatch; after the 2xx there is none."""
    receiver.statuses = [500, 302, 404]
    webhooks = _adhoc({"eventTypes": _ENDS, "requestUrl": receiver.url})
    await api.send("POST", "/v2/actors/test~echo/runs", {}, webhooks=webhooks)
    dispatch = await _dispatch(api, _is_over)
    assert [call["responseStatus"] for call in dispatch["calls"]] == [500, 302, 404, 200]
    assert dispatch["status"] == "SUCCEEDED"
    assert len(receiver.received) == 4
    assert (await api.get(f"/v2/webhook-dispatches/{dispatch['id']}")).data == dispatch


async def test_it_gives_up_when_it_is_told_to(api: Api, receiver: Receiver) -> None:
    """`doNotRetry` tries once; a receiver that is not there is an error like another."""
    receiver.statuses = [500]
    once = {"eventTypes": _ENDS, "requestUrl": receiver.url, "doNotRetry": True}
    gone = {"eventTypes": _ENDS, "requestUrl": "http://127.0.0.1:1/nobody", "doNotRetry": True}
    await api.send("POST", "/v2/actors/test~echo/runs", {}, webhooks=_adhoc(once, gone))
    failed = await _dispatch(api, lambda one: _is_over(one) and one["webhook"]["requestUrl"] == receiver.url)
    lost = await _dispatch(api, lambda one: _is_over(one) and one["webhook"]["requestUrl"] == gone["requestUrl"])
    assert (failed["status"], len(failed["calls"]), len(receiver.received)) == ("FAILED", 1, 1)
    assert (lost["status"], "errorMessage" in lost["calls"][0]) == ("FAILED", True)


async def test_a_payload_that_is_too_large_is_neither_sent_nor_tried_again(
    api: Api, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dispatch says so. Nor has an ended Run a status message of any length."""
    monkeypatch.setattr(webhook_templates, "_MAX_RENDERED", 5_000)
    run = await api.run_actor("test~echo", {}, waitForFinish=60)
    changed = await api.send("PUT", f"/v2/actor-runs/{run['id']}", {"statusMessage": "x" * 2_000})
    assert len(changed.data["statusMessage"]) == 1_000
    template = '{"a": [' + ",".join(["{{resource.statusMessage}}"] * 10) + "]}"
    given = {"eventTypes": _ENDS, "requestUrl": receiver.url, "condition": {"actorRunId": run["id"]}}
    webhook = (await api.send("POST", "/v2/webhooks", {**given, "payloadTemplate": template})).data["id"]
    assert (await api.send("POST", f"/v2/webhooks/{webhook}/test")).status == 201
    over = await _dispatch(api, _is_over)
    assert (over["status"], len(over["calls"]), receiver.received) == ("FAILED", 1, [])
    assert "more than 5,000 characters" in over["calls"][0]["errorMessage"]


async def test_eleven_retries_are_the_last(tmp_path: Path, receiver: Receiver) -> None:
    """Then the dispatch has failed."""
    receiver.statuses = [500] * 50
    async with open_api(tmp_path / "server", actors=(ACTORS,), webhook_retry_s=0) as api:
        webhooks = _adhoc({"eventTypes": _ENDS, "requestUrl": receiver.url})
        await api.send("POST", "/v2/actors/test~echo/runs", {}, webhooks=webhooks)
        dispatch = await _dispatch(api, _is_over)
    assert (dispatch["status"], len(dispatch["calls"]), len(receiver.received)) == ("FAILED", 12, 12)


async def test_what_is_not_delivered_is_delivered_after_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    """Tries go on where they stopped; what was delivered is not delivered again."""
    receiver.statuses = [200, 503]
    one, two = {"eventTypes": _ENDS, "requestUrl": receiver.url}, {"eventTypes": _ENDS, "requestUrl": receiver.url}
    async with open_api(tmp_path, actors=(ACTORS,), webhook_retry_s=0.3) as api:
        await api.send("POST", "/v2/actors/test~echo/runs", {}, webhooks=_adhoc(one, two))
        await _dispatch(api, lambda one: one["status"] == "ACTIVE" and len(one["calls"]) == 1)
        await _dispatch(api, _is_over)
    async with open_api(tmp_path, **SERVER) as api:
        dispatch = await _dispatch(api, lambda one: _is_over(one) and len(one["calls"]) == 2)
        assert [call["responseStatus"] for call in dispatch["calls"]] == [503, 200]
        assert [one["status"] for one in (await api.get("/v2/webhook-dispatches")).data["items"]] == ["SUCCEEDED"] * 2
    assert len(receiver.received) == 3


async def test_a_call_whose_answer_was_not_kept_is_made_again(tmp_path: Path, receiver: Receiver) -> None:
    """At least once: the server is killed while the receiver has the call; the next one makes it again, with its id."""
    query = f"?webhooks={quote(_adhoc({'eventTypes': ['ACTOR.RUN.SUCCEEDED'], 'requestUrl': receiver.url}))}"
    async with _serving(tmp_path) as (process, session):
        receiver.on_call = process.kill
        async with session.post(f"/v2/actors/test~worker/runs{query}", json={"n": 1}) as response:
            assert response.status == 201
        await receiver.wait_for(1)
        await process.wait()
    receiver.on_call = lambda: None
    async with _serving(tmp_path):
        await receiver.wait_for(2)
    first, second = (headers["X-Apify-Webhook-Dispatch-Id"] for headers, _ in receiver.received)
    assert first == second


@asynccontextmanager
async def _serving(path: Path) -> AsyncIterator[tuple[anyio.abc.Process, aiohttp.ClientSession]]:
    """Run a server as a process of its own."""
    command = [sys.executable, "-m", "tests.support.api_process", str(path), "0", "0.1"]
    async with await anyio.open_process(command) as process:
        assert process.stdout is not None
        base_url = (await process.stdout.receive()).decode().strip()
        headers = {"Authorization": f"Bearer {api_process.TOKEN}"}
        async with aiohttp.ClientSession(base_url, headers=headers) as session:
            yield process, session
        with suppress(ProcessLookupError):
            process.kill()


async def test_an_idempotency_key_makes_one_webhook(api: Api, receiver: Receiver) -> None:
    """A start that is sent twice starts two Runs, but calls for the first only; creating answers with the known one."""
    webhooks = _adhoc({"eventTypes": _ENDS, "requestUrl": receiver.url, "idempotencyKey": "k"})
    runs = [
        (await api.send("POST", "/v2/actors/test~echo/runs", {}, webhooks=webhooks, waitForFinish=60)).data
        for _ in range(2)
    ]
    await _dispatch(api, _is_over)
    assert [payload["resource"]["id"] for payload in await receiver.wait_for(1)] == [runs[0]["id"]]
    given = {"eventTypes": _ENDS, "requestUrl": receiver.url, "condition": {}, "idempotencyKey": "other"}
    first, second = await api.send("POST", "/v2/webhooks", given), await api.send("POST", "/v2/webhooks", given)
    assert (first.status, second.status, first.data["id"]) == (201, 200, second.data["id"])


async def test_a_webhook_is_changed_tested_and_deleted_by_the_official_client(api: Api, receiver: Receiver) -> None:
    """Everything that `apify-client` offers for webhooks."""
    client = ApifyClientAsync(api.server.token, api_url=api.server.base_url)
    actor = await client.actor("test/echo").get()
    assert actor is not None
    created = await client.webhooks().create(
        event_types=["ACTOR.RUN.SUCCEEDED"], request_url=receiver.url, actor_id=actor.id
    )
    webhook = client.webhook(created.id)
    updated = await webhook.update(description="mine", event_types=["ACTOR.RUN.FAILED"])
    assert (updated.description, updated.event_types) == ("mine", ["ACTOR.RUN.FAILED"])
    tested = await webhook.test()
    assert (tested.event_type, tested.webhook_id) == ("TEST", created.id)
    assert (await receiver.wait_for(1))[0]["eventType"] == "TEST"
    assert [item.id for item in (await client.webhooks().list()).items] == [created.id]
    dispatched = (await webhook.dispatches().list()).items
    assert [one.id for one in dispatched] == [tested.id]
    assert (await client.webhook_dispatch(tested.id).get()) is not None
    await webhook.delete()
    assert await webhook.get() is None


@pytest.mark.parametrize(
    "given",
    [
        {"eventTypes": ["ACTOR.RUN.EXPLODED"], "requestUrl": "http://a.test"},
        {"eventTypes": [], "requestUrl": "http://a.test"},
        {"eventTypes": ["ACTOR.RUN.FAILED"], "requestUrl": "ftp://a.test"},
        {"eventTypes": ["ACTOR.RUN.FAILED"], "requestUrl": "http://[bad"},
        {"eventTypes": ["ACTOR.RUN.FAILED"], "requestUrl": "http://a.test", "payloadTemplate": "{"},
        {"eventTypes": ["ACTOR.RUN.FAILED"], "requestUrl": "http://a.test", "description": {"a": 1}},
        {"requestUrl": "http://a.test"},
    ],
)
async def test_a_webhook_that_cannot_be_is_refused(api: Api, given: Any) -> None:
    """400 on creation and on a start, and no Run starts."""
    assert (await api.send("POST", "/v2/webhooks", {"condition": {}, **given})).status == 400
    assert (await api.send("POST", "/v2/actors/test~echo/runs", {}, webhooks=_adhoc(given))).status == 400
    assert api.server.runs_started == 0


async def test_the_webhooks_of_live_runs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in memory; those of an ended Run are not."""
    monkeypatch.setattr(webhook_book, "_MAX_OF_RUNS_BYTES", 1_000)
    sleeps = {"test/sleep": lambda _context: anyio.sleep_forever()}
    async with open_api(tmp_path / "server", inline_actors=sleeps) as api:
        run = (await api.run_actor("test~sleep"))["id"]
        hook = {"eventTypes": ["ACTOR.RUN.FAILED"], "requestUrl": "http://a.test", "description": "x" * 1_500}
        of_run = {**hook, "condition": {"actorRunId": run}}
        assert (await api.send("POST", "/v2/webhooks", of_run)).status == 201
        assert (await api.send("POST", "/v2/webhooks", of_run)).error_type == "too-many-webhooks"
        stored = (await api.send("POST", "/v2/webhooks", {**hook, "condition": {}})).data["id"]
        assert (await api.send("PUT", f"/v2/webhooks/{stored}", of_run)).error_type == "too-many-webhooks"
        assert (await api.send("POST", f"/v2/actor-runs/{run}/abort")).status == 200
        await api.finish(run)
        for _ in range(2):
            assert (await api.send("PUT", f"/v2/webhooks/{stored}", of_run)).status == 200
            assert (await api.send("PUT", f"/v2/webhooks/{stored}", {**hook, "condition": {}})).status == 200


async def test_webhooks_that_come_at_once_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that are about to be stored, and one of a Run that becomes one of the account."""
    monkeypatch.setattr(webhook_book, "_MAX_STORED", 3)
    monkeypatch.setattr(webhook_book, "_MAX_OF_RUNS_BYTES", 5_000)
    hook = {"eventTypes": ["ACTOR.RUN.FAILED"], "requestUrl": "http://a.test"}
    sleeps = {"test/sleep": lambda _context: anyio.sleep_forever()}
    statuses: dict[str, list[int]] = {"account": [], "run": []}
    async with open_api(tmp_path / "server", inline_actors=sleeps) as api, anyio.create_task_group() as children:
        of_run = hook | {"condition": {"actorRunId": (await api.run_actor("test~sleep"))["id"]}}

        async def create(kind: str, given: Any) -> None:
            statuses[kind].append((await api.send("POST", "/v2/webhooks", given)).status)

        async with anyio.create_task_group() as creating:
            for _ in range(8):
                creating.start_soon(create, "account", hook)
                creating.start_soon(create, "run", of_run)
        assert {kind: sorted(each) for kind, each in statuses.items()} == {
            "account": [201] * 3 + [403] * 5,
            "run": [201] * 3 + [403] * 5,
        }
        of_runs = [each for each in (await api.get("/v2/webhooks")).data["items"] if "actorRunId" in each["condition"]]
        others: list[Any] = [{**hook, "condition": {}}, {**of_run, "description": "x"}]
        for given in others:
            changed = await api.send("PUT", f"/v2/webhooks/{of_runs[0]['id']}", given)
            assert changed.refusal == (403, "too-many-webhooks")
        children.cancel_scope.cancel()


async def test_webhooks_of_a_run_are_counted_when_it_has_ended_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They come back into memory when it is started again; one that becomes one of a Run is none of the account's."""
    monkeypatch.setattr(webhook_table, "_MAX_OF_RUN", 3)
    hook = {"eventTypes": ["ACTOR.RUN.FAILED"], "requestUrl": "http://a.test"}
    async with open_api(tmp_path / "server") as api:
        run = (await api.run_actor("test~echo", {}, waitForFinish=60))["id"]
        of_run = {**hook, "condition": {"actorRunId": run}}
        stored = [(await api.send("POST", "/v2/webhooks", hook)).data["id"] for _ in range(3)]
        changed = [await api.send("PUT", f"/v2/webhooks/{each}", of_run) for each in stored[:2]]
        created = [await api.send("POST", "/v2/webhooks", of_run) for _ in range(3)]
        refused = await api.send("PUT", f"/v2/webhooks/{stored[2]}", of_run)
    assert [each.status for each in (*changed, *created, refused)] == [200, 200, 201, 403, 403, 403]
    async with open_api(tmp_path / "server") as api:
        book, account = api.server._backend.webhooks, api.server._backend.accounts.first
        assert [each["id"] for each in book.of_account(account)] == [stored[2]]
        deleted = await book.find(stored[2], account)
        await book.delete(deleted)
        with pytest.raises(ErrorAnswer, match="was not found"):
            await book.update(deleted, hook)
        assert book.of_account(account) == []


async def test_an_accounts_slow_receivers_delay_no_other_account(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has so many calls at once; who has many that wait asks for no more. So it is after a restart."""
    monkeypatch.setattr(webhook_delivery, "_MAX_OPEN_CALLS", 2)
    monkeypatch.setattr(webhook_delivery, "_MAX_ASKED_FOR", 5)
    settings = {**SERVER, "accounts": (AccountSettings(username="bob", token="bob"),)}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        slow = {"eventTypes": ["TEST"], "requestUrl": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        for life in range(2):
            async with open_api(tmp_path / "server", **settings) as api:
                hook = (await api.send("POST", "/v2/webhooks", slow, token="bob")).data["id"]
                asked = [await api.send("POST", f"/v2/webhooks/{hook}/test", token="bob") for _ in range(6)]
                assert [each.status for each in asked] == ([201] * 5 + [429] if life == 0 else [429] * 6)
                mine = (await api.send("POST", "/v2/webhooks", {**slow, "requestUrl": receiver.url})).data["id"]
                assert (await api.send("POST", f"/v2/webhooks/{mine}/test")).status == 201
                await receiver.wait_for(life + 1)


async def test_an_account_whose_receivers_names_are_slow_delays_no_other_account(
    tmp_path: Path, receiver: Receiver
) -> None:
    """As many as its calls at once are looked up meanwhile."""
    settings = {**SERVER, "accounts": (AccountSettings(username="bob", token="bob"),)}
    async with open_api(tmp_path / "server", **settings) as api:
        with slow_names(receiver=["127.0.0.1"]) as looked_up:
            for number in range(16):
                slow = {"eventTypes": ["TEST"], "requestUrl": f"http://slow-{number}/"}
                hook = (await api.send("POST", "/v2/webhooks", slow, token="bob")).data["id"]
                assert (await api.send("POST", f"/v2/webhooks/{hook}/test", token="bob")).status == 201
            await until_looked_up(looked_up, 1)
            mine = {"eventTypes": ["TEST"], "requestUrl": receiver.url.replace("127.0.0.1", "receiver")}
            hook = (await api.send("POST", "/v2/webhooks", mine)).data["id"]
            assert (await api.send("POST", f"/v2/webhooks/{hook}/test")).status == 201
            await receiver.wait_for(1)


async def test_webhooks_are_private(tmp_path: Path, receiver: Receiver) -> None:
    """Nobody sees, changes or sets off another account's webhook, nor hooks into another's Runs."""
    async with open_api(tmp_path / "server", **SERVER, accounts=(AccountSettings(username="bob", token="bob"),)) as api:
        mine = {"eventTypes": _ENDS, "requestUrl": receiver.url}
        webhook = (await api.send("POST", "/v2/webhooks", mine)).data["id"]
        run = (await api.send("POST", "/v2/actors/test~echo/runs", {}, token="bob", waitForFinish=60)).data
        for method in ("GET", "PUT", "DELETE"):
            assert (await api.send(method, f"/v2/webhooks/{webhook}", mine, token="bob")).status == 404
        hooked = {**mine, "condition": {"actorRunId": run["id"]}}
        assert (await api.send("POST", "/v2/webhooks", hooked)).status == 403
        assert (await api.get("/v2/webhook-dispatches")).data["total"] == 0
        assert (await api.send("GET", "/v2/webhooks", token="bob")).data["total"] == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_a_webhook_reaches_no_private_address(tmp_path: Path, receiver: Receiver, host: str) -> None:
    """By default, whatever its name; the dispatch says why, and this server itself is reached."""
    async with open_api(tmp_path / "server", webhook_retry_s=0, allow_private_addresses=False) as api:
        url = receiver.url.replace("127.0.0.1", host)
        hook = {"eventTypes": _ENDS, "requestUrl": url, "doNotRetry": True}
        own = {"eventTypes": _ENDS, "requestUrl": f"{api.server.base_url}/v2/users/me", "doNotRetry": True}
        await api.send("POST", "/v2/actors/test~echo/runs", {}, webhooks=_adhoc(hook, own))
        refused = await _dispatch(api, lambda one: _is_over(one) and one["webhook"]["requestUrl"] == url)
        reached = await _dispatch(api, lambda one: _is_over(one) and one["webhook"]["requestUrl"] != url)
    assert "allow_private_addresses" in refused["calls"][0]["errorMessage"]
    assert reached["calls"][0]["responseStatus"] == 405
    assert receiver.received == []


async def test_a_call_to_this_server_carries_the_accounts_token(api: Api) -> None:
    """As on the platform: a webhook may start the next task without a token in its URL."""
    task = await api.create_task(name="second")
    url = f"{api.server.base_url}/v2/actor-tasks/{task}/runs"
    webhook = {"eventTypes": _ENDS, "requestUrl": url, "payloadTemplate": '{"after": {{resource.id}}}'}
    first = (await api.send("POST", "/v2/actors/test~echo/runs", {}, webhooks=_adhoc(webhook))).data
    dispatch = await _dispatch(api, _is_over)
    assert dispatch["calls"][0]["responseStatus"] == 201
    last = (await api.get(f"/v2/actor-tasks/{task}/runs/last", waitForFinish=60)).data
    items = await api.items(last)
    assert items == [{"after": first["id"]}]
    assert last["meta"]["origin"] == "WEBHOOK"


@pytest.mark.parametrize(("path", "status"), [("/page/session", 403), ("/v2/users/me?method=GET", 200)])
async def test_a_call_to_this_server_is_shown_no_more_than_a_run(api: Api, path: str, status: int) -> None:
    """A Run may have made the webhook, and reads the answer: it gets no key that lasts longer, and no billing."""
    webhook = {"eventTypes": _ENDS, "requestUrl": f"{api.server.base_url}{path}", "doNotRetry": True}
    await api.send("POST", "/v2/actors/test~echo/runs", {}, webhooks=_adhoc(webhook))
    (call,) = (await _dispatch(api, _is_over))["calls"]
    assert call["responseStatus"] == status
    assert "batchrun_page_" not in call["responseBody"]
    assert "plan" not in call["responseBody"]


async def test_webhooks_do_not_test_each_other(api: Api) -> None:
    """A ring of them would never end, not even with the server."""
    given: dict[str, Any] = {"eventTypes": ["TEST"], "requestUrl": "http://x.invalid/", "doNotRetry": True}
    hook = (await api.send("POST", "/v2/webhooks", given)).data["id"]
    ring = {"requestUrl": f"{api.server.base_url}/v2/webhooks/{hook}/test"}
    assert (await api.send("PUT", f"/v2/webhooks/{hook}", ring)).status == 200
    assert (await api.send("POST", f"/v2/webhooks/{hook}/test")).status == 201
    assert (await _dispatch(api, _is_over))["calls"][0]["responseStatus"] == 403
    assert (await api.get("/v2/webhook-dispatches")).data["total"] == 1


@pytest.mark.parametrize(("host", "whose"), [("127.0.0.1", "account"), ("localhost", "account"), ("localhost", "run")])
async def test_webhooks_that_start_runs_set_each_other_off_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, whose: str
) -> None:
    """A webhook may start what sets it off, so many times; with a token in another spelling of the URL too."""
    monkeypatch.setattr(webhook_chains, "_MAX_RUNS", 3)
    async with open_api(tmp_path, inline_actors={"test/waits": lambda _: anyio.sleep_forever()}) as api:
        waits = (await api.run_actor("test~waits"))["id"]
        token = api.server.token if whose == "account" else api.server._backend.tokens.of_run(waits, 0)
        url = f"http://{host}:{urlsplit(api.server.base_url).port}/v2/actors/test~echo/runs?token={token}"
        hook = {"eventTypes": ["ACTOR.RUN.CREATED"], "requestUrl": url, "doNotRetry": True}
        assert (await api.send("POST", "/v2/webhooks", hook)).status == 201
        run = await api.run_actor("test~echo")
        refused = await _dispatch(api, lambda one: one["status"] == "FAILED")
        assert refused["calls"][0]["responseStatus"] == 403
        assert run["id"] in refused["calls"][0]["responseBody"]
        assert (await api.get("/v2/actors/test~echo/runs")).data["total"] == 1 + 3


async def test_webhooks_of_two_accounts_set_each_other_off_to_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each account counts its own Runs of the chain, and learns no id of the other's."""
    monkeypatch.setattr(webhook_chains, "_MAX_RUNS", 3)
    async with open_api(tmp_path, accounts=(AccountSettings(username="bob", token="bob's"),)) as api:
        tokens = api.server.tokens
        for own, other in (("local", "bob"), ("bob", "local")):
            # By another name of this server: to its own address a call carries the token of its webhook's account.
            at = f"http://localhost:{urlsplit(api.server.base_url).port}"
            url = f"{at}/v2/actors/test~echo/runs?token={quote(tokens[other])}"
            hook = {"eventTypes": ["ACTOR.RUN.CREATED"], "requestUrl": url, "doNotRetry": True}
            assert (await api.send("POST", "/v2/webhooks", hook, token=tokens[own])).status == 201
        run = await api.run_actor("test~echo")
        refused = await _dispatch(api, lambda one: one["status"] == "FAILED")
        assert refused["calls"][0]["responseStatus"] == 403
        assert run["id"] not in refused["calls"][0]["responseBody"]
        counts = [(await api.send("GET", "/v2/actor-runs", token=each)).data["total"] for each in tokens.values()]
        assert counts == [1 + 3, 3]


async def test_a_chain_goes_through_what_its_runs_start_and_through_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Run that a webhook has started belongs to it, and so does what its Actor starts with its own token."""
    monkeypatch.setattr(webhook_chains, "_MAX_RUNS", 4)
    apis: list[Api] = []

    async def heir(context: InlineContext) -> None:
        token = apis[-1].server._backend.tokens.of_run(context.run_id, 0)
        await apis[-1].send("POST", "/v2/actors/test~echo/runs", token=token)

    hook = {"eventTypes": ["ACTOR.RUN.SUCCEEDED"], "condition": {"actorId": "test~echo"}, "doNotRetry": True}
    start = "/v2/actors/test~echo/runs"
    for _ in range(2):
        async with open_api(tmp_path / "server", inline_actors={"test/heir": heir}) as api:
            apis.append(api)
            url = f"{api.server.base_url}/v2/actors/test~heir/runs"
            webhook = (await api.send("POST", "/v2/webhooks", hook | {"requestUrl": url})).data["id"]
            assert (await api.send("POST", start)).status < 300
            await _dispatch(api, lambda one: one["status"] == "FAILED", f"/v2/webhooks/{webhook}/dispatches")
            assert (await api.get("/v2/actor-runs")).data["total"] == 1 + 4, start
            assert (await api.send("DELETE", f"/v2/webhooks/{webhook}")).status == 204
            last = (await api.get("/v2/actors/test~echo/runs/last")).data["id"]
            start = f"/v2/actor-runs/{last}/resurrect"


async def test_a_webhook_does_not_resurrect_a_run_without_an_end(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may, so many times; its account's people may go on."""
    monkeypatch.setattr(webhook_chains, "_MAX_RESURRECTIONS", 2)
    run = await api.finish((await api.run_actor("test~echo"))["id"])
    path = f"/v2/actor-runs/{run['id']}/resurrect"
    hook = {"eventTypes": _ENDS, "requestUrl": f"{api.server.base_url}{path}", "doNotRetry": True}
    assert (await api.send("POST", "/v2/webhooks", hook)).status == 201
    assert (await api.send("POST", path)).status == 200
    refused = await _dispatch(api, lambda one: one["status"] == "FAILED")
    assert refused["calls"][0]["responseStatus"] == 403
    assert (await api.get(f"/v2/actor-runs/{run['id']}")).data["stats"]["resurrectCount"] == 2
    assert (await api.send("POST", path)).status == 200
