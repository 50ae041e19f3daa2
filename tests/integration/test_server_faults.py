"""The server misbehaves as it is told: what the caller sees, and what the server itself says happened."""

import io
import itertools
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import aiohttp
import anyio
import orjson
import pytest

from batchrun.errors import ConfigError
from batchrun.runtime.content_security import STRANGER_POLICY
from batchrun.server import InlineContext, app
from batchrun.server.faults.fault_file import parse_faults
from tests.support.server_api import ACTORS, Answer, Api, open_api

Opens = Callable[..., AbstractAsyncContextManager[tuple[Api, str]]]


@pytest.fixture
def opens(tmp_path: Path) -> Opens:
    """Open a new server with faults; gives it with a task."""
    numbers = itertools.count()

    @asynccontextmanager
    async def opened(*faults: dict[str, Any], **settings: Any) -> AsyncIterator[tuple[Api, str]]:
        parsed = parse_faults({"seed": 1, "fault": list(faults)})
        async with open_api(
            tmp_path / f"server-{next(numbers)}", faults=parsed, is_rate_limited=False, **settings
        ) as api:
            yield api, await api.create_task(name="faulty")

    return opened


async def _send(api: Api, method: str, path: str, body: Any = None) -> aiohttp.ClientResponse:
    """Send a request on a connection of its own; aiohttp retries none of them."""
    raw = io.BytesIO(orjson.dumps(body)) if body is not None else None
    headers = {"Authorization": f"Bearer {api.server.token}", "Content-Type": "application/json", "User-Agent": "me"}
    async with (
        aiohttp.ClientSession(api.server.base_url, connector=aiohttp.TCPConnector(force_close=True)) as session,
        session.request(method, path, data=raw, headers=headers) as response,
    ):
        await response.read()
        return response


async def _start(api: Api, task: str) -> aiohttp.ClientResponse:
    return await _send(api, "POST", f"/v2/actor-tasks/{task}/runs", {"n": 1})


async def _runs(api: Api) -> list[Any]:
    return list((await api.get("/v2/actor-runs")).data["items"])


async def _until_listed(api: Api) -> list[Any]:
    with anyio.fail_after(60):
        while not (runs := await _runs(api)):  # noqa: ASYNC110 - the server tells nobody when it shows a Run
            await anyio.sleep(0.01)
    return runs


async def _refused(api: Api, task: str) -> Answer:
    answer = await api.start(task, {"n": 1})
    assert await _runs(api) == []
    assert api.server.runs_started == 0
    return answer


async def test_an_answer_is_dropped_after_the_effect(opens):
    """The caller sees a reset; the Run exists, once, and ends as ever."""
    async with opens({"kind": "drop_answer", "routes": ["starts"], "count": 1}) as (api, task):
        with pytest.raises(aiohttp.ClientConnectionError):
            await _start(api, task)
        (run,) = await _runs(api)
        assert (await api.finish(run["id"]))["status"] == "SUCCEEDED"
        assert (await _start(api, task)).status == 201


async def test_a_dropped_answer_is_a_reset_on_the_wire(opens):
    """Not an orderly end: the socket itself says ECONNRESET."""
    async with opens({"kind": "drop_answer", "routes": ["starts"]}) as (api, task):
        host, _, port = api.server.base_url.removeprefix("http://").rpartition(":")
        async with await anyio.connect_tcp(host, int(port)) as stream:
            request = f"POST /v2/actor-tasks/{task}/runs?token={api.server.token} HTTP/1.1\r\nHost: x\r\n\r\n"
            await stream.send(request.encode())
            with pytest.raises(anyio.BrokenResourceError) as caught:
                await stream.receive()
        assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_a_connection_is_reset_before_the_effect(opens):
    """The caller sees the same; nothing was started."""
    async with opens({"kind": "reset_before", "routes": ["starts"]}) as (api, task):
        with pytest.raises(aiohttp.ClientConnectionError):
            await _start(api, task)
        assert await _runs(api) == []


@pytest.mark.parametrize(("kind", "runs"), [("error_before", 0), ("error_after", 1)])
@pytest.mark.parametrize(
    ("fault", "is_json"),
    [({"status": 500}, True), ({"status": 502}, False), ({"status": 503}, True), ({"status": 403, "type": ""}, False)],
)
async def test_an_error_is_answered_before_or_after_the_effect(opens, kind, runs, fault, is_json):
    """As the API, a gateway or a firewall words it; a Run exists if it was after the effect."""
    async with opens({"kind": kind, "routes": ["starts"], **fault}) as (api, task):
        answer = await api.start(task, {"n": 1})
        assert (answer.status, isinstance(answer.body, dict)) == (fault["status"], is_json)
        assert not is_json or answer.error_type == "internal-server-error"
        assert len(await _runs(api)) == api.server.runs_started == runs


@pytest.mark.parametrize("retry_after", [7, -1, "Tue, 01 Jan 1980 00:00:00 GMT", "soon"])
async def test_a_rate_limit_refuses_in_bursts(opens, retry_after):
    """429 in a row, with Retry-After if told; then starts work again."""
    fault = {"kind": "rate_limit", "routes": ["starts"], "burst": 3, "count": 3, "retry_after_s": retry_after}
    async with opens(fault) as (api, task):
        answers = [await api.start(task, {"n": 1}) for _ in range(4)]
        assert [answer.status for answer in answers] == [429, 429, 429, 201]
        assert (answers[0].error_type, answers[0].headers["Retry-After"]) == ("rate-limit-exceeded", str(retry_after))
        assert len(await _runs(api)) == 1
    async with opens({"kind": "rate_limit", "routes": ["starts"]}) as (api, task):
        assert "Retry-After" not in (await api.start(task)).headers


@pytest.mark.parametrize("status", [402, 400])
@pytest.mark.parametrize("error_type", ["actor-memory-limit-exceeded", "concurrent-runs-limit-exceeded"])
async def test_the_account_is_said_to_be_full(opens, status, error_type):
    """Either type with either status, on starts only."""
    async with opens({"kind": "capacity", "type": error_type, "status": status}) as (api, task):
        assert (await _refused(api, task)).refusal == (status, error_type)
        assert (await api.get(f"/v2/actor-tasks/{task}")).status == 200


async def test_latency_before_the_effect_outlives_its_caller(opens):
    """Who hangs up while the platform is slow has started a Run nevertheless, later."""
    async with opens({"kind": "latency", "routes": ["starts"], "seconds": 0.2}) as (api, task):
        with anyio.move_on_after(0.05) as hung_up:
            await _start(api, task)
        assert hung_up.cancelled_caught
        assert await _runs(api) == []
        runs = await _until_listed(api)
        assert (await api.finish(runs[0]["id"]))["status"] == "SUCCEEDED"
        stored = await api.get(f"/v2/key-value-stores/{runs[0]['defaultKeyValueStoreId']}/records/INPUT")
        assert stored.body == {"n": 1}


async def test_latency_after_the_effect_only_keeps_the_answer_back(opens):
    """The Run is there while its starter still waits."""
    fault = {"kind": "latency", "routes": ["starts"], "seconds": 3600.0, "where": "after"}
    async with opens(fault) as (api, task), anyio.create_task_group() as children:
        children.start_soon(_start, api, task)
        await _until_listed(api)
        children.cancel_scope.cancel()


async def test_a_late_request_is_answered_as_ever(opens):
    """Latency before the effect changes neither errors nor answers."""
    async with opens({"kind": "latency", "seconds": 0.001}) as (api, task):
        assert (await api.start(task, {"n": 1})).status == 201
        assert (await api.get("/v2/actor-tasks/nosuchtask")).error_type == "record-not-found"


async def test_a_body_is_cut_short(opens):
    """The length is announced in full, part of it comes; the effect took place."""
    async with opens({"kind": "truncate", "routes": ["starts"], "count": 1}) as (api, task):
        with pytest.raises(aiohttp.ClientPayloadError):
            await _start(api, task)
        assert len(await _runs(api)) == 1
        assert (await _start(api, task)).status == 201


async def test_a_body_is_not_json(opens):
    """The status is right, the body is a web page."""
    async with opens({"kind": "garbage", "routes": ["starts", "runs"]}) as (api, task):
        started = await api.start(task, {"n": 1})
        (run,) = await _runs(api)
        shown = await api.get(f"/v2/actor-runs/{run['id']}")
        assert (started.status, shown.status) == (201, 200)
        assert started.body == shown.body == b"<html><body>Please wait</body></html>"


async def test_a_slow_body_is_a_whole_one(opens):
    """It trickles, and is what it should be."""
    fault = {"kind": "slow_body", "routes": ["items"], "chunk_bytes": 5, "pause_s": 0.001}
    async with opens(fault) as (api, task):
        run = (await api.start(task, {"text": "ü" * 50}, waitForFinish=60)).data
        answer = await api.get(f"/v2/datasets/{run['defaultDatasetId']}/items")
        assert answer.body == [{"text": "ü" * 50}]
        assert answer.headers["X-Apify-Pagination-Total"] == "1"
        assert answer.headers["Content-Security-Policy"] == STRANGER_POLICY


async def test_answers_that_are_streamed_otherwise_are_spoilt_too(opens):
    """Large pages of items and logs come in one piece when they are to suffer."""
    fault = {"kind": "truncate", "routes": ["items", "GET /v2/logs/*"], "keep": 0}

    async def push(context: InlineContext) -> None:
        await context.push_items([{"n": n} for n in range(1500)])
        await context.log("here")

    async with opens(fault, inline_actors={"test/push": push}) as (api, _):
        task = await api.create_task("test/push", name="many")
        run = (await api.start(task, waitForFinish=60)).data
        for path in (f"/v2/datasets/{run['defaultDatasetId']}/items", f"/v2/logs/{run['id']}?stream=1"):
            with pytest.raises(aiohttp.ClientPayloadError):
                await _send(api, "GET", path)


async def test_new_runs_are_missing_from_lists(opens):
    """Read by its id a Run is there; lists and their totals show it once it is old enough."""
    async with opens({"kind": "list_lag", "seconds": 3600.0, "count": 2}) as (api, task):
        run = (await api.start(task, waitForFinish=60)).data
        listed = [(await api.get(path)).data for path in ("/v2/actor-runs", f"/v2/actor-tasks/{task}/runs")]
        assert [(page["total"], page["items"]) for page in listed] == [(0, [])] * 2
        assert (await api.get(f"/v2/actor-runs/{run['id']}")).status == 200
        assert [each["id"] for each in await _runs(api)] == [run["id"]]
    async with opens({"kind": "list_lag", "seconds": 0.05}) as (api, task):
        await api.start(task)
        await _until_listed(api)


async def test_a_fresh_run_is_not_found_at_first(opens):
    """404 as for an unknown id, then the Run; lists know it all the while."""
    async with opens({"kind": "fresh_404", "seconds": 3600.0, "count": 2}) as (api, task):
        run = (await api.start(task, waitForFinish=60)).data
        answers = [await api.get(f"/v2/actor-runs/{run['id']}") for _ in range(3)]
        assert [answer.status for answer in answers] == [404, 404, 200]
        assert answers[0].error_type == "record-not-found"
        assert [each["id"] for each in await _runs(api)] == [run["id"]]


async def test_a_starter_is_not_shown(opens):
    """meta.userAgent is null for the Run's whole life, in the answer to its start too."""
    async with opens({"kind": "no_echo", "count": 1}) as (api, task):
        runs = [(await api.start(task, headers={"User-Agent": "me"})).data for _ in range(2)]
        assert [run["meta"]["userAgent"] for run in runs] == [None, "me"]
        assert (await api.finish(runs[0]["id"]))["meta"]["userAgent"] is None


@pytest.mark.parametrize("seconds", [3600, -40.5])
async def test_the_date_of_an_answer_is_another_clocks(opens, seconds):
    """Runs are stamped by the server's own clock all the same."""
    async with opens({"kind": "skewed_date", "routes": ["starts"], "seconds": seconds, "count": 1}) as (api, task):
        first, second = await _start(api, task), await _start(api, task)
        skews = [(parsedate_to_datetime(answer.headers["Date"]) - datetime.now(UTC)).total_seconds()
                 for answer in (first, second)]  # fmt: skip
        assert skews == pytest.approx([seconds, 0], abs=20)
        for run in await _runs(api):
            assert abs((datetime.fromisoformat(run["startedAt"]) - datetime.now(UTC)).total_seconds()) < 20


async def test_a_start_is_carried_out_twice(opens):
    """Two Runs with the same input; the answer names the second."""
    async with opens({"kind": "repeat", "count": 1}) as (api, task):
        started = (await api.start(task, {"n": 1})).data
        newest, oldest = sorted(await _runs(api), key=lambda run: run["id"] != started["id"])
        assert (newest["id"], api.server.runs_started) == (started["id"], 2)
        for run in (newest, oldest):
            assert await api.items(await api.finish(run["id"])) == [{"n": 1}]


async def test_a_gateway_cuts_a_poll(opens):
    """504 as a page for an answer that takes longer, and only for that."""

    async def stay(context: InlineContext) -> None:
        await anyio.sleep_forever()

    fault = {"kind": "gateway_timeout", "seconds": 0.05}
    async with opens(fault, inline_actors={"test/stay": stay}) as (api, _):
        run = (await api.start(await api.create_task("test/stay", name="long"))).data
        cut = await api.get(f"/v2/actor-runs/{run['id']}", waitForFinish=60)
        assert (cut.status, isinstance(cut.body, bytes)) == (504, True)


async def test_a_gateway_does_not_undo_a_slow_start(opens):
    """The Run of a start that was answered with 504 exists."""
    slow = {"kind": "latency", "routes": ["starts"], "seconds": 0.2}
    cut = {"kind": "gateway_timeout", "routes": ["starts"], "seconds": 0.01}
    async with opens(slow, cut) as (api, task):
        assert (await api.start(task, {"n": 1})).status == 504
        (run,) = await _until_listed(api)
        assert (await api.finish(run["id"]))["status"] == "SUCCEEDED"


_PUSHES = ["POST /v2/datasets/*/items"]


@pytest.mark.parametrize(
    ("faults", "copies"),
    [
        ([{"kind": "repeat", "routes": _PUSHES}], 2),
        (
            [
                {"kind": "latency", "routes": _PUSHES, "seconds": 0.05},
                {"kind": "gateway_timeout", "routes": _PUSHES, "seconds": 0.01},
            ],
            1,
        ),
    ],
    ids=["repeated", "cut by a gateway"],
)
async def test_a_large_body_leaves_its_room_to_the_next_one(opens, monkeypatch, faults, copies):
    """Each takes more than half of the memory for large bodies while its request is carried out, and then none."""
    monkeypatch.setattr(app, "_BODIES_MB", 1)
    async with opens(*faults) as (api, _):
        dataset = (await api.send("POST", "/v2/datasets")).data["id"]
        with anyio.fail_after(60):
            for pushed in range(copies, 3 * copies + 1, copies):
                await api.send("POST", f"/v2/datasets/{dataset}/items", {"text": "x" * 300_000})
                while (  # noqa: ASYNC110 - the server tells nobody when it has carried out what it has cut
                    len((await api.get(f"/v2/datasets/{dataset}/items", fields="n")).body) < pushed
                ):
                    await anyio.sleep(0.01)


@pytest.mark.parametrize("actor", ["test/echo", "local/sdk"])
async def test_a_run_stays_ready_until_it_is_aborted(opens, actor):
    """As one that waits for capacity; its Actor does not start."""
    async with opens({"kind": "long_ready", "seconds": 3600.0}, actors=(ACTORS,)) as (api, _):
        waiting = (await api.start(await api.create_task(actor, name="queued"))).data
        aborted = (await api.send("POST", f"/v2/actor-runs/{waiting['id']}/abort")).data
        ended = await api.finish(waiting["id"])
        assert (waiting["status"], aborted["status"], ended["status"]) == ("READY", "ABORTING", "ABORTED")
        assert await api.items(ended) == []


async def test_the_time_that_a_run_stays_ready_is_no_part_of_its_time_limit(opens):
    """It begins when the Actor does."""
    async with opens({"kind": "long_ready", "seconds": 1.1}) as (api, task):
        run = (await api.start(task, {"n": 1}, timeout=1)).data
        ended = await api.finish(run["id"])
        assert (run["status"], ended["status"]) == ("READY", "SUCCEEDED")


async def test_a_run_has_a_status_that_is_not_documented(opens):
    """Shown, in lists too if so told; the Run itself ends as ever."""
    fault = {"kind": "strange_status", "routes": ["runs", "run-lists"], "count": 2}
    async with opens(fault) as (api, task):
        run = (await api.start(task, {"n": 1}, waitForFinish=60)).data
        shown = [(await api.get(f"/v2/actor-runs/{run['id']}")).data, *await _runs(api)]
        assert [each["status"] for each in shown] == ["PAUSED", "PAUSED"]
        assert all(each["finishedAt"] for each in shown)
        assert (await api.finish(run["id"]))["status"] == "SUCCEEDED"


async def test_a_sticky_fault_strikes_an_object_always_or_never(opens):
    """A dataset is gone for good, whatever is asked of it; its Actor could write it all the same."""
    fault = {"kind": "error_before", "status": 404, "type": "record-not-found", "probability": 0.5, "sticky": True}
    async with opens({**fault, "routes": ["GET /v2/datasets/**"]}) as (api, task):
        fates = []
        for n in range(20):
            run = (await api.start(task, {"n": n}, waitForFinish=60)).data
            address = f"/v2/datasets/{run['defaultDatasetId']}"
            answers = [await api.get(path) for path in (address, f"{address}/items", f"{address}/items?offset=1")]
            fates.append({answer.status for answer in answers})
        assert sorted({frozenset(fate) for fate in fates}, key=min) == [{200}, {404}]


@pytest.mark.parametrize("size", [10, 200_000])
async def test_a_firewall_dislikes_one_input(opens, size):
    """The same bodies are refused each time and on each server; what is accepted arrives whole."""
    fault = {"kind": "error_before", "routes": ["starts"], "status": 403, "type": "", "probability": 0.5}
    seen = []
    for _ in range(2):
        async with opens({**fault, "sticky": True}) as (api, task):
            for _ in range(2):
                answers = [await api.start(task, {"n": n, "x": "x" * size}, waitForFinish=60) for n in range(12)]
                seen.append([answer.status for answer in answers])
            stored = [(await api.items(run))[0]["x"] for run in await _runs(api)]
            assert stored == ["x" * size] * seen[-1].count(201) * 2
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert set(seen[0]) == {201, 403}


async def test_actors_and_the_demo_site_are_spared(opens):
    """An SDK Actor ends well on a server that answers nobody else; pages are served."""
    fault = {"kind": "error_before", "after": 2}
    async with opens(fault, actors=(ACTORS,)) as (api, _):
        started = await api.send("POST", "/v2/actors/local~sdk/runs?waitForFinish=60", {"count": 2})
        assert (started.status, started.data["status"]) == (201, "SUCCEEDED")
        assert (await api.get("/demo")).status == 200
        assert (await api.get("/v2/users/me")).status == 503


async def test_refused_callers_do_not_move_the_dice(opens):
    """Wrong tokens, unknown paths and other routes leave the sequence as it is."""
    fault = {"kind": "error_before", "routes": ["starts"], "probability": 0.5}
    seen = []
    for noise in (False, True):
        async with opens(fault) as (api, task):
            statuses = []
            for _ in range(20):
                if noise:
                    await api.send("POST", f"/v2/actor-tasks/{task}/runs", token="wrong")
                    await api.get("/v2/nothing")
                    await api.get(f"/v2/actor-tasks/{task}")
                statuses.append((await api.start(task, {"n": 1})).status)
        seen.append(statuses)
    assert seen[0] == seen[1]
    assert set(seen[0]) == {201, 503}


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_goes_wrong_a_start_is_whole_or_was_not(tmp_path: Path, seed: int) -> None:
    """Under all faults at once: each Run that is listed has its input and its item, and no room is left taken."""
    kinds = ("reset_before", "error_before", "capacity", "drop_answer", "error_after", "truncate", "garbage")
    faults: list[dict[str, Any]] = [{"kind": kind, "routes": ["starts"], "probability": 0.15} for kind in kinds]
    latency = {"kind": "latency", "routes": ["starts"], "distribution": "pareto", "seconds": 0.001, "max_seconds": 0.1}
    parsed = parse_faults({"seed": seed, "fault": [*faults, latency, {**latency, "where": "after"}]})
    async with open_api(tmp_path, faults=parsed, is_rate_limited=False, migration_notice_s=0.01) as api:
        task = await api.create_task(name="faulty")
        async with anyio.create_task_group() as children:
            for n in range(80):
                children.start_soon(_try_to_start, api, task, n)
    # Closed and opened again: what a caller who hung up has left under way comes no more.
    async with open_api(tmp_path, is_rate_limited=False) as api:
        runs = await _runs(api)
        assert runs
        for run in runs:
            assert (await api.finish(run["id"]))["status"] == "SUCCEEDED"
            given = (await api.get(f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}/records/INPUT")).body
            items = await api.items(run)
            assert items[0] == items[-1] == given
        current = (await api.get("/v2/users/me/limits")).data["current"]
        assert (current["activeActorJobCount"], current["actorMemoryGbytes"]) == (0, 0)


async def _try_to_start(api: Api, task: str, n: int) -> None:
    # Every other caller hangs up early.
    with anyio.move_on_after(0.01 if n % 2 else 30), suppress(aiohttp.ClientError):
        await _send(api, "POST", f"/v2/actor-tasks/{task}/runs", {"n": n})


async def test_a_fault_for_a_route_that_is_not_served_is_refused(opens):
    """The server does not open on a misspelt route."""
    with pytest.raises(ConfigError, match=r"fault\.0\.routes: no route that is served matches GET /v2/actor-rums"):
        async with opens({"kind": "drop_answer", "routes": ["GET /v2/actor-rums"]}):
            pass


def test_the_command_serves_with_faults_and_says_so(tmp_path: Path) -> None:
    """`batchrun serve --faults`: the file is read at once, and the server warns that it misbehaves."""
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nkind = "error_before"\nroutes = ["GET /v2/users/me"]\nstatus = 500')
    command = [sys.executable, "-m", "batchrun", "serve", "--port", "0", "--data", str(tmp_path / "data")]
    with subprocess.Popen(
        [*command, "--faults", str(faults)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        with pytest.raises(HTTPError) as caught:
            urlopen(f"{process.stdout.readline().strip()}/v2/users/me?token={_token(tmp_path)}", timeout=30)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    with caught.value as answer:
        assert (answer.code, process.returncode) == (500, 0)
    assert f"faults   1 from {faults}" in said


def _token(directory: Path) -> str:
    return (directory / "data" / "token").read_text().strip()


def test_the_command_refuses_a_file_that_it_does_not_understand(tmp_path: Path) -> None:
    """Exit 2 with file and key, and no server."""
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nkind = "drop_answer"\nprobabilty = 0.1')
    command = [sys.executable, "-m", "batchrun", "serve", "--port", "0", "--data", str(tmp_path / "data")]
    done = subprocess.run([*command, "--faults", str(faults)], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{faults}: fault.0.probabilty: is not a known key" in done.stderr
