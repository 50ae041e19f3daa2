"""What the live page reads over HTTP: pages of batches, Runs and lines, downloads, history, configuration, events."""

import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from sqlite3 import connect
from typing import Any, TypeVar

import anyio
import orjson
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import RawTestServer

from batchrun.ledger.facts import CONFIG
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.runtime.byte_budget import ByteBudget, Room
from batchrun.runtime.logs import piece_of
from batchrun.worker import batch_list
from batchrun.worker.http import live_event_routes, output_routes
from batchrun.worker.status_views import LOG_PIECE
from batchrun.worker.submission import BatchState, Submission
from batchrun.worker.worker import Worker
from batchrun.worker.worker_address import WorkerAddress
from batchrun.worker.worker_client import open_client
from tests.integration.test_worker_http import LONG_MS, TOKEN, Client, opened, raw
from tests.support.crash import EMBEDDED_ACTOR, ROOT, open_api
from tests.support.worker_life import batch_file, put, until

T = TypeVar("T")


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with open_api(tmp_path_factory.mktemp("api") / "state") as served:
        yield served


@pytest.fixture
async def client(tmp_path, api) -> AsyncIterator[Client]:
    async with opened(tmp_path / "data", api) as found:
        yield found


async def submit(client: Client, name: str, jobs: list[dict[str, Any]], **settings: Any) -> str:
    """Submit a batch whose jobs are not retried; return its id."""
    given = {"retry.max_attempts": 1, **settings}
    return await client.submit_batch(jobs, name=name, settings=orjson.dumps(given).decode())


async def eventually(read: Callable[[], Awaitable[T]], is_there: Callable[[T], bool]) -> T:
    """Read again and again until it is there."""
    with anyio.fail_after(60):
        while True:
            if is_there(found := await read()):
                return found
            await anyio.sleep(0.05)


async def names(client: Client, query: str) -> list[str]:
    """Return the names of the batches that a query lists."""
    _, page = await client.ask("GET", f"/v1/batches?{query}")
    return [each["name"] for each in page["items"]]


async def test_batches_are_filtered_searched_and_sorted_by_the_worker(client):
    """What needs attention first; each group with its number of all, whatever is searched for."""
    done = await submit(client, "done", [{"n": n} for n in range(3)])
    some = await submit(client, "some-Failed", [{"n": n, "fails": n < 2} for n in range(4)])
    for batch_id in (done, some):
        await client.until(batch_id, BatchState.FINISHED)
    broken = await submit(client, "broken", [{"@nope": 1}])
    await client.until(broken, BatchState.FAILED)
    held = await submit(client, "held", [{"n": 1, "ms": LONG_MS}])
    await until(lambda: client.worker.live_runs == 1, "a live Run")
    assert await names(client, "sort=attention") == ["broken", "some-Failed", "held", "done"]
    assert await names(client, "sort=-attention") == ["done", "held", "some-Failed", "broken"]
    assert await names(client, "sort=failed&limit=1") == ["some-Failed"]
    assert await names(client, "sort=name") == ["broken", "done", "held", "some-Failed"]
    assert await names(client, "search=FAILED") == ["some-Failed"]
    assert await names(client, f"search={held}") == ["held"]
    _, page = await client.ask("GET", "/v1/batches?group=failures&search=nothing")
    groups = {"all": 4, "attention": 2, "under_way": 1, "paused": 0, "finished": 3, "failures": 1}
    assert page == {"items": [], "total": 0, "groups": groups}
    _, worker = await client.ask("GET", "/v1/worker")
    assert worker["attention"] == 2
    for query in ("sort=size", "group=nope", "search=" + "x" * 201):
        assert (await client.refusal("GET", f"/v1/batches?{query}"))[:2] == (400, "bad-value")


async def test_lines_come_in_pages_newest_first_and_can_be_searched(client):
    """All pages together are the file; an outcome restricts records and items."""
    batch_id = await submit(client, "lines", [{"n": n, "fails": n == 3} for n in range(8)])
    await client.until(batch_id, BatchState.FINISHED)
    path = f"/v1/batches/{batch_id}"
    found: list[Any] = []
    before = ""
    while True:
        _, page = await client.ask("GET", f"{path}/records/page?limit=3{before}")
        found += [each["line"] for each in page["lines"]]
        if not page["before"]:
            break
        before = f"&before={page['before']}"
    out = client.worker.directory.out_dir(client.worker.store[batch_id])
    assert found == [orjson.loads(line) for line in (out / "records.jsonl").read_bytes().splitlines()][::-1]
    _, page = await client.ask("GET", f"{path}/records/page?outcome=failed")
    assert [each["line"]["outcome"] for each in page["lines"]] == ["failed"]
    _, page = await client.ask("GET", f"{path}/items/page?search={found[0]['key'].upper()}")
    assert {each["line"]["_key"] for each in page["lines"]} == {found[0]["key"]}
    (out / "batch.log").write_bytes(
        b'{"event":"job_settled","n":1}\n{"event":"other"}\n{"event":"job_settled","n":2}\n{"cut'
    )
    _, page = await client.ask("GET", f"{path}/log/page?search=JOB_settled")
    assert [each["line"]["n"] for each in page["lines"]] == [2, 1]
    for query in ("records/page?limit=201", "records/page?outcome=nope", "log/page?outcome=failed"):
        assert (await client.refusal("GET", f"{path}/{query}"))[:2] == (400, "bad-value")


async def test_records_and_items_are_downloaded_as_a_table(client):
    """CSV and Excel with a column for each property, JSONL as it is; the browser gets a name for the file."""
    batch_id = await submit(client, "täble", [{"n": n, "items": 2} for n in range(3)])
    await client.until(batch_id, BatchState.FINISHED)
    path = f"{client.address}/v1/batches/{batch_id}"
    async with client.session.get(f"{path}/items?format=csv&download=1") as answer:
        rows = list(csv.DictReader(io.StringIO((await answer.read()).decode("utf-8-sig"))))
        assert "t%C3%A4ble-items.csv" in answer.headers["Content-Disposition"]
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert sorted((row["of"], row["n"]) for row in rows) == [(str(n), str(m)) for n in range(3) for m in range(2)]
    async with client.session.get(f"{path}/records?format=csv") as answer:
        rows = list(csv.DictReader(io.StringIO((await answer.read()).decode("utf-8-sig"))))
    assert {row["outcome"] for row in rows} == {"succeeded"}
    assert all(row["attempts/0.run_id"] for row in rows)
    async with client.session.get(f"{path}/records?format=xlsx") as answer:
        assert (await answer.read()).startswith(b"PK")
    assert (await client.refusal("GET", f"/v1/batches/{batch_id}/records?format=pdf"))[:2] == (400, "bad-value")
    assert (await client.refusal("GET", f"/v1/batches/{batch_id}/log?format=csv"))[:2] == (400, "bad-value")


@pytest.mark.parametrize(("by_link", "piece_s"), [(False, 0.2), (True, 600.0)])
async def test_a_table_that_is_not_read_makes_room_for_others(tmp_path, api, monkeypatch, by_link, piece_s):
    """It holds parsed lines, so that few are sent at once. Those by links are not in the way of the others."""
    monkeypatch.setattr(output_routes, "_TABLE_PIECE_S", piece_s)
    monkeypatch.setattr(output_routes, "_TABLES_AT_ONCE", 1)
    async with opened(tmp_path / "data", api) as client:
        batch_id = await submit(client, "large", [{"n": n, "@meta": {"text": "x" * 1_000_000}} for n in range(4)])
        await client.until(batch_id, BatchState.FINISHED)
        path = f"/v1/batches/{batch_id}/records?format=csv"
        access = (await client.ask("GET", f"/v1/batches/{batch_id}/access"))[1]["access"]
        credential = f"Authorization: Bearer {TOKEN}\r\n" if not by_link else ""
        asked = f"GET {path}{f'&{access}' * by_link} HTTP/1.1\r\nHost: x\r\n{credential}\r\n"
        async with await raw(client.address, asked) as unread:
            assert (await unread.receive()).startswith(b"HTTP/1.1 200")
            with anyio.fail_after(60):
                async with client.session.get(f"{client.address}{path}") as answer:
                    assert len(await answer.read()) > 4_000_000


async def test_a_repair_holds_no_more_in_memory_than_the_worker_may(client, monkeypatch):
    """Whatever the batch says that it may hold: its file is a stranger's."""
    made: list[ByteBudget] = []
    room = ByteBudget.room

    def noting(self: ByteBudget) -> Room:
        made.append(self)
        return room(self)

    given = {"limits.max_buffer_mb": 1 << 20, "output.items": "file"}
    batch_id = await submit(client, "greedy", [{"n": 1, "items": 2}], **given)
    await client.until(batch_id, BatchState.FINISHED)
    await until(lambda: not client.worker.runners, "the batch is closed")
    out = client.worker.directory.out_dir(client.worker.store[batch_id])
    (out / "items.jsonl").write_bytes(b"")
    monkeypatch.setattr(ByteBudget, "room", noting)
    _, done = await client.ask("POST", f"/v1/batches/{batch_id}/repair")
    assert (done["item_runs"], len((out / "items.jsonl").read_bytes().splitlines())) == (1, 2)
    assert made
    assert all(each is client.worker.account.shared.buffers for each in made)


async def test_live_runs_are_listed_oldest_first_read_and_aborted(client):
    """Only Runs of the batch, and only while it is open."""
    batch_id = await submit(client, "live", [{"n": n, "ms": LONG_MS} for n in range(5)])
    other = await submit(client, "other", [{"n": 9, "ms": LONG_MS}])
    path = f"/v1/batches/{batch_id}"

    async def runs(query: str = "", of: str = path) -> dict[str, Any]:
        found: dict[str, Any] = (await client.ask("GET", f"{of}/runs{query}"))[1]
        return found

    await eventually(lambda: runs(of=f"/v1/batches/{other}"), lambda page: page["total"] == 1)
    found = (await eventually(runs, lambda page: page["total"] == 5))["items"]
    assert [each["started_at"] for each in found] == sorted(each["started_at"] for each in found)
    assert {(each["status"], each["memory_mb"], each["attempt_no"]) for each in found} == {("RUNNING", 128, 1)}
    assert [each["run_id"] for each in (await runs("?offset=1&limit=2"))["items"]] == [
        each["run_id"] for each in found[1:3]
    ]
    run_id = found[0]["run_id"]
    assert [each["run_id"] for each in (await runs(f"?search={found[0]['key'][:20].upper()}"))["items"]] == [run_id]
    assert await runs("?search=nothing") == {"items": [], "total": 0}
    async with client.session.get(f"{client.address}{path}/runs/{run_id}/log") as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    stranger = (await runs(of=f"/v1/batches/{other}"))["items"][0]["run_id"]
    for what in ("/log", "/abort"):
        method = "POST" if what == "/abort" else "GET"
        assert (await client.refusal(method, f"{path}/runs/{stranger}{what}"))[:2] == (404, "run-not-found")
    assert (await client.ask("POST", f"{path}/runs/{run_id}/abort"))[0] == 204
    await eventually(lambda: client.ask("GET", path), lambda answer: answer[1]["outcomes"] == {"aborted": 1})
    await client.ask("POST", f"{path}/cancel")
    await client.until(batch_id, BatchState.CANCELLED)
    assert await runs() == {"items": [], "total": 0}
    assert (await client.refusal("POST", f"{path}/runs/{run_id}/abort"))[:2] == (409, "wrong-state")


async def test_what_is_noted_beside_a_spooled_batch_names_no_file_and_no_log(client, tmp_path, blockbuster):
    """Whoever writes to the spool can change its ledger: what this worker has not signed is not obeyed."""
    blockbuster.deactivate()
    spool, secret, theirs = client.worker.directory.spool, tmp_path / "secret.jsonl", tmp_path / "theirs"
    secret.write_text("of the user, line 1\nof the user, line 2\n")
    theirs.mkdir()
    put(spool / "q.jsonl", b'{"n": 1, "fails": true}\nno job\n')
    put(spool / "q.toml", f'{batch_file("spooled", "q.jsonl")}on_bad_line = "record"\n[retry]\nmax_attempts = 1\n')
    await until(lambda: any(each.name == "q" for each in client.worker.store), "the batch")
    (batch_id,) = (each.id for each in client.worker.store if each.name == "q")
    await client.until(batch_id, BatchState.FINISHED)
    path = f"/v1/batches/{batch_id}"

    async def shown() -> str:
        """Return all that is shown of the batch, with the lines that are written again."""
        (spool / "q.out/bad_lines.jsonl").write_bytes(b"")
        answers = [
            await client.ask(method, f"{path}/{what}")
            for method, what in (("POST", "repair"), ("GET", "failures"), ("GET", "doubts"))
        ]
        assert [status for status, _ in answers] == [200, 200, 200], answers
        lines: str = (spool / "q.out/bad_lines.jsonl").read_text()
        return lines + str(answers)

    own = await shown()
    assert all(each in own for each in ("no job", '"fails":true')), own
    with open_ledger(spool / "q.out") as ledger, ledger.transaction():
        noted = ledger.fact(CONFIG)
        assert noted is not None
        named = {"jobs": {**noted["jobs"], "file": str(secret)}}
        ledger.note_fact(CONFIG, {**noted, **named, "replica": {**noted["replica"], "url": f"file://{theirs}"}})
    assert "of the user" not in await shown()
    assert not [*theirs.iterdir()]


async def test_a_run_of_another_task_is_neither_read_nor_aborted(client, blockbuster):
    """Whoever can write beside a spooled batch chooses which Runs its ledger names; the account has others."""
    blockbuster.deactivate()
    ours = await submit(client, "ours", [{"n": n, "ms": LONG_MS} for n in (1, 2)])
    other = await submit(client, "other", [{"n": 3, "ms": LONG_MS}], **{"task.name": "other"})

    async def runs(of: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await client.ask("GET", f"/v1/batches/{of}/runs"))[1]["items"]
        return found

    (theirs,) = await eventually(lambda: runs(other), bool)
    first, _ = await eventually(lambda: runs(ours), lambda found: len(found) == 2)
    out = client.worker.directory.out_dir(client.worker.store[ours])
    with connect(out / "ledger.sqlite3") as ledger:
        ledger.execute("UPDATE attempt SET run_id = ? WHERE run_id = ?", (theirs["run_id"], first["run_id"]))
    for method, what in (("GET", "log"), ("POST", "abort")):
        refused = await client.refusal(method, f"/v1/batches/{ours}/runs/{theirs['run_id']}/{what}")
        assert refused == (404, "run-not-found", f"Run {theirs['run_id']} is of another task")
    assert [each["status"] for each in await runs(other)] == ["RUNNING"]


async def test_secrets_of_inputs_are_not_shown_while_runs_are_live_nor_later(client):
    """Those of the line and of the task, in messages and logs; also when the batch is closed, and no log was kept."""
    says, shown = "no login by line-SECRET, task-SECRET, plain", "no login by ***, ***, plain"
    jobs = [{"n": n, "ms": ms, "apiKey": "line-SECRET", "says": says} for n, ms in ((1, 0), (2, LONG_MS))]
    described = {"task.name": "secrets", "task.input": {"password": "task-SECRET"}}
    batch_id = await submit(client, "secrets", jobs, **described)
    path = f"/v1/batches/{batch_id}"

    async def read(run_id: str) -> str:
        async with client.session.get(f"{client.address}{path}/runs/{run_id}/log") as answer:
            text: str = await answer.text()
            assert answer.status == 200, text
            return text

    async def runs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await client.ask("GET", f"{path}/runs"))[1]["items"]
        return found

    def is_said(found: list[dict[str, Any]]) -> bool:
        return len(found) == 1 and found[0]["status_message"] is not None

    await eventually(lambda: client.ask("GET", path), lambda answer: answer[1]["outcomes"] == {"succeeded": 1})
    (live,) = await eventually(runs, is_said)
    assert live["status_message"] == shown
    assert shown in await read(live["run_id"])
    await client.ask("POST", f"{path}/cancel")
    await client.until(batch_id, BatchState.CANCELLED)
    out = client.worker.directory.out_dir(client.worker.store[batch_id])
    records = [orjson.loads(line) for line in (out / "records.jsonl").read_bytes().splitlines()]
    assert {record["outcome"]: record["run"]["statusMessage"] for record in records}["succeeded"] == shown
    for record in records:
        assert shown in await read(record["run"]["id"])
    (file,) = out.parent.rglob("jobs.jsonl")
    file.write_bytes(file.read_bytes().replace(b"line-SECRET", b"other-LINES"))
    (ended,) = [record["run"]["id"] for record in records if record["outcome"] == "succeeded"]
    refused = await client.refusal("GET", f"{path}/runs/{ended}/log")
    assert (refused[:2], "which secrets this log may quote is unknown" in refused[2]) == ((409, "wrong-state"), True)


async def test_a_run_of_the_embedded_server_has_the_address_of_its_page_there(tmp_path, api):
    """It opens without a token, as long as the worker lives; live, and as a sample of a cause."""
    actors = [str(ROOT / "tests/support/actors/crash-worker")]
    async with opened(tmp_path / "data", api, api__base_url="embedded", server__actors=actors) as client:
        given = {"task.actor": EMBEDDED_ACTOR, "retry.max_attempts": 1}
        jobs = [{"n": 1, "ms": LONG_MS}, {"n": 2, "fails": True}]
        batch_id = await client.submit_batch(jobs, name="own", settings=orjson.dumps(given).decode())
        path = f"/v1/batches/{batch_id}"
        await eventually(lambda: client.ask("GET", path), lambda answer: answer[1]["jobs"]["settled"] == 1)
        _, runs = await client.ask("GET", f"{path}/runs")
        _, failed = await client.ask("GET", f"{path}/failures")
        for url, run_id in (
            (runs["items"][0]["url"], runs["items"][0]["run_id"]),
            (failed["failures"][0]["run_url"], failed["failures"][0]["run_id"]),
        ):
            base_url, _, place = url.partition("/#/")
            assert place == f"runs/{run_id}"
            async with ClientSession() as stranger, stranger.get(f"{base_url}/v2/actor-runs/{run_id}") as answer:
                assert answer.status == 200


async def run_times(client: Client, batch_id: str) -> list[float]:
    """Return how long the Runs of a batch's records took, in seconds."""
    async with client.session.get(f"{client.address}/v1/batches/{batch_id}/records") as answer:
        records = [orjson.loads(line) for line in (await answer.read()).splitlines()]
    runs = [each for record in records for each in record["attempts"]]
    times = [[datetime.fromisoformat(run[moment]) for moment in ("started_at", "finished_at")] for run in runs]
    return [(finished - started).total_seconds() for started, finished in times]


async def test_the_history_of_a_batch_adds_up_to_its_counts(client):
    """From the ledger, so it is there after a restart as well; null before the first job."""
    batch_id = await submit(client, "past", [{"n": n, "fails": n < 2} for n in range(9)])
    await client.until(batch_id, BatchState.FINISHED)
    _, history = await client.ask("GET", f"/v1/batches/{batch_id}/history")
    _, batch = await client.ask("GET", f"/v1/batches/{batch_id}")
    assert (sum(history["succeeded"]), sum(history["failed"])) == (7, 2)
    assert (history["done"][-1], history["not_succeeded"][-1]) == (9, 2)
    assert history["cost_usd"][-1] == pytest.approx(batch["cost_usd"])
    assert len({len(history[each]) for each in ("succeeded", "failed", "live_runs", "done", "cost_usd")}) == 1
    _, recent = await client.ask("GET", f"/v1/batches/{batch_id}/history?last_s=60")
    assert (recent["done"][-1], recent["run_times"]) == (9, history["run_times"])
    times, took = history["run_times"], sorted(await run_times(client, batch_id))
    ranks = {"50": took[4], "90": took[8], "99": took[8]}
    assert times["spread"]["percentiles"] == pytest.approx(ranks, abs=1e-6)
    assert (times["spread"]["count"], sum(times["counts"]), len(times["edges"])) == (9, 9, len(times["counts"]) + 1)
    _, points = await client.ask("GET", "/v1/worker/history")
    assert len(points["at"]) == len(points["live_runs"]) <= 300


async def test_the_configuration_holds_what_differs_from_the_defaults_and_no_token(client):
    """Nor a secret value of an input, wherever it is given; profiles are listed by name."""
    given = {"apiKey": "SECRET", "depth": 3}
    inputs = {"task.input": given, "input": given, "jobs.template": {**given, "n": "{{n}}"}}
    settings = {"limits.start_rate": 7, "task.name": "told", **inputs}
    batch_id = await submit(client, "told", [{"n": 1}], **settings)
    _, config = await client.ask("GET", f"/v1/batches/{batch_id}/config")
    assert config["limits"]["start_rate"] == 7
    assert config["retry"] == {"max_attempts": 1}
    assert not {"api", "server"} & set(config)
    assert TOKEN not in str(config)
    shown = {"apiKey": "***", "depth": 3}
    assert (config["task"]["input"], config["input"], config["jobs"]["template"]) == (
        shown,
        shown,
        {**shown, "n": "{{n}}"},
    )
    assert (await client.ask("GET", "/v1/profiles"))[1] == {"names": []}
    (client.worker.directory.profiles / "shop.toml").write_text("")
    assert (await client.ask("GET", "/v1/profiles"))[1] == {"names": ["shop"]}


async def test_an_event_makes_the_row_of_each_batch_once(client, monkeypatch):
    """For the worker's numbers and the page of the list together: there may be 10,000 batches."""
    monkeypatch.setattr(live_event_routes, "INTERVAL_S", 600.0)
    batch_id = await submit(client, "listed", [{"n": 1}])
    await client.until(batch_id, BatchState.FINISHED)
    made: list[str] = []
    make = batch_list._row

    def noted(worker: Worker, submission: Submission) -> batch_list.ListRow:
        made.append(submission.id)
        return make(worker, submission)

    monkeypatch.setattr(batch_list, "_row", noted)
    async with client.session.get(f"{client.address}/v1/events") as answer:
        assert await answer.content.readline()
    assert made == [batch_id]


async def test_events_are_of_the_worker_and_of_a_list_or_one_batch(client):
    """A part is sent when it has changed; a batch that was deleted is null."""
    batch_id = await submit(client, "seen", [{"n": 1}])
    await client.until(batch_id, BatchState.FINISHED)
    async with client.session.get(f"{client.address}/v1/events?search=see&limit=1") as answer:
        news = orjson.loads((await answer.content.readline()).removeprefix(b"data: "))
        assert ([each["id"] for each in news["list"]["items"]], news["worker"]["version"]) == ([batch_id], "0.1.0")
    async with client.session.get(f"{client.address}/v1/events?batch=seen") as answer:
        news = orjson.loads((await answer.content.readline()).removeprefix(b"data: "))
        assert (news["batch"]["id"], news["batch"]["can"]) == (batch_id, ["delete"])
        assert await answer.content.readline() == b"\n"
        assert (await client.ask("DELETE", f"/v1/batches/{batch_id}"))[0] == 204
        while "batch" not in (news := orjson.loads((await answer.content.readline()).removeprefix(b"data: ") or b"{}")):
            pass
        assert news["batch"] is None
    assert (await client.refusal("GET", "/v1/events?batch=seen"))[:2] == (404, "batch-not-found")


async def _read_again(client: Client, batch_id: str, piece: str, offset: int) -> AsyncIterator[bytes]:
    """Read a log from where a reader has lost its connection, answer by answer."""
    while True:
        query = f"piece={piece}&offset={offset}"
        async with client.session.get(f"{client.address}/v1/batches/{batch_id}/log?{query}") as rest:
            offset = offset if rest.headers[LOG_PIECE] == piece else 0
            piece, found = rest.headers[LOG_PIECE], await rest.read()
        offset += len(found)
        yield found
        if not found:
            return


async def test_a_log_is_followed_while_it_rotates(client, tmp_path):
    """Each line once: what a reader had not read of the renamed piece, then the new file; also after a new connection.

    The batch writes lines of its own meanwhile; the first one here is longer than all of them together.
    """
    batch_id = await submit(client, "logged", [{"n": 1, "until": str(tmp_path / "stop")}])
    await until(lambda: client.worker.live_runs == 1, "a live Run")
    log = client.worker.directory.out_dir(client.worker.store[batch_id]) / "batch.log"
    words = ("x" * (20_000 if n == 0 else 30) for n in range(4))
    first, second, third, fourth = (f'{{"n":{n},"words":"{each}"}}\n'.encode() for n, each in enumerate(words))
    log.write_bytes(first)
    async with client.session.get(f"{client.address}/v1/batches/{batch_id}/log?follow=1") as answer:
        while await answer.content.readline() != first:
            pass
        with log.open("ab") as opened_log:
            opened_log.write(second)
        log.rename(piece_of(log, 1))
        log.write_bytes(third)
        found = []
        while third not in found:
            line = await answer.content.readline()
            found += [line] if line.startswith(b'{"n":') else []
        assert found == [second, third]
        piece_of(log, 1).rename(piece_of(log, 2))  # it rotates once more
        log.rename(piece_of(log, 1))
        log.write_bytes(fourth)
        again = b"".join(
            [piece async for piece in _read_again(client, batch_id, answer.headers[LOG_PIECE], len(first))]
        )
        assert [line for line in again.splitlines(True) if line.startswith(b'{"n":')] == [second, third, fourth]
        (tmp_path / "stop").touch()


async def test_a_log_that_begins_as_its_batch_ends_is_followed_to_its_end(client):
    """The answer ends without a line where the first piece begins; the batch rests when it is asked for."""
    batch_id = await submit(client, "brief", [{"n": 1}])
    await client.until(batch_id, BatchState.FINISHED)
    _, view = await client.ask("GET", f"/v1/batches/{batch_id}")
    answers = [("", b""), ("a-piece", b"a line\n")]

    async def answer(request: web.BaseRequest) -> web.Response:
        if not request.path.endswith("/log"):
            return web.json_response(view)
        piece, found = answers.pop(0) if answers else ("a-piece", b"")
        return web.Response(body=found, headers={LOG_PIECE: piece})

    async with RawTestServer(answer) as server, open_client(WorkerAddress(str(server.make_url(""))), print) as reader:
        found = [piece async for piece in reader.follow(batch_id, "log", print)]
    assert b"".join(found) == b"a line\n"
