"""The worker's HTTP API: what it takes, what it refuses and in which words, and what is left of either."""

import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import jsonschema_rs
import orjson
import pytest
from aiohttp import ClientSession, FormData
from yarl import URL

from batchrun.worker.http import live_event_routes, open_http
from batchrun.worker.http.http_app import _ROUTE_MODULES
from batchrun.worker.http.token_check import COOKIE
from batchrun.worker.submission import BatchState
from batchrun.worker.token_file import Token
from batchrun.worker.worker import Worker
from tests.support.api_process import ACTOR
from tests.support.crash import Api, open_api
from tests.support.worker_life import lines_of, until, working

TOKEN = Token("a-worker-token")
#: Longer than any test: Runs that end only when they are aborted.
LONG_MS = 600_000


@dataclass
class Desk:
    """A worker in this process, and a session that has its token."""

    worker: Worker
    address: str
    session: ClientSession

    async def ask(self, method: str, path: str, **request: Any) -> tuple[int, Any]:
        """Return the status, and the body as JSON where there is one."""
        async with self.session.request(method, URL(self.address + path, encoded=True), **request) as answer:
            body = await answer.read()
            return answer.status, orjson.loads(body) if body else None

    async def refusal(self, method: str, path: str, **request: Any) -> tuple[int, str, str]:
        """Return status, type and message of a refusal; it comes in the envelope, and in nothing else."""
        status, body = await self.ask(method, path, **request)
        assert set(body) == {"error"}, body
        assert set(body["error"]) == {"type", "message"}
        return status, body["error"]["type"], body["error"]["message"]

    async def submit(self, form: FormData, **headers: str) -> tuple[int, Any]:
        return await self.ask("POST", "/v1/batches", data=form, headers=headers)

    async def hand_in(self, jobs: list[dict[str, Any]], **texts: str) -> str:
        """Hand a batch in and return its id."""
        status, view = await self.submit(form_of(jobs, **texts))
        assert status == 201, view
        return str(view["id"])

    async def until(self, batch_id: str, *states: BatchState) -> None:
        def is_there() -> bool:
            return self.worker.store[batch_id].state in states and batch_id not in self.worker.runners

        await until(is_there, lambda: f"{states}: {self.worker.store[batch_id]}")

    @property
    def directories(self) -> list[str]:
        """What lies where batches are kept."""
        return sorted(each.name for each in self.worker.directory.batches.iterdir())


def config_of(task: str = "work") -> str:
    return f'[task]\nactor = "{ACTOR}"\nname = "{task}"\noptions = {{ memory_mb = 128 }}\n[jobs]\nfile = "jobs.jsonl"\n'


def form_of(jobs: list[dict[str, Any]] | None = None, *, file_name: str = "jobs.jsonl", **texts: str) -> FormData:
    """Return a form with a batch file, unless a profile is named, and a job file."""
    form = FormData(default_to_multipart=True)
    given = texts if "profile" in texts or "config" in texts else {"config": config_of(), **texts}
    for name, text in given.items():
        form.add_field(name, io.BytesIO(text.encode()))
    if jobs is not None:
        form.add_field("jobs", lines_of(jobs), filename=file_name, content_type="application/octet-stream")
    return form


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """One platform for all tests."""
    with open_api(tmp_path_factory.mktemp("api")) as api:
        yield api


@asynccontextmanager
async def opened(data: Path, api: Api) -> AsyncIterator[Desk]:
    async with (
        working(data, api, worker__port=0, limits__max_concurrent_runs=8) as worker,
        open_http(worker, TOKEN) as address,
        ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
    ):
        yield Desk(worker, address, session)


@pytest.fixture
async def desk(tmp_path, api):
    """A new worker."""
    async with opened(tmp_path / "data", api) as desk:
        yield desk


async def test_a_batch_comes_in_with_its_job_file_and_its_records_are_the_committed_ones(desk):
    """201 and the view; followed, records end with the batch; an offset passes over bytes."""
    status, view = await desk.submit(form_of([{"n": n} for n in range(5)], name="shop", weight="2", priority="-3"))
    assert (status, view["name"], view["weight"], view["priority"]) == (201, "shop", 2, -3)
    async with desk.session.get(f"{desk.address}/v1/batches/shop/records?follow=1") as answer:
        followed = await answer.read()
    await desk.until(view["id"], BatchState.FINISHED)
    written = (desk.worker.directory.out_dir(desk.worker.store[view["id"]]) / "records.jsonl").read_bytes()
    assert followed == written
    assert len(written.splitlines()) == 5
    async with desk.session.get(f"{desk.address}/v1/batches/shop/records?offset=7") as answer:
        assert await answer.read() == written[7:]
    async with desk.session.get(f"{desk.address}/v1/batches/shop/items") as answer:
        assert len((await answer.read()).splitlines()) == 5
    async with desk.session.get(f"{desk.address}/v1/batches/shop/report") as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
    assert (await desk.ask("GET", "/v1/batches/shop/failures"))[1]["succeeded"] == 5
    for wrong in ("-1", "x", "1" * 30, "%D9%A3"):
        assert (await desk.refusal("GET", f"/v1/batches/shop/records?offset={wrong}"))[:2] == (400, "bad-value")


@pytest.mark.parametrize(
    ("form", "status", "word"),
    [
        (lambda: form_of([{"n": 1}], config=config_of(), profile="shop"), 400, "either config"),
        (lambda: form_of([{"n": 1}], name="x", profile="nope"), 400, "there is no profile 'nope'"),
        (lambda: form_of([{"n": 1}], profile="../../token"), 400, "there is no profile"),
        (lambda: form_of(None, profile="shop"), 400, "jobs: is missing"),
        (lambda: form_of(None), 400, "jobs.file"),
        (lambda: form_of([{"n": 1}], config="[task"), 400, "TOML"),
        (lambda: form_of([{"n": 1}], config=config_of() + "[limits]\nstart_raet = 1\n"), 400, "limits.start_rate?"),
        (lambda: form_of([{"n": 1}], config=config_of() + '[api]\nbase_url = "http://127.0.0.1:1"\n'), 400, "api"),
        (lambda: form_of([{"n": 1}], weight="0"), 400, "weight"),
        (lambda: form_of([{"n": 1}], weight="nan"), 400, "weight"),
        (lambda: form_of([{"n": 1}], priority="1.5"), 400, "priority"),
        (lambda: form_of([{"n": 1}], name="x" * 201), 400, "name"),
        (lambda: form_of([{"n": 1}], name="a\nb"), 400, "name"),
        (lambda: form_of([{"n": 1}], settings="[]"), 400, "settings"),
        (lambda: form_of([{"n": 1}], settings='{"limits.nope": 1}'), 400, "limits.nope"),
        (lambda: form_of([{"n": 1}], colour="red"), 400, "'colour' is not a field of a batch"),
        (lambda: form_of([{"n": 1}], file_name="jobs.exe"), 400, "is not a job file"),
        (lambda: form_of([{"n": 1}], config="#" * (1 << 20) + "##"), 413, "larger than"),
    ],
)  # fmt: skip
async def test_what_cannot_be_carried_out_is_refused_and_nothing_of_it_is_left(desk, form, status, word):
    """In words that name the part or the key."""
    code, type_, message = await desk.refusal("POST", "/v1/batches", data=form())
    assert code == status, message
    assert type_ in {"bad-form", "bad-value", "bad-batch", "body-too-large"}
    assert word in message
    assert desk.directories == []


async def test_bodies_that_are_no_form_are_refused_and_nothing_of_them_is_left(desk):
    """Another type, no boundary, parts twice, a form within the form, bytes that are no text."""
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    twice = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\na\r\n'
    cases: list[tuple[dict[str, str], bytes, int]] = [
        ({"Content-Type": "application/json"}, b"{}", 415),
        ({"Content-Type": "multipart/form-data"}, b"x", 400),
        (headers, b"no part at all", 400),
        (headers, b"", 400),
        (headers, twice + twice + b"--b--\r\n", 400),
        (headers, b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\xfe\r\n--b--\r\n', 400),
        (headers, b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n", 400),
    ]
    for given, body, status in cases:
        code, _, message = await desk.refusal("POST", "/v1/batches", data=body, headers=given)
        assert code == status, (body, message)
        assert desk.directories == [], body


@pytest.mark.parametrize("file_name", ["../../../escaped.jsonl", "/tmp/escaped.jsonl", "a\\b.jsonl", "ü 💥.jsonl"])
async def test_a_job_file_stays_in_its_batchs_directory_whatever_it_is_called(desk, file_name):
    """Only the ending of its name is used."""
    batch_id = await desk.hand_in([{"n": 1}], file_name=file_name)
    await desk.until(batch_id, BatchState.FINISHED)
    assert (desk.worker.directory.of(batch_id) / "jobs.jsonl").exists()
    assert list(desk.worker.directory.path.parent.rglob("escaped*")) == []


async def test_an_upload_that_is_cut_off_leaves_nothing(desk):
    """The connection ends in the middle of the job file."""
    url = URL(desk.address)
    head = (
        f"POST /v1/batches HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="jobs"; filename="jobs.jsonl"\r\n\r\n{"n": 1}\n'
    )
    async with await anyio.connect_tcp(str(url.host), int(url.port or 0)) as connection:
        await connection.send(head.encode())
        await until(lambda: desk.directories, "an upload that has begun")
    await until(lambda: desk.directories == [], "an upload that is cleared away")
    assert len(desk.worker.store) == 0


async def test_one_key_makes_one_batch_however_often_it_is_sent(desk):
    """At once, and later; another key makes another one."""
    ids: list[tuple[int, str]] = []

    async def send(key: str) -> None:
        status, view = await desk.submit(form_of([{"n": 1}]), **{"Idempotency-Key": key})
        ids.append((status, view["id"]))

    async with anyio.create_task_group() as children:
        for _ in range(6):
            children.start_soon(send, "first")
    await send("first")
    assert len({batch_id for _, batch_id in ids}) == 1
    assert sorted(status for status, _ in ids) == [200] * 6 + [201]
    await send("second")
    assert len(desk.directories) == len(desk.worker.store) == 2
    for key in ("", "k" * 201):
        request = {"data": form_of([{"n": 1}]), "headers": {"Idempotency-Key": key}}
        assert (await desk.refusal("POST", "/v1/batches", **request))[0] == 400


async def test_batches_are_listed_the_newest_first(desk):
    """By state, in pages; wrong values are refused."""
    ids = [await desk.hand_in([{"n": n}], name=f"b{n}") for n in range(3)]
    for batch_id in ids:
        await desk.until(batch_id, BatchState.FINISHED)
    _, page = await desk.ask("GET", "/v1/batches")
    assert ([each["id"] for each in page["items"]], page["total"]) == (ids[::-1], 3)
    _, page = await desk.ask("GET", "/v1/batches?limit=1&offset=1&state=finished,paused")
    assert ([each["id"] for each in page["items"]], page["total"]) == ([ids[1]], 3)
    assert (await desk.ask("GET", "/v1/batches?state=failed"))[1] == {"items": [], "total": 0}
    for query in ("limit=1001", "limit=-1", "offset=x", "state=nope", "limit=", "limit=" + "9" * 99):
        assert (await desk.refusal("GET", f"/v1/batches?{query}"))[:2] == (400, "bad-value"), query


async def test_a_batch_is_told_what_to_do_changed_and_deleted(desk):
    """409 where its state does not allow it; what is live is aborted when it is cancelled."""
    batch_id = await desk.hand_in([{"n": n, "ms": LONG_MS} for n in range(5)], name="held")
    await desk.ask("PATCH", "/v1/batches/held", json={"max_concurrent_runs": 2})
    await until(lambda: desk.worker.live_runs >= 2, "live Runs")
    for body, word in (
        ({"max_concurrent_runs": 0}, "max_concurrent_runs"), ({"weight": "heavy"}, "weight"), ({"wieght": 1}, "wieght"),
        ([], "object"), ({"budget_usd": -1}, "budget_usd"), ({"priority": 10**6}, "priority"),
    ):  # fmt: skip
        status, _, message = await desk.refusal("PATCH", "/v1/batches/held", json=body)
        assert (status, word in message) == (400, True), message
    assert (await desk.refusal("PATCH", "/v1/batches/held", data=b"{"))[0] == 400
    assert (await desk.refusal("DELETE", "/v1/batches/held"))[:2] == (409, "wrong-state")
    assert (await desk.refusal("POST", "/v1/batches/held/resume"))[:2] == (409, "wrong-state")
    assert (await desk.ask("POST", "/v1/batches/held/pause"))[1]["state"] == "pausing"
    assert (await desk.ask("POST", "/v1/batches/held/cancel"))[0] == 200
    await desk.until(batch_id, BatchState.CANCELLED)
    assert (await desk.refusal("POST", "/v1/batches/held/cancel"))[:2] == (409, "wrong-state")
    assert await desk.ask("DELETE", "/v1/batches/held") == (204, None)
    assert (await desk.refusal("GET", "/v1/batches/held"))[:2] == (404, "batch-not-found")
    assert desk.directories == []


async def test_what_is_not_there_is_told_in_the_envelope(desk):
    """Routes, methods, batches, and names that several have."""
    assert (await desk.refusal("GET", "/v2/nothing"))[:2] == (404, "page-not-found")
    async with desk.session.put(f"{desk.address}/v1/batches") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD,POST")
    for ref in ("nope", "%2e%2e%2fx", "%00", "a%2Fb"):
        assert (await desk.refusal("GET", f"/v1/batches/{ref}"))[0] == 404, ref
    ids = [await desk.hand_in([{"n": n}], name="same") for n in range(2)]
    status, _, message = await desk.refusal("GET", "/v1/batches/same")
    assert (status, all(each in message for each in ids)) == (404, True)


async def test_nobody_is_let_in_without_the_token(desk):
    """No header, a wrong one, a cookie that another page sends along; the address sets the cookie and forgets it."""
    async with ClientSession() as session:

        async def status(path: str = "/v1/worker", **headers: str) -> int:
            async with session.get(desk.address + path, headers=headers, allow_redirects=False) as answer:
                return answer.status

        assert await status() == 401
        assert await status(Authorization="Bearer wrong") == 401
        assert await status(Authorization=f"Basic {TOKEN}") == 401
        assert await status(Cookie=f"{COOKIE}={TOKEN}", Origin="https://elsewhere.example") == 401
        assert await status(Cookie=f"{COOKIE}={TOKEN}", Origin=desk.address) == 200
        assert await status(Cookie=f"{COOKIE}=wrong") == 401
        assert await status("/?token=wrong") == 401
        assert await status("/health/live") == 200
        async with session.get(f"{desk.address}/?token={TOKEN}", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/")
            assert {"HttpOnly", "SameSite=Strict"} <= set(answer.headers["Set-Cookie"].split("; "))


async def test_limits_of_all_batches_are_changed_while_it_runs(desk):
    """A wrong one changes nothing."""
    _, before = await desk.ask("GET", "/v1/limits")
    for body in ({"max_concurrent_runs": -1}, {"nope": 1}, {"budget_usd": "much"}, {"request_rate": None}):
        assert (await desk.refusal("PATCH", "/v1/limits", json=body))[:2] == (400, "bad-value"), body
    assert (await desk.ask("GET", "/v1/limits"))[1] == before
    assert (await desk.ask("PATCH", "/v1/limits", json={"max_concurrent_runs": 3}))[1]["max_concurrent_runs"] == 3
    assert (await desk.ask("GET", "/v1/worker"))[1]["slots"]["limit"] == 3


async def test_a_reader_that_does_not_read_holds_up_nobody(desk):
    """Batches go on beside it, and others are answered."""
    first = await desk.hand_in([{"n": n, "output_bytes": 2000, "items": 300} for n in range(40)], name="large")
    url = URL(desk.address)
    async with await anyio.connect_tcp(str(url.host), int(url.port or 0)) as stalled:
        request = f"GET /v1/batches/large/items?follow=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        await stalled.send(request.encode())
        await desk.until(first, BatchState.FINISHED)
        await desk.until(await desk.hand_in([{"n": 1}], name="small"), BatchState.FINISHED)


async def test_a_worker_that_drains_takes_nothing_more(desk):
    """503, and it is not ready any more."""
    desk.worker.drain()
    assert (await desk.refusal("POST", "/v1/batches", data=form_of([{"n": 1}])))[:2] == (503, "not-possible-now")
    assert (await desk.ask("GET", "/health/ready"))[0] == 503
    assert desk.directories == []


#: Served, and no part of the API: the page, its script, this document, and what Prometheus reads.
NO_OPERATIONS = {"/", "/page.js", "/openapi.json", "/metrics"}


async def test_the_openapi_document_names_every_route_and_answers_are_as_it_says(desk):
    """It needs no token; each answer of each kind fits its schema."""
    async with ClientSession() as session, session.get(f"{desk.address}/openapi.json") as answer:
        document = await answer.json()
    served = {
        (route.method, route.path)
        for module in _ROUTE_MODULES
        for route in module.ROUTES
        if route.path not in NO_OPERATIONS
    }
    named = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert named == served
    batch_id = await desk.hand_in([{"n": 1, "fails": True}], name="told", settings='{"retry.max_attempts": 1}')
    await desk.until(batch_id, BatchState.FINISHED)
    answers = {
        "/v1/worker": "WorkerView",
        "/v1/limits": "WorkerLimitsConfig",
        "/v1/batches": "BatchPage",
        "/v1/batches/told": "BatchView",
        "/v1/batches/nope": "Error",
    }
    for path, name in answers.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema_rs.Draft202012Validator(schema).validate((await desk.ask("GET", path))[1])


async def test_a_listener_who_leaves_is_no_error(desk, monkeypatch, caplog):
    """Whoever closes the page while it is being written to is noticed, and nothing is logged like a bug."""
    monkeypatch.setattr(live_event_routes, "INTERVAL_S", 0.01)
    monkeypatch.setattr(live_event_routes, "_SILENCE", 1)
    listening = 0
    news = live_event_routes._news

    def told(*arguments: Any, **options: Any) -> dict[str, Any]:
        nonlocal listening
        listening += 1
        return news(*arguments, **options)

    monkeypatch.setattr(live_event_routes, "_news", told)
    async with desk.session.get(desk.address + "/v1/events") as answer:
        assert await answer.content.readline()
        assert answer.connection is not None
        assert answer.connection.transport is not None
        answer.connection.transport.abort()
    await _until_still(lambda: listening)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def _until_still(count: Callable[[], int]) -> None:
    """Wait until something that goes on a hundred times a second has ended."""
    before = -1
    while before != (before := count()):  # noqa: ASYNC110 - what does not happen any more sets no event
        await anyio.sleep(0.5)
