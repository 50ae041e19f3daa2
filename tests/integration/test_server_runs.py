"""Runs over HTTP, with inline Actors: waiting, lists, limits, aborts, endings, restarts of the server."""

import base64
import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import orjson
import pytest

from batchrun.server import InlineContext
from batchrun.server.runs import lifecycle
from batchrun.server.store import run_table
from tests.support.server_api import Api, open_api


class Gate:
    """An inline Actor that waits until it is let go."""

    def __init__(self) -> None:
        self.opened = anyio.Event()

    async def __call__(self, context: InlineContext) -> None:
        """Wait, then push how often this Run has come here."""
        await self.opened.wait()
        await context.push_items([{"run": context.run_id}])


async def test_a_run_goes_through_its_statuses_and_shows_its_end(tmp_path: Path) -> None:
    """Live, then SUCCEEDED with exit code, times, stats and cost; its User-Agent and address are noted."""
    gate = Gate()
    async with open_api(tmp_path, inline_actors={"test/gate": gate}, usage_settle_s=0) as api:
        task = await api.create_task("test/gate", name="gate")
        path = f"/v2/actor-tasks/{task}/runs"
        answer = await api.send("POST", path, headers={"User-Agent": "batchrun/0 (märk)".encode().decode("latin-1")})
        run = answer.data
        assert (answer.status, run["status"], run["finishedAt"]) == (201, "RUNNING", None)
        assert answer.headers["Location"].endswith(f"{path}/{run['id']}")
        assert run["meta"]["origin"] == "API"
        assert run["meta"]["clientIp"] == "127.0.0.1"
        gate.opened.set()
        ended = await api.finish(run["id"])
    assert (ended["status"], ended["exitCode"], ended["id"]) == ("SUCCEEDED", 0, run["id"])
    assert ended["finishedAt"] >= ended["startedAt"] == run["startedAt"]
    assert ended["usage"]["DATASET_WRITES"] == 1
    assert ended["usageTotalUsd"] == pytest.approx(sum(ended["usageUsd"].values()))
    assert ended["stats"]["durationMillis"] >= 1


async def test_a_poll_wakes_when_the_run_ends(tmp_path: Path) -> None:
    """`waitForFinish`, even an absurd one, is answered with the end, by an event."""
    gate = Gate()
    async with open_api(tmp_path, inline_actors={"test/gate": gate}) as api:
        run = (await api.start(await api.create_task("test/gate", name="gate"))).data
        answers: list[Any] = []

        async def poll() -> None:
            answers.append(await api.get(f"/v2/actor-runs/{run['id']}", waitForFinish=999999))

        async with anyio.create_task_group() as children:
            for _ in range(20):
                children.start_soon(poll)
            assert (await api.get(f"/v2/actor-runs/{run['id']}")).data["status"] == "RUNNING"
            gate.opened.set()
    assert [answer.data["status"] for answer in answers] == ["SUCCEEDED"] * 20


async def test_a_start_may_wait_for_the_end(api: Api) -> None:
    """`waitForFinish` on the start answers 201 with the ended Run."""
    answer = await api.start(await api.create_task(name="fast"), {"a": 1}, waitForFinish=60)
    assert (answer.status, answer.data["status"]) == (201, "SUCCEEDED")


@pytest.mark.parametrize(
    ("override", "exit_code", "message"),
    [
        ({"fail": 7}, 7, "The Actor process failed with exit code 7"),
        ({"fail": 1, "message": "no"}, 1, "no"),
        ({"raise": "boom"}, 91, "The Actor process failed with exit code 91"),
    ],
)
async def test_a_failing_actor_fails_its_run_only(api: Api, override: object, exit_code: int, message: str) -> None:
    """FAILED with exit code and message; what it has pushed stays; the server goes on."""
    task = await api.create_task(name="fails")
    run = await api.finish((await api.start(task, override)).data["id"])
    assert (run["status"], run["exitCode"], run["statusMessage"]) == ("FAILED", exit_code, message)
    assert await api.items(run) == [override]
    assert (await api.start(task, waitForFinish=60)).data["status"] == "SUCCEEDED"


async def test_a_run_out_of_time_is_timed_out(tmp_path: Path) -> None:
    """TIMED-OUT, without an exit code."""
    async with open_api(tmp_path, inline_actors={"test/gate": Gate()}) as api:
        task = await api.create_task("test/gate", name="slow")
        run = await api.finish((await api.start(task, timeout=1)).data["id"])
    assert (run["status"], run["exitCode"]) == ("TIMED-OUT", None)


async def test_an_aborted_run_is_aborted_and_frees_its_slot(tmp_path: Path) -> None:
    """Abort answers 200 with ABORTING or ABORTED; a second abort changes nothing; the limit has room again."""
    async with open_api(
        tmp_path, inline_actors={"test/gate": Gate()}, max_concurrent_runs=1, usage_settle_s=3600
    ) as api:
        task = await api.create_task("test/gate", name="gate")
        run = (await api.start(task)).data
        assert (await api.start(task)).refusal == (402, "concurrent-runs-limit-exceeded")
        answer = await api.send("POST", f"/v2/actor-runs/{run['id']}/abort", gracefully="true")
        assert answer.status == 200
        assert answer.data["status"] in ("ABORTING", "ABORTED")
        assert (await api.finish(run["id"]))["status"] == "ABORTED"
        assert (await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")).data["status"] == "ABORTED"
        assert (await api.start(task)).status == 201
        assert (api.server.peak_live_runs, api.server.live_runs, api.server.runs_started) == (1, 1, 2)


async def test_memory_of_live_runs_is_reserved(tmp_path: Path) -> None:
    """402 `actor-memory-limit-exceeded` when the account's memory would be exceeded; the limits show what is used."""
    async with open_api(tmp_path, inline_actors={"test/gate": Gate()}, max_total_memory_mb=1024) as api:
        task = await api.create_task("test/gate", name="gate")
        first = (await api.start(task, memory=512)).data
        assert (await api.start(task, memory=1024)).refusal == (402, "actor-memory-limit-exceeded")
        current = (await api.get("/v2/users/me/limits")).data["current"]
        assert (current["actorMemoryGbytes"], current["activeActorJobCount"]) == (0.5, 1)
        await api.send("POST", f"/v2/actor-runs/{first['id']}/abort")
        await api.finish(first["id"])
        current = (await api.get("/v2/users/me/limits")).data["current"]
        assert (current["actorMemoryGbytes"], current["activeActorJobCount"]) == (0, 0)


async def test_runs_are_listed_by_task_by_status_and_by_time(api: Api) -> None:
    """Lists show the short form, in order of start; a filter that is no filter is refused."""
    one, two = await api.create_task(name="one"), await api.create_task(name="two")
    good = (await api.start(one, waitForFinish=60)).data
    bad = (await api.start(one, {"fail": 1}, waitForFinish=60)).data
    other = (await api.start(two, waitForFinish=60)).data

    async def ids(path: str, **query: Any) -> list[str]:
        return [item["id"] for item in (await api.get(path, **query)).data["items"]]

    runs = f"/v2/actor-tasks/{one}/runs"
    assert await ids(runs) == [good["id"], bad["id"]]
    assert await ids(runs, desc="true", limit=1) == [bad["id"]]
    assert await ids(runs, status="FAILED,TIMED-OUT") == [bad["id"]]
    assert await ids("/v2/actor-runs", offset=1) == [bad["id"], other["id"]]
    assert (await ids("/v2/actor-runs", startedAfter=other["startedAt"], desc=1))[:1] == [other["id"]]
    assert await ids("/v2/actor-runs", startedBefore="2000-01-01T00:00:00Z") == []
    assert await ids("/v2/actors/test~echo/runs", status="SUCCEEDED") == [good["id"], other["id"]]
    item = (await api.get(runs)).data["items"][0]
    assert item["meta"] == {"origin": "API"}
    assert item["usageTotalUsd"] == good["usageTotalUsd"]
    assert "stats" not in item
    assert (await api.get(runs, status="DONE")).error_type == "invalid-value"
    assert (await api.get("/v2/actor-runs", startedAfter="yesterday")).error_type == "invalid-value"


async def test_the_last_run_of_a_task_has_all_shortcuts(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """`runs/last`, filtered by status, leads to the Run and to its storages; it is searched among many, but not all."""
    task = await api.create_task(name="last")
    last = f"/v2/actor-tasks/{task}/runs/last"
    assert (await api.get(last)).error_type == "record-not-found"
    good = (await api.start(task, {"n": 1}, waitForFinish=60)).data
    bad = (await api.start(task, {"fail": 1}, waitForFinish=60)).data
    assert (await api.get(last)).data["id"] == bad["id"]
    assert (await api.get(last, status="SUCCEEDED")).data["id"] == good["id"]
    assert (await api.get(f"{last}/dataset/items", status="SUCCEEDED")).body == [{"n": 1}]
    assert (await api.get(f"{last}/key-value-store/records/OUTPUT")).body == {"fail": 1}
    for origin, found in (("API", bad["id"]), ("WEBHOOK", None)):
        answer = await api.get(last, origin=origin)
        assert (answer.data["id"] if answer.status == 200 else None) == found
    monkeypatch.setattr(run_table, "_LAST_SEARCHED", 1)
    assert (await api.get(last)).data["id"] == bad["id"]
    assert (await api.get(last, status="SUCCEEDED")).error_type == "record-not-found"


async def test_nobody_waits_for_the_end_of_a_run_that_he_may_not_read(tmp_path: Path) -> None:
    """The time of the refusal would tell of it."""
    gate = Gate()
    async with open_api(tmp_path, inline_actors={"test/gate": gate}, is_restricted=True) as api:
        path = f"/v2/actor-runs/{(await api.start(await api.create_task('test/gate', name='gate'))).data['id']}"
        with anyio.fail_after(30):
            assert (await api.send("GET", path, token=None, waitForFinish=60)).status == 403
        assert (await api.get(path)).data["status"] in ("READY", "RUNNING")
        gate.opened.set()
        assert (await api.get(path, waitForFinish=60)).data["status"] == "SUCCEEDED"


async def test_a_status_message_is_set_without_the_run_id(tmp_path: Path) -> None:
    """As both SDKs do it; a terminal message outlives the end."""
    gate = Gate()
    async with open_api(tmp_path, inline_actors={"test/gate": gate}) as api:
        run = (await api.start(await api.create_task("test/gate", name="gate"))).data
        path = f"/v2/actor-runs/{run['id']}"
        body = {"statusMessage": "half ü", "isStatusMessageTerminal": True, "level": "INFO"}
        assert (await api.send("PUT", path, body)).data["statusMessage"] == "half ü"
        assert (await api.send("PUT", path, {"runId": "other", "statusMessage": "x"})).status == 400
        assert (await api.send("PUT", path, {"statusMessage": 5})).status == 400
        gate.opened.set()
        assert (await api.finish(run["id"]))["statusMessage"] == "half ü"


async def test_a_finished_run_can_be_resurrected_or_deleted(api: Api) -> None:
    """Resurrected it runs again over the same dataset, under its id; deleted it is gone with its storages."""
    task = await api.create_task(name="twice", input={"n": 1})
    run = (await api.start(task, waitForFinish=60)).data
    revived = await api.send("POST", f"/v2/actor-runs/{run['id']}/resurrect", timeout=9)
    assert (revived.status, revived.data["id"]) == (200, run["id"])
    ended = await api.finish(run["id"])
    assert (ended["stats"]["resurrectCount"], ended["options"]["timeoutSecs"]) == (1, 9)
    items = f"/v2/datasets/{run['defaultDatasetId']}/items"
    assert (await api.get(items)).body == [{"n": 1}, {"n": 1}]
    assert (await api.send("DELETE", f"/v2/actor-runs/{run['id']}")).status == 204
    assert (await api.get(f"/v2/actor-runs/{run['id']}")).status == 404
    assert (await api.get(items)).status == 404


async def _cut(api: Api, path: str, method: str = "POST") -> None:
    """Send a request, and hang up before it is answered."""
    host, _, port = api.server.base_url.removeprefix("http://").partition(":")
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.server.token}\r\nContent-Length: 0\r\n\r\n"
    )
    async with await anyio.connect_tcp(host, int(port)) as client:
        await client.send(head.encode())


async def test_what_was_sent_is_carried_out_though_its_caller_hangs_up(tmp_path: Path) -> None:
    """As on the platform. A start that stopped halfway would keep its place for good, an abort would never come."""
    hook = {"eventTypes": ["ACTOR.RUN.FAILED"], "requestUrl": "http://a.test"}
    webhooks = quote(base64.b64encode(orjson.dumps([hook] * 5)))
    async with open_api(tmp_path, inline_actors={"test/gate": Gate()}, max_concurrent_runs=100) as api:
        for _ in range(20):
            await _cut(api, f"/v2/actors/test~gate/runs?webhooks={webhooks}")
            await _cut(api, f"/v2/actors/test~gate/run-sync?webhooks={webhooks}", "GET")
        await _until_live(api, 40)
        runs: list[Any] = []
        with anyio.fail_after(60):
            while len(runs) < 40:  # a start counts before it is stored
                runs = (await api.get("/v2/actor-runs")).data["items"]
        for run in runs:
            await _cut(api, f"/v2/actor-runs/{run['id']}/abort")
        assert {(await api.finish(run["id"]))["status"] for run in runs} == {"ABORTED"}
        await _until_live(api, 0)


async def test_a_change_whose_caller_hangs_up_is_stored_before_the_next_one_begins(tmp_path: Path) -> None:
    """Resurrecting a Run stores what was read: without the change, if it were read before that is stored."""
    goes_on, body = threading.Event(), b'{"generalAccess": "RESTRICTED"}'
    async with open_api(tmp_path) as api, anyio.create_task_group() as children:
        runs = api.server._backend.runs
        run_id = (await api.run_actor("test~echo", {}, waitForFinish=60))["id"]
        children.start_soon(api.server._backend.database.write, lambda _: goes_on.wait(60))
        host, _, port = api.server.base_url.removeprefix("http://").partition(":")
        async with await anyio.connect_tcp(host, int(port)) as client:
            await client.send(
                f"PUT /v2/actor-runs/{run_id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {api.server.token}\r\n"
                f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n\r\n".encode()
                + body
            )
            with anyio.fail_after(60):
                while run_id not in runs._changing:  # noqa: ASYNC110 - that wakes nobody
                    await anyio.sleep(0.01)
        await api.get("/v2/users/me")  # by then, the server knows that the caller has gone
        children.start_soon(api.send, "POST", f"/v2/actor-runs/{run_id}/resurrect")
        for _ in range(20):  # as it has long read whatever it reads
            await api.get(f"/v2/actor-runs/{run_id}")
        goes_on.set()
        count = 0
        with anyio.fail_after(60):
            while not count:
                await anyio.sleep(0.01)
                count = (await api.get(f"/v2/actor-runs/{run_id}")).data["stats"]["resurrectCount"]
        await api.finish(run_id)
        assert (await api.send("GET", f"/v2/actor-runs/{run_id}", token=None)).status == 403


async def _until_live(api: Api, count: int) -> None:
    current = -1
    with anyio.fail_after(60):
        while current != count:
            await anyio.sleep(0.02)
            current = (await api.get("/v2/users/me/limits")).data["current"]["activeActorJobCount"]


async def test_a_live_run_cannot_be_deleted_or_resurrected(tmp_path: Path) -> None:
    """400, and the Run lives on."""
    async with open_api(tmp_path, inline_actors={"test/gate": Gate()}) as api:
        run = (await api.start(await api.create_task("test/gate", name="gate"))).data
        path = f"/v2/actor-runs/{run['id']}"
        assert (await api.send("DELETE", path)).error_type == "cannot-remove-running-run"
        assert (await api.send("POST", f"{path}/resurrect")).status == 400
        assert (await api.get(path)).data["status"] == "RUNNING"


async def test_restart_on_error_restarts_three_times(api: Api) -> None:
    """A Run that keeps failing runs four times in all, over one dataset."""
    task = await api.create_task(name="again")
    run = await api.finish((await api.start(task, {"fail": 2}, restartOnError=1)).data["id"])
    assert (run["status"], run["stats"]["restartCount"]) == ("FAILED", 3)
    assert len(await api.items(run)) == 4


async def test_what_is_known_outlives_the_server(tmp_path: Path) -> None:
    """Token, tasks, ended Runs and their items are there again; a live Run starts again under its id."""
    gate = Gate()
    async with open_api(tmp_path, inline_actors={"test/gate": gate}) as api:
        token = api.server.token
        done = (await api.start(await api.create_task(name="done"), {"n": 1}, waitForFinish=60)).data
        run = (await api.start(await api.create_task("test/gate", name="gate"))).data
    gate = Gate()
    gate.opened.set()
    async with open_api(tmp_path, inline_actors={"test/gate": gate}) as api:
        assert api.server.token == token
        assert (await api.get(f"/v2/actor-runs/{done['id']}")).data == done
        assert await api.items(done) == [{"n": 1}]
        assert (await api.get("/v2/actor-tasks")).data["total"] == 2
        ended = await api.finish(run["id"])
        assert (ended["status"], ended["stats"]["migrationCount"]) == ("SUCCEEDED", 1)
        assert await api.items(run) == [{"run": run["id"]}]
        assert (api.server.runs_started, api.server.live_runs) == (0, 0)


async def test_a_live_run_whose_actor_is_gone_fails(tmp_path: Path) -> None:
    """After a restart without its Actor, the Run ends as FAILED and says why."""
    async with open_api(tmp_path, inline_actors={"test/gate": Gate()}) as api:
        run = (await api.start(await api.create_task("test/gate", name="gate"))).data
    async with open_api(tmp_path) as api:
        ended = await api.finish(run["id"])
    assert ended["status"] == "FAILED"
    assert "no longer known" in ended["statusMessage"]


async def test_a_start_whose_caller_has_gone_runs_to_its_end(api: Api) -> None:
    """A client that hangs up in the middle of a start leaves a Run that is live and ends, or none: never half a one."""
    task = await api.create_task(name="left")
    for _ in range(20):
        with anyio.move_on_after(0.002):
            await api.start(task, waitForFinish=60)
    runs: list[Any] = []
    with anyio.fail_after(60):
        # The last requests may still be on their way when the first list is made.
        while len(runs) != api.server.runs_started or api.server.live_runs:
            runs = (await api.get(f"/v2/actor-tasks/{task}/runs")).data["items"]
            ended = [await api.finish(run["id"]) for run in runs]
            assert [run["status"] for run in ended] == ["SUCCEEDED"] * len(runs)


async def test_an_error_in_the_block_leaves_the_server_as_it_is(tmp_path: Path) -> None:
    """What the user's block raises comes out as it was raised, not wrapped in a group."""
    with pytest.raises(KeyError, match="mine"):
        async with open_api(tmp_path):
            raise KeyError("mine")


async def test_a_refused_resurrection_changes_nothing(tmp_path: Path) -> None:
    """402 when there is no room; the Run is as it was, and no start is counted."""
    async with open_api(
        tmp_path, inline_actors={"test/gate": Gate()}, max_concurrent_runs=1, usage_settle_s=3600
    ) as api:
        done = (await api.start(await api.create_task(name="done"), waitForFinish=60)).data
        await api.start(await api.create_task("test/gate", name="gate"))
        path = f"/v2/actor-runs/{done['id']}"
        refused = await api.send("POST", f"{path}/resurrect", timeout=5)
        assert (refused.status, refused.error_type) == (402, "concurrent-runs-limit-exceeded")
        assert (await api.get(path)).data == done
        assert (api.server.runs_started, api.server.live_runs) == (2, 1)


async def test_more_runs_than_are_held_in_memory_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """48 ended Runs of which 40 are held, each with its own end, whether it is still at hand or read from disk."""
    monkeypatch.setattr(lifecycle, "_MAX_JUST_ENDED", 40)
    # Usage that became final in between would change a Run that is compared.
    limits: dict[str, Any] = {"max_concurrent_runs": 2000, "max_total_memory_mb": 10**6, "is_rate_limited": False}
    async with open_api(tmp_path, usage_settle_s=3600, **limits) as api:
        task = await api.create_task(name="many")
        runs: list[Any] = []

        async def start(number: int) -> None:
            runs.append((await api.start(task, {"fail": number % 5}, waitForFinish=60)).data)

        for first in range(0, 48, 12):
            async with anyio.create_task_group() as children:
                for number in range(first, first + 12):
                    children.start_soon(start, number)
        assert len({run["id"] for run in runs}) == len({run["defaultDatasetId"] for run in runs}) == 48
        for run in (runs[0], runs[23], runs[47]):
            assert (await api.get(f"/v2/actor-runs/{run['id']}")).data == run
        assert (await api.get(f"/v2/actor-tasks/{task}/runs", limit=1)).data["total"] == 48
        assert len(api.server._backend.runs._just_ended) == 40
        assert (api.server.runs_started, api.server.live_runs) == (48, 0)
