"""The worker's HTTP API: accepted and refused requests, messages, and the files that are left."""

import io
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import jsonschema_rs
import orjson
import pytest
from aiohttp import ClientSession, FormData, UnixConnector
from anyio.abc import SocketStream
from yarl import URL

from batchrun.output.layout import BATCH_LOG
from batchrun.runtime import free_space
from batchrun.runtime.content_security import STRANGER_POLICY
from batchrun.server.http import connection_cap
from batchrun.worker import batch_deletion, worker_client
from batchrun.worker.http import (
    PageAccess,
    batch_upload,
    http_app,
    live_event_routes,
    open_http,
    output_routes,
    request_context,
    token_check,
    worker_routes,
)
from batchrun.worker.http.http_app import _ROUTE_MODULES
from batchrun.worker.http.page_access import MAX_TICKETS
from batchrun.worker.local_socket import short_path
from batchrun.worker.status_views import BatchView
from batchrun.worker.submission import BatchState, Submission
from batchrun.worker.token_file import Token
from batchrun.worker.worker import Worker
from batchrun.worker.worker_address import WorkerAddress
from tests.support.api_process import ACTOR
from tests.support.crash import Api, open_api
from tests.support.json_lines import to_lines
from tests.support.worker_life import until, working

TOKEN = Token("a-worker-token")
#: Duration of Runs that end only by an abort: longer than any test.
LONG_MS = 600_000


@dataclass
class Client:
    """A worker in this process, and a session with its token."""

    worker: Worker
    address: str
    session: ClientSession
    page: PageAccess

    async def ask(self, method: str, path: str, **request: Any) -> tuple[int, Any]:
        """Return the status, and the body as JSON if there is one."""
        async with self.session.request(method, URL(self.address + path, encoded=True), **request) as answer:
            body = await answer.read()
            return answer.status, orjson.loads(body) if body else None

    async def refusal(self, method: str, path: str, **request: Any) -> tuple[int, str, str]:
        """Return status, type and message of a refusal, which must be in the envelope."""
        status, body = await self.ask(method, path, **request)
        assert set(body) == {"error"}, body
        assert set(body["error"]) == {"type", "message"}
        return status, body["error"]["type"], body["error"]["message"]

    async def submit(self, form: FormData, **headers: str) -> tuple[int, Any]:
        return await self.ask("POST", "/v1/batches", data=form, headers=headers)

    async def submit_batch(self, jobs: list[dict[str, Any]], **texts: str) -> str:
        """Submit a batch and return its id."""
        status, view = await self.submit(form_of(jobs, **texts))
        assert status == 201, view
        return str(view["id"])

    async def until(self, batch_id: str, *states: BatchState) -> None:
        def is_there() -> bool:
            return self.worker.store[batch_id].state in states and batch_id not in self.worker.runners

        await until(is_there, lambda: f"{states}: {self.worker.store[batch_id]}")

    @property
    def directories(self) -> list[str]:
        """The names of the batches' directories."""
        return sorted(each.name for each in self.worker.directory.batches.iterdir())


def config_of(task: str = "work") -> str:
    return f'[task]\nactor = "{ACTOR}"\nname = "{task}"\noptions = {{ memory_mb = 128 }}\n[jobs]\nfile = "jobs.jsonl"\n'


def form_of(jobs: list[dict[str, Any]] | None = None, *, file_name: str = "jobs.jsonl", **texts: str) -> FormData:
    """Return a form with a job file and, unless a profile is named, a batch file."""
    form = FormData(default_to_multipart=True)
    given = texts if "profile" in texts or "config" in texts else {"config": config_of(), **texts}
    for name, text in given.items():
        form.add_field(name, io.BytesIO(text.encode()))
    if jobs is not None:
        form.add_field("jobs", io.BytesIO(to_lines(jobs)), filename=file_name, content_type="application/octet-stream")
    return form


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """One platform for all tests."""
    with open_api(tmp_path_factory.mktemp("api")) as api:
        yield api


@asynccontextmanager
async def opened(data: Path, api: Api, **flags: Any) -> AsyncIterator[Client]:
    page = PageAccess()
    async with (
        working(data, api, worker__port=0, limits__max_concurrent_runs=8, **flags) as worker,
        open_http(worker, TOKEN, page) as address,
        ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session,
    ):
        yield Client(worker, address, session, page)


@pytest.fixture
async def client(tmp_path, api):
    """A new worker."""
    async with opened(tmp_path / "data", api) as client:
        yield client


async def test_a_batch_is_uploaded_with_its_job_file_and_its_committed_records_are_streamed(client):
    """201 and the view; a followed stream ends with the batch; an offset skips bytes."""
    status, view = await client.submit(form_of([{"n": n} for n in range(5)], name="shop", weight="2", priority="-3"))
    assert (status, view["name"], view["weight"], view["priority"]) == (201, "shop", 2, -3)
    async with client.session.get(f"{client.address}/v1/batches/shop/records?follow=1") as answer:
        followed = await answer.read()
    await client.until(view["id"], BatchState.FINISHED)
    written = (client.worker.directory.out_dir(client.worker.store[view["id"]]) / "records.jsonl").read_bytes()
    assert followed == written
    assert len(written.splitlines()) == 5
    async with client.session.get(f"{client.address}/v1/batches/shop/records?offset=7") as answer:
        assert await answer.read() == written[7:]
    async with client.session.get(f"{client.address}/v1/batches/shop/items") as answer:
        assert len((await answer.read()).splitlines()) == 5
    async with client.session.get(f"{client.address}/v1/batches/shop/costs") as answer:
        costs = [orjson.loads(line) for line in (await answer.read()).splitlines()]
    runs = [each["run_id"] for record in map(orjson.loads, written.splitlines()) for each in record["attempts"]]
    assert sorted(cost["run_id"] for cost in costs) == sorted(runs)
    async with client.session.get(f"{client.address}/v1/batches/shop/report") as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
    assert (await client.ask("GET", "/v1/batches/shop/failures"))[1]["succeeded"] == 5
    for wrong in ("-1", "x", "1" * 30, "%D9%A3"):
        assert (await client.refusal("GET", f"/v1/batches/shop/records?offset={wrong}"))[:2] == (400, "bad-value")


async def test_a_plan_over_http_leaves_nothing_behind(client, api):
    """No batch, no file, no Run; what is wrong with the form is refused as for a batch."""
    runs = len(api.runs())
    status, plan = await client.ask("POST", "/v1/plans?inputs=2", data=form_of([{"n": n} for n in range(4)]))
    assert (status, plan["jobs"], plan["would_fail"], len(plan["inputs"])) == (200, 4, False, 2)
    assert plan["forecast"]["slots"] == 8, "those of the worker"
    wrong = form_of([{"n": 1}], config=config_of() + '[output]\nitems = "nope"\n')
    assert (await client.refusal("POST", "/v1/plans", data=wrong))[:2] == (400, "bad-batch")
    assert (await client.refusal("POST", "/v1/plans?inputs=x", data=form_of([{"n": 1}])))[:2] == (400, "bad-value")
    unknown = form_of([{"n": 1}], config='[task]\nid = "no-such-task"\n[jobs]\nfile = "jobs.jsonl"\n')
    assert (await client.refusal("POST", "/v1/plans", data=unknown))[:2] == (422, "refused-by-platform")
    assert (client.directories, len(client.worker.store), len(api.runs())) == ([], 0, runs)


async def test_a_plan_over_http_reads_so_many_jobs_and_says_so(client, monkeypatch):
    """Lines that are no new jobs count too; a file that ends there is whole."""
    monkeypatch.setattr("batchrun.worker.batch_plans.MAX_PLANNED_JOBS", 4)
    lines = [{"n": 0}, {"n": 0}, {"n": 1}, {"n": 2}, {"n": 3}]
    plan = (await client.ask("POST", "/v1/plans", data=form_of(lines)))[1]
    assert (plan["jobs"], plan["duplicates"], plan["is_whole_file"]) == (3, 1, False)
    assert plan["unknown"][0].startswith("what the lines after the first 4 jobs of the file add")
    plan = (await client.ask("POST", "/v1/plans", data=form_of(lines[1:])))[1]
    assert (plan["jobs"], plan["is_whole_file"]) == (4, True)


async def test_a_plan_is_refused_while_two_others_are_made(client):
    """They would wait in the worker, with their files, however many they are."""
    plans = client.worker._plans._turns
    for _ in range(2):
        plans.acquire_nowait()
    async with client.session.post(f"{client.address}/v1/plans", data=form_of([{"n": 1}])) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
        assert "2 other plans are being made" in (await answer.json())["error"]["message"]
    plans.release()
    assert (await client.ask("POST", "/v1/plans", data=form_of([{"n": 1}])))[0] == 200
    assert client.directories == []


async def test_a_retry_over_http_is_shown_first_and_carried_out_once(client):
    """A field that does not exist is named; a key that is repeated adds no round."""
    settings = '{"retry.max_attempts": 1}'
    jobs = [{"@key": f"k{n}", "n": n, "fails": n < 2} for n in range(3)]
    batch_id = await client.submit_batch(jobs, settings=settings)
    await client.until(batch_id, BatchState.FINISHED)
    path = f"/v1/batches/{batch_id}/retry"
    for wrong in ({"nope": 1}, {"keys": "k0"}, {"dry_run": "perhaps"}, {"outcomes": ["lots"]}):
        assert (await client.refusal("POST", path, json=wrong))[0] == 400, wrong
    status, would = await client.ask("POST", path, json={"dry_run": True, "keys": ["k1"]})
    assert (status, would["jobs"], would["failures"][0]["key"]) == (200, 1, "k1")
    for key, jobs_of_it in (("once", 2), ("once", 0), ("another", 2), ("once", 0), ("another", 0)):
        status, retried = await client.ask("POST", path, headers={"Idempotency-Key": key})
        assert (status, retried["jobs"], retried["batch"]["id"]) == (200, jobs_of_it, batch_id)
        if (key, jobs_of_it) != ("once", 2):  # it may be asked for again before it is carried out
            await client.until(batch_id, BatchState.FINISHED)
    out_dir = client.worker.directory.out_dir(client.worker.store[batch_id])
    rounds = [orjson.loads(line)["round"] for line in (out_dir / "records.jsonl").read_bytes().splitlines()]
    assert sorted(rounds) == [1, 1, 1, 2, 2, 3, 3]


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
        (lambda: form_of([{"n": 1}], shards="8"), 400, "this worker is alone"),
        (lambda: form_of([{"n": 1}], shards="65"), 400, "shards"),
        (lambda: form_of([{"n": 1}], name="x" * 201), 400, "name"),
        (lambda: form_of([{"n": 1}], name="x" * 5_000), 413, "name"),
        (lambda: form_of([{"n": 1}], name="a\nb"), 400, "name"),
        (lambda: form_of([{"n": 1}], settings="[]"), 400, "settings"),
        (lambda: form_of([{"n": 1}], settings='{"limits.nope": 1}'), 400, "limits.nope"),
        (lambda: form_of([{"n": 1}], settings='{"output.expect_item_schema": "/x"}'), 400, "field schema"),
        (lambda: form_of(None, config=config_of().replace("jobs.jsonl", "/etc/hosts")), 400, "form field jobs"),
        (lambda: form_of(None, config=config_of().replace("jobs.jsonl", "j" * 300)), 400, "was not sent"),
        (lambda: form_of(None), 400, "jobs.file: jobs.jsonl was not sent; send it as the form field jobs"),
        (lambda: form_of([{"n": 1}], schema='{"type": 7}'), 400, "output.expect_item_schema: cannot be used"),
        (lambda: form_of([{"n": 1}], colour="red"), 400, "'colour' is not a field of a batch"),
        (lambda: form_of([{"n": 1}], file_name="jobs.exe"), 400, "is not a job file"),
        (lambda: form_of([{"n": 1}], config="#" * (1 << 18) + "##"), 413, "larger than"),
    ],
)  # fmt: skip
async def test_an_invalid_batch_is_refused_and_leaves_no_files(client, form, status, word):
    """The message names the field or the key."""
    code, type_, message = await client.refusal("POST", "/v1/batches", data=form())
    assert code == status, message
    assert type_ in {"bad-form", "bad-value", "bad-batch", "body-too-large"}
    assert word in message
    assert client.directories == []


async def test_texts_that_would_take_too_much_are_refused(client):
    """400 in words, in each text that is parsed, and the worker goes on."""
    deep_key, deep = ".".join("a" * 30_000), "[" * 3_000
    forms = {
        "a key of more than 16 parts": {"config": config_of() + f"{deep_key} = 1\n"},
        "nests more than 64 levels deep": {"config": config_of() + f"x = {deep}"},
        "more than 3,500 characters": {"config": config_of() + "x = " + "1" * 200_000},
        "settings: is not JSON": {"settings": f'{{"input.x": {deep}}}'},
        "settings: nests more than 64 levels deep": {"settings": f'{{"input.x": {"[" * 200 + "]" * 200}}}'},
        "settings: a key has more than 16 parts": {"settings": f'{{"input.{deep_key}": 1}}'},
        "expect_item_schema: nests more than": {"schema": '{"not":' * 200 + "{}" + "}" * 200},
        "expect_item_schema: cannot be used: it refers to": {"schema": '{"$ref": "file:///etc/hosts"}'},
    }
    for words, texts in forms.items():
        status, _, message = await client.refusal("POST", "/v1/batches", data=form_of([{"n": 1}], **texts))
        assert (status, words in message) == (400, True), message
        assert len(message) < 2_000
    for body in (deep, '{"x": ' + "[" * 200 + "]" * 200 + "}"):
        assert (await client.refusal("PATCH", "/v1/limits", data=body))[:2] == (400, "bad-value")
    assert (await client.refusal("GET", "/v1/batches?limit=" + "0" * 5_000))[:2] == (400, "bad-value")
    request = {"data": form_of([{"n": 1}]), "headers": {"Idempotency-Key": "\udcff"}}
    assert (await client.refusal("POST", "/v1/batches", **request))[:2] == (400, "bad-value")
    assert client.directories == []


async def test_invalid_forms_are_refused_and_leave_no_files(client):
    """Another type, no boundary, repeated parts, a form within the form, bytes that are not UTF-8."""
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    twice = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\na\r\n'
    cases: list[tuple[dict[str, str], bytes, int]] = [
        ({"Content-Type": "application/json"}, b"{}", 415),
        ({"Content-Type": "multipart/form-data"}, b"x", 400),
        (headers, b"no part at all", 400),
        (headers, b"", 400),
        (headers, twice + twice + b"--b--\r\n", 400),
        (headers, b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\xfe\r\n--b--\r\n', 400),
        (headers, b"x" * 100_000, 400),
        (headers, b"--b\r\n" + b"X: y\r\n" * 1_000, 400),
        (headers, b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n", 400),
        (headers | {"Content-Encoding": "gzip"}, b"--b\r\n", 415),
    ]
    for given, body, status in cases:
        code, _, message = await client.refusal("POST", "/v1/batches", data=body, headers=given)
        assert code == status, (body, message)
        assert client.directories == [], body


@pytest.mark.parametrize("file_name", ["../../../escaped.jsonl", "/tmp/escaped.jsonl", "a\\b.jsonl", "ü 💥.jsonl"])
async def test_a_job_file_stays_in_its_batchs_directory_whatever_its_name(client, file_name):
    """Only the suffix of its name is used."""
    batch_id = await client.submit_batch([{"n": 1}], file_name=file_name)
    await client.until(batch_id, BatchState.FINISHED)
    assert (client.worker.directory.of(batch_id) / "jobs.jsonl").exists()
    assert list(client.worker.directory.path.parent.rglob("escaped*")) == []


async def test_an_interrupted_upload_leaves_no_files(client):
    """The connection ends in the middle of the job file."""
    url = URL(client.address)
    head = (
        f"POST /v1/batches HTTP/1.1\r\nHost: {url.host}\r\nAuthorization: Bearer {TOKEN}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 100000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="jobs"; filename="jobs.jsonl"\r\n\r\n{"n": 1}\n'
    )
    async with await anyio.connect_tcp(str(url.host), int(url.port or 0)) as connection:
        await connection.send(head.encode())
        await until(lambda: client.directories, "an upload that has begun")
    await until(lambda: client.directories == [], "an upload that is cleared away")
    assert len(client.worker.store) == 0


async def raw(address: str, head: str) -> SocketStream:
    """Open a connection and send the beginning of a request."""
    url = URL(address)
    # Set before it connects: what the kernel takes in ahead of a reader is small.
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((str(url.host), int(url.port or 0)))
    stream = await SocketStream.from_socket(connection)
    await stream.send(head.encode())
    return stream


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6, or is no Linux")
async def test_nobody_else_can_listen_where_a_browser_looks_for_the_page(client):
    """A browser tries both loopback addresses: who listens at the other one would get the link's ticket."""
    with socket.socket(socket.AF_INET6) as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            squatter.bind(("::1", URL(client.address).port))


async def test_a_request_that_does_not_arrive_is_given_up(client, monkeypatch):
    """408 and the end of the connection; what has come is deleted."""
    monkeypatch.setattr(batch_upload, "BODY_TIMEOUT_S", 0.1)
    monkeypatch.setattr(request_context, "BODY_TIMEOUT_S", 0.1)
    head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100000\r\n"
    part = '--b\r\nContent-Disposition: form-data; name="jobs"; filename="jobs.jsonl"\r\n\r\n{"n": 1}\n'
    form = f"POST /v1/batches {head}Content-Type: multipart/form-data; boundary=b\r\n\r\n{part}"
    for request in (form, f"PATCH /v1/limits {head}\r\n{{"):
        async with await raw(client.address, request) as connection:
            received = b""
            with anyio.fail_after(60):
                while b"request-timeout" not in received:
                    received += await connection.receive()
        assert received.startswith(b"HTTP/1.1 408 ")
    await until(lambda: client.directories == [], "an upload that is cleared away")


async def test_a_stranger_s_connections_are_few_and_do_not_last(tmp_path, api, monkeypatch, caplog):
    """Above a number the oldest is reset, and everyone else is served; without headers, one is closed."""
    monkeypatch.setattr(http_app, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(http_app, "KEEP_ALIVE_S", 2)
    async with opened(tmp_path / "data", api) as client:
        async with await raw(client.address, "no HTTP\r\n\r\n") as wrong:
            assert (await wrong.receive()).startswith(b"HTTP/1.0 400")
        assert caplog.records == [], "no traceback, with which a stranger could fill a log"
        async with (
            await raw(client.address, "GET") as oldest,
            await raw(client.address, "GET"),
            await raw(client.address, "GET") as idle,
        ):
            assert (await client.ask("GET", "/v1/worker"))[0] == 200
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await oldest.receive()
            with short_path(client.worker.directory.socket) as path:
                async with (
                    ClientSession(connector=UnixConnector(path)) as local,
                    local.get("http://worker/v1/worker") as answer,
                ):
                    assert answer.status == 200
            with anyio.fail_after(60), suppress(anyio.BrokenResourceError):
                while True:
                    await idle.send(b"X: y\r\n")
                    await anyio.sleep(0.02)


async def test_strangers_cut_off_nobody_who_has_shown_a_credential(tmp_path, api, monkeypatch):
    """A stream that is followed with the token goes on; of two idle connections, a stranger's goes first."""
    monkeypatch.setattr(http_app, "MAX_CONNECTIONS", 3)
    async with opened(tmp_path / "data", api) as client:
        batch = await client.submit_batch([{"n": 1, "ms": LONG_MS}], name="long")
        head = f"HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        async with await raw(client.address, f"GET /v1/events {head}") as page, AsyncExitStack() as strangers:
            for _ in range(6):
                await strangers.enter_async_context(await raw(client.address, "GET"))
                assert (await client.ask("GET", "/v1/worker"))[0] == 200
            await client.ask("POST", f"/v1/batches/{batch}/cancel")
            with anyio.fail_after(60):
                while b"cancelled" not in await page.receive():
                    pass


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the bound is the Linux kernel's")
async def test_a_stranger_who_reads_nothing_is_reset(client, monkeypatch):
    """A client that asks again and again and reads no answer; one with the token may read as slowly as it likes."""
    monkeypatch.setattr(connection_cap, "UNREAD_S", 0.2)
    url = URL(client.address)
    request = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n"
    known = f"{request}Authorization: Bearer {TOKEN}\r\n\r\n".encode() * 200
    async with await anyio.connect_tcp(str(url.host), int(url.port or 0)) as member:
        await member.send(known)
        async with await anyio.connect_tcp(str(url.host), int(url.port or 0)) as stranger:
            with anyio.fail_after(60), suppress(anyio.BrokenResourceError):
                while True:
                    await stranger.send(f"{request}\r\n".encode() * 20)
        read = 0
        with anyio.fail_after(60):
            while read < 1_000_000:
                read += len(await member.receive())


async def test_few_strangers_may_leave_their_answers_unread(client, monkeypatch):
    """Of too many, the one that has not read for longest is reset at once: answers take memory until they are read."""
    monkeypatch.setattr(connection_cap, "MAX_UNREAD", 1)
    url = URL(client.address)
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20

    async def ask(stranger: SocketStream) -> None:
        with suppress(anyio.BrokenResourceError):
            while True:
                await stranger.send(asked)

    async with (
        await anyio.connect_tcp(str(url.host), int(url.port or 0)) as first,
        await anyio.connect_tcp(str(url.host), int(url.port or 0)) as second,
        anyio.create_task_group() as children,
    ):
        with anyio.fail_after(60):
            children.start_soon(ask, second)
            await ask(first)
        children.cancel_scope.cancel()


async def test_an_upload_leaves_some_of_the_disk_free(client, monkeypatch):
    """507 with the next step, and nothing stays: ledgers and logs of live batches need the rest."""
    monkeypatch.setattr(free_space, "RESERVED_BYTES", 1 << 60)
    monkeypatch.setattr(free_space, "_RESERVED_SHARE", 1.0)
    refusal = await client.refusal("POST", "/v1/batches", data=form_of([{"n": 1}]))
    assert refusal == (507, "disk-full", "the worker's disk is almost full; free some space there")
    assert client.directories == []


async def test_an_idempotency_key_submits_one_batch(client):
    """Requests at once and later; another key submits another batch."""
    ids: list[tuple[int, str]] = []

    async def send(key: str) -> None:
        status, view = await client.submit(form_of([{"n": 1}]), **{"Idempotency-Key": key})
        ids.append((status, view["id"]))

    async with anyio.create_task_group() as children:
        for _ in range(6):
            children.start_soon(send, "first")
    await send("first")
    assert len({batch_id for _, batch_id in ids}) == 1
    assert sorted(status for status, _ in ids) == [200] * 6 + [201]
    other = {"data": form_of([{"n": 2}]), "headers": {"Idempotency-Key": "first"}}
    assert (await client.refusal("POST", "/v1/batches", **other))[:2] == (409, "idempotency-key-reused")
    await send("second")
    assert len(client.directories) == len(client.worker.store) == 2
    for key in ("", "k" * 201):
        request = {"data": form_of([{"n": 1}]), "headers": {"Idempotency-Key": key}}
        assert (await client.refusal("POST", "/v1/batches", **request))[0] == 400


async def test_an_idempotency_key_outlives_the_worker(tmp_path, api):
    """Noted with the batch before the answer: after a restart the same key shows the same batch, also of other rank."""
    seen = []
    for weight in ("1", "2"):
        async with opened(tmp_path / "data", api) as client:
            form = form_of([{"n": 1}], name="once", weight=weight)
            seen.append(await client.submit(form, **{"Idempotency-Key": "once"}))
    assert [status for status, _ in seen] == [201, 200]
    assert [(view["id"], view["weight"]) for _, view in seen] == [(seen[0][1]["id"], 1.0)] * 2


async def test_an_idempotency_key_submits_one_batch_to_a_fleet(tmp_path, api):
    """The second worker answers as the first one would, although it has not read of the batch, and keeps no upload."""
    (tmp_path / "store").mkdir()
    fleet = {"worker__fleet": f"file://{tmp_path / 'store'}"}
    async with opened(tmp_path / "a", api, **fleet) as first, opened(tmp_path / "b", api, **fleet) as second:
        sent = {key: await first.submit(form_of([{"n": 1}]), **{"Idempotency-Key": key}) for key in ("same", "other")}
        assert [status for status, _ in sent.values()] == [201, 201]
        status, view = await second.submit(form_of([{"n": 1}]), **{"Idempotency-Key": "same"})
        assert (status, view["id"]) == (200, sent["same"][1]["id"])
        other = {"data": form_of([{"n": 2}]), "headers": {"Idempotency-Key": "other"}}
        refusal = await second.refusal("POST", "/v1/batches", **other)
        assert (refusal[:2], sent["other"][1]["id"] in refusal[2]) == ((409, "idempotency-key-reused"), True)
        assert (len(first.directories), second.directories) == (2, [])


async def test_a_worker_that_has_not_read_the_fleets_list_says_so(tmp_path, api, monkeypatch):
    """It is not ready, and to be asked later: it knows neither all batches, nor who has those of its directory.

    A command that waits for a batch goes on waiting, and says so once.
    """
    monkeypatch.setattr(worker_client, "INTERVAL_S", 0.01)
    said, shown = list[str](), list[BatchView]()
    (tmp_path / "store").mkdir()
    fleet = {"worker__fleet": f"file://{tmp_path / 'store'}"}
    async with opened(tmp_path / "a", api, **fleet) as client:
        worker = client.worker
        assert worker.fleet is not None
        assert worker.mirrored is not None
        listed = await client.submit_batch([{"n": 1}], name="listed")
        own = Submission(id="20200101-ownownown2", name="own", created_at=datetime.now(UTC), state=BatchState.PAUSED)
        await worker.store.add(own)
        worker.fleet.was_read = anyio.Event()  # as after a restart
        worker.store._known.pop(listed)
        batches = [("GET", listed), ("POST", f"{listed}/cancel"), ("DELETE", listed)]
        batches += [("GET", "own/records"), ("POST", "own/cancel"), ("DELETE", "own")]
        asked = [("GET", f"/v1/events?batch={listed}"), *((method, f"/v1/batches/{rest}") for method, rest in batches)]
        for method, path in asked:
            answer = await client.refusal(method, path)
            assert answer[:2] == (503, "fleet-unreachable"), (method, path, answer)
            assert "has not read the fleet's list of batches yet; try again" in answer[2]
        _, status = await client.ask("GET", "/v1/worker")
        assert (status["is_ready"], status["why_not_ready"]) == (False, "reads the fleet's list of batches")
        async with (
            worker_client.open_client(WorkerAddress(client.address, TOKEN), print) as waiting,
            anyio.create_task_group() as children,
        ):
            children.start_soon(waiting.wait, listed, shown.append, said.append)
            await until(lambda: said, "words of the one that waits")
            await worker.fleet.read()
            worker.mirrored.mirror()
            await until(lambda: shown, "the batch shown")
            children.cancel_scope.cancel()
        unread = "not possible now: the worker has not read the fleet's list of batches yet; try again in a moment"
        assert said == [f"{unread}; this command waits"]
        assert (await client.ask("GET", f"/v1/batches/{listed}"))[0] == 200
        assert (await client.refusal("GET", "/v1/batches/none"))[:2] == (404, "batch-not-found")
        assert worker.is_ready


async def test_the_files_of_a_batch_that_no_worker_has_taken_are_to_be_asked_for_later(tmp_path, api):
    """As just after a restart: who follows it waits, as for the list, until this worker or another one has it."""
    (tmp_path / "store").mkdir()
    async with opened(tmp_path / "a", api, worker__fleet=f"file://{tmp_path / 'store'}") as client:
        batch = await client.submit_batch([{"n": 1}])
        assert client.worker.fleet is not None
        await client.worker.fleet.read()
        answer = await client.refusal("GET", f"/v1/batches/{batch}/records?follow=1")
        assert answer[:2] == (503, "fleet-unreachable"), answer
        assert f"no worker has taken batch {batch} yet; try again in a moment" in answer[2]


async def test_batches_are_listed_newest_first(client):
    """By state, in pages; invalid values are refused."""
    ids = [await client.submit_batch([{"n": n}], name=f"b{n}") for n in range(3)]
    for batch_id in ids:
        await client.until(batch_id, BatchState.FINISHED)
    _, page = await client.ask("GET", "/v1/batches")
    assert ([each["id"] for each in page["items"]], page["total"]) == (ids[::-1], 3)
    _, page = await client.ask("GET", "/v1/batches?limit=1&offset=1&state=finished,paused")
    assert ([each["id"] for each in page["items"]], page["total"]) == ([ids[1]], 3)
    _, page = await client.ask("GET", "/v1/batches?state=failed")
    assert (page["items"], page["total"]) == ([], 0)
    for query in ("limit=1001", "limit=-1", "offset=x", "state=nope", "limit=", "limit=" + "9" * 99):
        assert (await client.refusal("GET", f"/v1/batches?{query}"))[:2] == (400, "bad-value"), query


async def test_a_batch_is_paused_resumed_changed_cancelled_and_deleted(client):
    """409 if its state does not allow it; cancelling aborts live Runs."""
    batch_id = await client.submit_batch([{"n": n, "ms": LONG_MS} for n in range(5)], name="held")
    await client.ask("PATCH", "/v1/batches/held", json={"max_concurrent_runs": 2})
    await until(lambda: client.worker.live_runs >= 2, "live Runs")
    for body, word in (
        ({"max_concurrent_runs": 0}, "max_concurrent_runs"), ({"weight": "heavy"}, "weight"), ({"wieght": 1}, "wieght"),
        ([], "object"), ({"budget_usd": -1}, "budget_usd"), ({"priority": 10**6}, "priority"),
    ):  # fmt: skip
        status, _, message = await client.refusal("PATCH", "/v1/batches/held", json=body)
        assert (status, word in message) == (400, True), message
    assert (await client.refusal("PATCH", "/v1/batches/held", data=b"{"))[0] == 400
    assert (await client.refusal("DELETE", "/v1/batches/held"))[:2] == (409, "wrong-state")
    for _ in range(2):  # the second order changes nothing
        assert (await client.ask("POST", "/v1/batches/held/pause"))[1]["state"] == "pausing"
    for _ in range(2):
        assert (await client.ask("POST", "/v1/batches/held/cancel"))[0] == 200
    await client.until(batch_id, BatchState.CANCELLED)
    assert (await client.ask("POST", "/v1/batches/held/cancel"))[1]["state"] == "cancelled"
    assert (await client.refusal("POST", "/v1/batches/held/pause"))[:2] == (409, "wrong-state")
    assert await client.ask("DELETE", "/v1/batches/held") == (204, None)
    assert (await client.refusal("GET", "/v1/batches/held"))[:2] == (404, "batch-not-found")
    assert client.directories == []


async def test_unknown_things_are_reported_in_the_envelope(client):
    """Routes, methods, batches, and ends that several ids have."""
    assert (await client.refusal("GET", "/v2/nothing"))[:2] == (404, "page-not-found")
    async with client.session.put(f"{client.address}/v1/batches") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD,POST")
    for ref in ("nope", "%2e%2e%2fx", "%00", "a%2Fb"):
        assert (await client.refusal("GET", f"/v1/batches/{ref}"))[0] == 404, ref
    store = client.worker.store
    ids = [f"{day}-samesame22" for day in ("20200101", "20200102")]
    for batch_id in ids:
        await store.add(Submission(id=batch_id, name="same", created_at=datetime.now(UTC), state=BatchState.PAUSED))
    status, _, message = await client.refusal("GET", "/v1/batches/samesame22")
    assert (status, all(each in message for each in ids)) == (404, True)


async def test_a_name_is_of_one_batch_and_every_way_to_call_it_leads_there(client):
    """The second of a name gets a number, which is its name from then on."""
    ids = [await client.submit_batch([{"n": n}], name="same") for n in range(3)]
    for batch_id, name in zip(ids, ("same", "same-2", "same-3"), strict=True):
        for ref in (batch_id, name, batch_id[-10:], batch_id[-6:]):
            assert (await client.ask("GET", f"/v1/batches/{ref}"))[1]["id"] == batch_id, ref
    assert (await client.refusal("GET", f"/v1/batches/{ids[0][-5:]}"))[0] == 404
    await client.until(ids[1], BatchState.FINISHED)
    await batch_deletion.delete(client.worker, ids[1])
    assert (await client.ask("GET", f"/v1/batches/{await client.submit_batch([], name='same')}"))[1]["name"] == "same-2"


async def test_a_name_is_of_one_batch_however_many_are_submitted_at_once(client):
    ids = list[str]()

    async def submit() -> None:
        ids.append(await client.submit_batch([{"n": 1}], name="crowd"))

    async with anyio.create_task_group() as children:
        for _ in range(9):
            children.start_soon(submit)
    assert {client.worker.store[each].name for each in ids} == {"crowd", *(f"crowd-{n}" for n in range(2, 10))}


async def test_a_request_without_the_token_is_refused(client):
    """No header, a wrong one; a cookie or an address opens nothing, since other programs see them."""
    async with ClientSession() as session:

        async def status(path: str = "/v1/worker", **headers: str) -> int:
            async with session.get(client.address + path, headers=headers, allow_redirects=False) as answer:
                assert "Set-Cookie" not in answer.headers
                return answer.status

        assert await status() == 401
        assert await status(Authorization="Bearer wrong") == 401
        assert await status(Authorization="Bearer ") == 401
        assert await status(Authorization=f"Basic {TOKEN}") == 401
        assert await status(Authorization=f"Bearer {client.page.key}") == 200
        for secret in (TOKEN, client.page.key):
            assert await status(Cookie=f"batchrun_token={secret}") == 401
            assert await status(f"/v1/worker?token={secret}&key={secret}") == 401
        assert await status("/v1/page-key") == 401
        link = client.page.ticket()
        assert await status(Authorization=f"Bearer {link}") == 401
        assert await status("/health/live") == 200


@pytest.mark.parametrize("path", ["/", "/sw.js", "/v1/batches"])
async def test_what_a_program_before_has_left_in_a_browser_is_ended(client, path):
    """A browser asks for its new version at any path, without the token."""
    request = client.session.get(client.address + path, headers={"Service-Worker": "script", "Authorization": ""})
    async with request as answer:
        assert (answer.status, answer.content_type) == (200, "text/javascript")
        assert "sandbox" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["Service-Worker-Allowed"] == "/"
        assert "registration.unregister()" in await answer.text()


async def test_the_page_shows_nothing_by_itself(client):
    """Its frame and its script are the same for everyone, and hold no token and no key."""
    async with ClientSession() as session:
        for path in ("/", "/page/main.js", "/page/page.css"):
            async with session.get(client.address + path, headers={"Host": "elsewhere.example"}) as answer:
                text = await answer.text()
                assert (answer.status, TOKEN in text, client.page.key in text) == (200, False, False)


async def test_a_link_to_the_page_opens_it_once(client):
    """Browsers keep addresses in their history, where another program may read them later."""
    _, found = await client.ask("GET", "/v1/page-key")
    async with ClientSession() as session:

        async def open_page(ticket: str) -> tuple[int, Any]:
            headers = {"Authorization": f"Bearer {ticket}"}
            async with session.post(f"{client.address}/v1/page-session", headers=headers) as answer:
                return answer.status, await answer.json()

        assert await open_page(found["key"]) == (200, {"key": client.page.key})
        for wrong in (found["key"], client.page.key, "", "x"):
            status, body = await open_page(wrong)
            assert (status, body["error"]["type"]) == (401, "link-not-valid")
        first = client.page.ticket()
        for _ in range(MAX_TICKETS):
            client.page.ticket()
        assert (await open_page(first))[0] == 401, "what nobody opens is not kept for ever"


async def test_a_signed_link_opens_the_output_of_one_batch_for_a_while(client):
    """The page makes links of it, since a link sends no header; nothing else takes it."""
    first, other = [await client.submit_batch([{"n": 1}], name=name) for name in ("first", "other")]
    await client.until(first, BatchState.FINISHED)
    access = (await client.ask("GET", f"/v1/batches/{first}/access"))[1]["access"]
    async with ClientSession() as session:

        async def status(path: str, query: str, method: str = "GET") -> int:
            async with session.request(method, f"{client.address}{path}?{query}") as answer:
                return answer.status

        for output in ("records", "items", "log", "report"):
            assert await status(f"/v1/batches/{first}/{output}", access) == 200
            assert await status(f"/v1/batches/{other}/{output}", access) == 401
        assert await status(f"/v1/batches/{first}", access) == 401
        assert await status(f"/v1/batches/{first}/access", access) == 401
        assert await status(f"/v1/batches/{first}/pause", access, "POST") == 401
        assert await status("/v1/batches/first/records", access) == 401, "it is of an id"
        assert await status(f"/v1/batches/{first}/records", access.replace("until=", "until=1")) == 401
        expired = f"until=0&signature={client.page._signature(first, '0')}"
        assert await status(f"/v1/batches/{first}/records", expired) == 401
        assert await status(f"/v1/batches/{first}/records", f"until=0&signature={'é' * 64}") == 401


async def test_the_holder_of_a_link_takes_few_connections(client, monkeypatch):
    """Of too many downloads by links, the oldest of the batch with most is reset; and a link does not follow."""
    monkeypatch.setattr(token_check, "_MAX_LINKED", 2)
    paths = []
    for name in ("kept", "long"):
        batch_id = await client.submit_batch([{"n": 1}], name=name)
        await client.until(batch_id, BatchState.FINISHED)
        log = anyio.Path(client.worker.directory.of(batch_id) / "out" / BATCH_LOG)
        await log.write_bytes(b"{}\n" * 3_000_000)
        access = (await client.ask("GET", f"/v1/batches/{batch_id}/access"))[1]["access"]
        paths.append(f"/v1/batches/{batch_id}/log?{access}")
    kept_path, path = paths
    async with (
        await raw(client.address, f"GET {kept_path} HTTP/1.1\r\nHost: x\r\n\r\n") as kept,
        await raw(client.address, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n") as unread,
        ClientSession() as session,
    ):
        kept_bytes, received = len(await kept.receive()), len(await unread.receive())
        async with session.get(f"{client.address}{path}") as answer:
            assert len(await answer.read()) == 9_000_000
        with anyio.fail_after(60), suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            while received < 9_000_000:
                received += len(await unread.receive())
        assert received < 9_000_000
        with anyio.fail_after(60):
            while kept_bytes < 9_000_000:
                kept_bytes += len(await kept.receive())
        async with session.get(f"{client.address}{path}&follow=1") as answer:
            assert answer.status == 401


async def test_reports_by_links_leave_the_workers_threads_to_others(client, monkeypatch):
    """One of a batch is made at once, and some wait; the others are refused.

    Who has the token, or a link of another batch, gets a report meanwhile.
    """
    monkeypatch.setattr(token_check, "_MAX_LINKED", 100)
    linked, other = [await client.submit_batch([{"n": 1}], name=name) for name in ("linked", "other")]
    for batch_id in (linked, other):
        await client.until(batch_id, BatchState.FINISHED)
    access, other_access = [
        (await client.ask("GET", f"/v1/batches/{each}/access"))[1]["access"] for each in (linked, other)
    ]
    may_end, make = threading.Event(), output_routes._report
    statuses: list[int] = []

    def held(worker: Worker, submission: Submission) -> str:
        if submission.id == linked:
            may_end.wait(60)
        return make(worker, submission)

    async def ask(session: ClientSession) -> None:
        async with session.get(f"{client.address}/v1/batches/{linked}/report?{access}") as answer:
            statuses.append(answer.status)

    monkeypatch.setattr(output_routes, "_report", held)
    async with ClientSession() as session, anyio.create_task_group() as children:
        for _ in range(60):
            children.start_soon(ask, session)
        await until(lambda: len(statuses) == 60 - 1 - output_routes._MAX_WAITING, "the others are refused")
        async with session.get(f"{client.address}/v1/batches/{other}/report?{other_access}") as answer:
            assert answer.status == 200
        async with client.session.get(f"{client.address}/v1/batches/{other}/report") as answer:
            assert answer.status == 200
        may_end.set()
    assert sorted(statuses) == [200] * (1 + output_routes._MAX_WAITING) + [503] * (59 - output_routes._MAX_WAITING)


@pytest.mark.parametrize("output", ["records", "items", "log", "report", "failures", "config", ""])
async def test_what_strangers_wrote_does_not_run_in_a_browser(client, output):
    """In a sandbox, which is without the page's key; and it is taken for nothing but what it is said to be."""
    batch_id = await client.submit_batch([{"n": 1}], name="<script>")
    await client.until(batch_id, BatchState.FINISHED)
    async with client.session.get(f"{client.address}/v1/batches/{batch_id}/{output}".rstrip("/")) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Security-Policy"] == STRANGER_POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/openapi.json"])
async def test_what_needs_no_token_is_not_for_web_pages_that_rebind_their_name(client, path):
    """A worker for this machine answers to its loopback names; to any name with the token, or if others may ask it."""
    seen = []
    for host in ("127.0.0.1:1", "localhost", "[::1]:8421", "evil.example:8421", "127.0.0.1.evil.example", "[", ""):
        async with ClientSession() as session, session.get(client.address + path, headers={"Host": host}) as answer:
            seen.append((answer.status, b"host-not-allowed" in await answer.read()))
    assert seen == [(200, False)] * 3 + [(403, True)] * 4
    async with client.session.get(client.address + path, headers={"Host": "evil.example"}) as answer:
        assert answer.status == 200
    worker = client.worker.config.worker
    client.worker.config = client.worker.config.model_copy(
        update={"worker": worker.model_copy(update={"host": "0.0.0.0"})}
    )
    async with ClientSession() as session, session.get(client.address + path, headers={"Host": "worker.lan"}) as answer:
        assert answer.status == 200


async def test_many_who_ask_whether_it_is_ready_share_a_look(client, monkeypatch):
    """They need no token, and a look takes a tenth of a second of the event loop where there are 20,000 batches."""
    looks: list[bool] = []

    class Watched(Worker):
        @property
        def is_ready(self) -> bool:
            looks.append(super().is_ready)
            return looks[-1]

    client.worker.__class__ = Watched
    monkeypatch.setattr(worker_routes, "FRESH_S", 3600)
    assert [(await client.ask("GET", "/health/ready"))[0] for _ in range(5)] == [200] * 5
    assert looks == [True]


async def test_limits_of_all_batches_are_changed_while_the_worker_runs(client):
    """An invalid one changes nothing."""
    _, before = await client.ask("GET", "/v1/limits")
    for body in ({"max_concurrent_runs": -1}, {"nope": 1}, {"budget_usd": "much"}, {"request_rate": None}):
        assert (await client.refusal("PATCH", "/v1/limits", json=body))[:2] == (400, "bad-value"), body
    assert (await client.ask("GET", "/v1/limits"))[1] == before
    assert (await client.ask("PATCH", "/v1/limits", json={"max_concurrent_runs": 3}))[1]["max_concurrent_runs"] == 3
    assert (await client.ask("GET", "/v1/worker"))[1]["slots"]["limit"] == 3


async def test_a_slow_reader_blocks_no_other_client(client):
    """Batches continue, and other requests are answered."""
    first = await client.submit_batch([{"n": n, "output_bytes": 2000, "items": 300} for n in range(40)], name="large")
    url = URL(client.address)
    async with await anyio.connect_tcp(str(url.host), int(url.port or 0)) as stalled:
        request = f"GET /v1/batches/large/items?follow=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        await stalled.send(request.encode())
        await client.until(first, BatchState.FINISHED)
        await client.until(await client.submit_batch([{"n": 1}], name="small"), BatchState.FINISHED)


async def test_a_draining_worker_refuses_batches(client):
    """503, also from the readiness check."""
    client.worker.drain()
    assert (await client.refusal("POST", "/v1/batches", data=form_of([{"n": 1}])))[:2] == (503, "not-possible-now")
    assert (await client.ask("GET", "/health/ready"))[0] == 503
    assert client.directories == []


#: Routes that are not part of the API: the page, its script, this document, and the metrics.
NO_OPERATIONS = {"/", "/page/{name}", "/openapi.json", "/metrics"}


async def test_the_openapi_document_has_every_route_and_answers_match_its_schemas(client):
    """It needs no token; an answer of each kind matches its schema."""
    async with ClientSession() as session, session.get(f"{client.address}/openapi.json") as answer:
        document = await answer.json()
    served = {
        (route.method, route.path)
        for module in _ROUTE_MODULES
        for route in module.ROUTES
        if route.path not in NO_OPERATIONS
    }
    named = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    assert named == served
    batch_id = await client.submit_batch([{"n": 1, "fails": True}], name="told", settings='{"retry.max_attempts": 1}')
    await client.until(batch_id, BatchState.FINISHED)
    answers = {
        "/v1/worker": "WorkerView",
        "/v1/limits": "WorkerLimitsConfig",
        "/v1/batches": "BatchPage",
        "/v1/batches/told": "BatchView",
        "/v1/batches/nope": "Error",
    }
    for path, name in answers.items():
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema_rs.Draft202012Validator(schema).validate((await client.ask("GET", path))[1])


async def test_a_listener_that_disconnects_is_no_error(client, monkeypatch, caplog):
    """A page that is closed while it is being written to ends its stream; no bug is logged."""
    monkeypatch.setattr(live_event_routes, "INTERVAL_S", 0.01)
    monkeypatch.setattr(live_event_routes, "_SILENCE", 1)
    listening = 0
    news = live_event_routes._news

    def told(*arguments: Any) -> list[str]:
        nonlocal listening
        listening += 1
        return news(*arguments)

    monkeypatch.setattr(live_event_routes, "_news", told)
    async with client.session.get(client.address + "/v1/events") as answer:
        assert await answer.content.readline()
        assert answer.connection is not None
        assert answer.connection.transport is not None
        answer.connection.transport.abort()
    await _until_still(lambda: listening)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def _until_still(count: Callable[[], int]) -> None:
    """Wait until a counter that grows a hundred times a second stops."""
    before = -1
    while before != (before := count()):  # noqa: ASYNC110 - what does not happen any more sets no event
        await anyio.sleep(0.5)


async def test_a_ledger_that_is_being_made_holds_nothing_yet(client):
    """Who follows a batch from its first moment waits for its records; there is a file then, without tables."""
    batch_id = await client.submit_batch([{"n": 1}])
    await client.until(batch_id, BatchState.FINISHED)
    out_dir = client.worker.directory.out_dir(client.worker.store[batch_id])
    for file in out_dir.glob("ledger.sqlite3*"):
        file.unlink()
    (out_dir / "ledger.sqlite3").touch()
    async with client.session.get(f"{client.address}/v1/batches/{batch_id}/records?follow=1") as answer:
        assert (answer.status, await answer.read()) == (200, b"")
    status, failures = await client.ask("GET", f"/v1/batches/{batch_id}/failures")
    assert (status, failures["failures"]) == (200, [])
    assert (await client.ask("GET", f"/v1/batches/{batch_id}/cost"))[1]["rows"] == []
    assert (await client.refusal("GET", f"/v1/batches/{batch_id}/report"))[0] == 409
