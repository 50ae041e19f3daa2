"""Commands on a batch that has a shared log, run by a process on another machine or by none."""

import base64
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import boto3  # type: ignore[import-untyped] # of moto, which serves the buckets
import nats
import orjson
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from batchrun.errors import LogUnreachable
from batchrun.ledger.shared_log import nats_store
from batchrun.ledger.shared_log.claim import claimed_log
from batchrun.ledger.shared_log.directory_store import DirectoryStore
from batchrun.ledger.shared_log.entries import EntryKind, decode_head
from batchrun.ledger.shared_log.log_store import LogStore, open_store
from batchrun.ledger.shared_log.object_names import entry_name
from batchrun.ledger.sqlite.group_commit import open_commit
from batchrun.ledger.sqlite.journal import open_journal
from tests.support import log_stores
from tests.support.api_process import TOKEN
from tests.support.busy_threads import all_threads_waiting
from tests.support.command_line import Said, batchrun
from tests.support.crash import PROCESS_LIMIT_S, Api, CrashBatch, open_api, some_jobs, wait_until
from tests.support.worker_life import until


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server process for all tests here."""
    with open_api(tmp_path_factory.mktemp("api")) as opened:
        yield opened


def machine(tmp_path: Path, api: Api, name: str, jobs: int, ms: int = 0, *, is_held: bool = False) -> CrashBatch:
    """Return a machine whose batch has its log in a directory that all machines see; held Runs go on until aborted."""
    (tmp_path / "log").mkdir(exist_ok=True)
    settings = {"replica.url": log_of(tmp_path), "replica.lease_s": 1.0}
    lines = [{"n": n, "ms": ms, "items": 1} for n in range(jobs)] if ms else some_jobs(jobs)
    if is_held:
        lines = [{"n": n, "until": str(tmp_path / "never")} for n in range(jobs)]
    return CrashBatch(tmp_path / name, api.base_url, lines, settings)


def log_of(tmp_path: Path) -> str:
    """Return the URL of the log."""
    return f"file://{tmp_path}/log"


def said_of(batch: CrashBatch, *arguments: str) -> Said:
    """Run a command beside a machine's output directory."""
    return batchrun(*arguments, cwd=batch.directory, environ={"APIFY_TOKEN": TOKEN})


def test_a_log_is_read_by_its_url(tmp_path, api):
    """`pull` writes the directory; status, failures, cost and report show what they show of the directory."""
    owner = machine(tmp_path, api, "owner", 30)
    assert owner.run() == 1, owner.said()
    url = log_of(tmp_path)
    pulled = said_of(owner, "pull", url, "copy")
    assert (pulled.code, pulled.out) == (0, "")
    assert "no process carries it out" in pulled.err
    for name in ("records.jsonl", "items.jsonl"):
        assert (owner.directory / "copy" / name).read_bytes() == (owner.out / name).read_bytes()
    again = said_of(owner, "pull", url, "copy")
    assert "new log entries: 0" in again.err
    of_log, of_directory = said_of(owner, "cost", url), said_of(owner, "cost", "copy")
    assert (of_log.code, of_log.out) == (of_directory.code, of_directory.out)
    assert of_log.out
    assert "told to fail" in said_of(owner, "failures", url).out
    status = orjson.loads(said_of(owner, "status", url, "--json").out)
    assert sum(status["summary"]["outcomes"].values()) == 30
    no_place = said_of(owner, "report", url)
    assert (no_place.code, "--out" in no_place.err) == (2, True)
    assert said_of(owner, "report", url, "--out", "shop.html").code == 0
    assert (owner.directory / "shop.html").stat().st_size > 10_000


def test_a_log_that_is_not_there_is_no_batch(tmp_path, api):
    """Nothing absent is taken for empty."""
    said = said_of(machine(tmp_path, api, "owner", 1), "status", log_of(tmp_path))
    assert (said.code, "there is no log" in said.err) == (2, True)


def test_a_directory_is_not_worked_on_while_another_machine_has_its_batch(tmp_path, api):
    """What it shows may be old: an abort would end Runs that the owner follows."""
    first, second = (machine(tmp_path, api, name, 20, is_held=True) for name in ("first", "second"))
    process = first.spawn()
    wait_until(lambda: "Account local" in first.said())
    process.kill()
    process.wait(PROCESS_LIMIT_S)
    owner = second.spawn()
    wait_until(lambda: "Account local" in second.said())
    for verb in ("abort", "resolve"):
        said = said_of(first, verb, "out")
        assert (said.code, f"(process {owner.pid}) carries the batch out" in said.err) == (6, True), (verb, said)
    owner.send_signal(signal.SIGHUP)
    assert owner.wait(PROCESS_LIMIT_S) == 130, second.said()
    aborted = said_of(first, "abort", "out")
    assert aborted.code == 0, aborted
    repaired = said_of(first, "repair", "out")
    assert (repaired.code, "batchrun pull file://" in repaired.err) == (6, True)
    toml = first.directory / "batch.toml"
    alone = said_of(first, "run", str(toml))
    assert (alone.code, "this batch has a shared log" in alone.err) == (6, True)


def test_a_machine_without_the_job_file_reads_the_one_in_the_log(tmp_path, api):
    """It carries the batch to its end, with lines that were appended while the first machine ran it."""
    first = machine(tmp_path, api, "first", 40, ms=100)
    jobs = first.directory / "jobs.jsonl"
    begun = jobs.read_bytes()
    process = first.spawn(kill_at="bound:12")
    process.wait(PROCESS_LIMIT_S)
    with jobs.open("ab") as opened:
        opened.write(b'{"n": 100, "ms": 1, "items": 1}\n')
    process = first.spawn(kill_at="bound:12")
    process.wait(PROCESS_LIMIT_S)
    second = machine(tmp_path, api, "second", 0)
    (second.directory / "jobs.jsonl").unlink()
    assert second.run() == 0, second.said()
    assert len(second.records()) == 41
    assert (second.out / "job-file").read_bytes() == begun + b'{"n": 100, "ms": 1, "items": 1}\n'


def test_a_last_line_without_line_end_is_carried_along(tmp_path, api):
    """It is a job of a file that nobody writes; the machine with the file dies long before it reads the line."""
    first = machine(tmp_path, api, "first", 60, ms=50)
    jobs = first.directory / "jobs.jsonl"
    jobs.write_bytes(jobs.read_bytes().rstrip(b"\n"))
    assert first.run(kill_at="admitted:1") == -signal.SIGKILL
    second = machine(tmp_path, api, "second", 0)
    (second.directory / "jobs.jsonl").unlink()
    assert second.run() == 0, second.said()
    assert len(second.records()) == 60
    assert (second.out / "job-file").read_bytes() == jobs.read_bytes()


def test_a_job_file_that_is_another_one_is_refused(tmp_path, api):
    """Before the machine stands by, or claims; the batch goes on where the file is."""
    first = machine(tmp_path, api, "first", 20)
    assert first.run() == 1, first.said()
    second = machine(tmp_path, api, "second", 20)
    jobs = second.directory / "jobs.jsonl"
    same = jobs.read_bytes()
    end = same.rindex(b"{")
    for other, differs_at in ((same[:end] + b'{"n":77}\n', end + 5), (same[:end], end)):
        jobs.write_bytes(other)
        assert second.run() == 2
        assert f"they differ from byte {differs_at:,} on" in second.said()
    jobs.write_bytes(same + b'{"n": 100, "items": 1}\n')
    assert second.run() == 1, second.said()
    assert len(second.records()) == 21


def test_a_machine_does_not_go_on_with_a_part_of_the_job_file(tmp_path, api):
    """The one that has the file goes on where its copy ended."""
    first = machine(tmp_path, api, "first", 20)
    first.constants = {"batchrun.ledger.sqlite.journal.PIECE_BYTES": 100}
    assert first.run(kill_at="shared:3") == -signal.SIGKILL
    second = machine(tmp_path, api, "second", 0)
    (second.directory / "jobs.jsonl").unlink()
    assert second.run() == 2
    assert "has a part of it only" in second.said()
    assert first.run() == 1, first.said()
    assert (first.out / "job-file").read_bytes() == (first.directory / "jobs.jsonl").read_bytes()


def test_a_batch_that_was_begun_without_a_log_gets_one(tmp_path, api):
    """[replica] is added to its batch file; then another machine can carry it to its end."""
    first = machine(tmp_path, api, "first", 40, ms=100)
    logged = first.flags
    first.flags = [
        flag
        for setting in zip(logged[::2], logged[1::2], strict=True)
        for flag in setting
        if "replica." not in setting[1]
    ]
    assert first.run(kill_at="settled:12") == -signal.SIGKILL
    first.flags = logged
    assert first.run(kill_at="settled:4") == -signal.SIGKILL, first.said()
    second = machine(tmp_path, api, "second", 0)
    (second.directory / "jobs.jsonl").unlink()
    assert second.run() == 0, second.said()
    assert (len(second.records()), len(second.items())) == (40, 40)
    assert len({record["key"] for record in second.records()}) == 40


def test_objects_of_nats_that_are_damaged_or_giant_are_given_up(tmp_path, monkeypatch):
    """Whoever can write to the store chooses how an object is described. No read leaves anything at the server."""
    monkeypatch.setattr(nats_store, "MAX_READ_OBJECT_BYTES", 300_000)
    with log_stores.nats(tmp_path / "logs") as store, open_store(store.log("hostile")) as log:
        for name in ("whole", "gone", "lies"):
            log.put_object(name, b"x" * 300_000)
        log.put_object("giant", b"x" * 300_001)
        assert [len(log.get_object(name) or b"") for name in ("whole", "giant")] == [300_000, 0]
        anyio.run(_tamper, store.log("hostile"))
        with pytest.raises(LogUnreachable, match="the end of gone is missing"):
            log.get_object("gone")
        assert [log.get_object(name) for name in ("odd", "lies", "loop", "deep")] == [b"", b"", b"", b""]
        assert log.read(0) == b"{"
        assert len(log.get_object("whole") or b"") == 300_000
        assert anyio.run(_consumers, store.log("hostile")) == 0


def test_an_object_of_nats_that_is_stored_again_stays(tmp_path):
    """A new owner does not know which parts of its snapshot there are, and a standby may be reading one of them."""
    with log_stores.nats(tmp_path / "logs") as store, open_store(store.log("again")) as log:
        chunks = []
        for content in (b"x", b"x", b"y"):
            log.put_object("part", content)
            assert log.get_object("part") == content
            chunks.append(anyio.run(_place_of_chunks, store.log("again"), "part"))
        assert (chunks[0] == chunks[1], chunks[1] == chunks[2]) == (True, False)


@pytest.mark.parametrize("said", [b"INFO\r\n", b"INFO {}\r\nPONG\r\n-ERR 'go away'\r\n"])
def test_a_nats_server_is_found_again_whoever_had_its_port_meanwhile(tmp_path, monkeypatch, said):
    """Any program may take it while the server restarts; one of its lines ended the client for good."""
    monkeypatch.setattr(nats_store, "_CONNECT_S", 1.0)
    came = threading.Event()

    def answer(listener: socket.socket) -> None:
        with suppress(OSError):  # until it is closed
            while True:
                connection, _ = listener.accept()
                with connection, suppress(OSError):
                    connection.sendall(said)
                    came.set()
                    connection.recv(1 << 16)

    with log_stores.nats(tmp_path / "logs") as store, open_store(store.log("found")) as log:
        assert log.append(0, b"{}")
        genuine = store.servers["server-0"]
        genuine.kill()
        genuine.wait()
        with socket.create_server(("127.0.0.1", store.port)) as listener:
            taker = threading.Thread(target=answer, args=[listener])
            taker.start()
            while not came.is_set():
                with pytest.raises(LogUnreachable):
                    log.read(0)
            listener.shutdown(socket.SHUT_RDWR)
            taker.join()
        with subprocess.Popen(genuine.args, stderr=subprocess.DEVNULL) as again:
            wait_until(lambda: _is_there(log))
            assert log.append(1, b"{}")
            again.kill()


def _is_there(log: LogStore) -> bool:
    try:
        return log.read(0) == b"{}"
    except LogUnreachable:
        return False


async def _place_of_chunks(url: str, name: str) -> str | None:
    servers, stream, _, _ = nats_store.parts_of(url)
    client = await nats.connect(servers)
    try:
        objects = await client.jetstream().object_store(nats_store.objects_of(stream))
        return (await objects.get_info(name)).nuid
    finally:
        await client.close()


async def _consumers(url: str) -> int:
    """Return how many subscriptions the server has for the objects of a log."""
    servers, stream, _, _ = nats_store.parts_of(url)
    client = await nats.connect(servers)
    try:
        found = await client.jetstream().stream_info(f"OBJ_{nats_store.objects_of(stream)}")
    finally:
        await client.close()
    return found.state.consumer_count or 0


async def _tamper(url: str) -> None:
    """Remove the content of an object, and describe others as no client does."""
    servers, stream, _, _ = nats_store.parts_of(url)
    objects = nats_store.objects_of(stream)
    client = await nats.connect(servers)
    try:
        js = client.jetstream()
        gone = await (await js.object_store(objects)).get_info("gone")
        giant = await (await js.object_store(objects)).get_info("giant")
        await js.purge_stream(f"OBJ_{objects}", subject=f"$O.{objects}.C.{gone.nuid}")
        known = {"bucket": objects, "nuid": giant.nuid, "size": 1, "digest": giant.digest}
        link = {"options": {"link": {"bucket": objects, "name": "loop"}}}
        for name, described in (("odd", b"{"), ("lies", known), ("loop", known | link)):
            content = described if isinstance(described, bytes) else orjson.dumps({"name": name, **described})
            await js.publish(f"$O.{objects}.M.{base64.urlsafe_b64encode(name.encode()).decode()}", content)
    finally:
        await client.close()
    for subject in (f"$O.{objects}.M.{base64.urlsafe_b64encode(b'deep').decode()}", nats_store.subject_of(stream)):
        await _publish_deep(servers[0], subject)


async def _publish_deep(server: str, subject: str) -> None:
    """Publish a message whose headers are e-mails within e-mails, too many for Python's parser."""
    headers = b"NATS/1.0\r\n" + b"Content-Type: message/rfc822\r\n\r\n" * 1900
    head = f'CONNECT {{"verbose":false,"headers":true}}\r\nHPUB {subject} {len(headers)} {len(headers) + 1}\r\n'
    port = int(server.rpartition(":")[2])
    async with await anyio.connect_tcp("127.0.0.1", port) as connection:
        await connection.send(head.encode() + headers + b"{\r\nPING\r\n")
        answer = b""
        while b"PONG" not in answer:
            answer += await connection.receive()


@pytest.mark.parametrize("answer", [b"", b"{}", b"5", b'{"error":5}', b'{"message":5}', b'{"message":{"seq":"x"}}'])
async def test_an_answer_that_is_not_the_nats_servers_is_no_answer(answer):
    """Any user of its account can answer in its place."""

    class Forged(Client):
        async def request(self, *_: Any, **__: Any) -> Msg:
            return Msg(self, data=answer)

    with pytest.raises(LogUnreachable, match="NATS stream shop: the server's answer cannot be read"):
        await nats_store._stored(Forged(), "shop", seq=1)
    with pytest.raises(LogUnreachable, match="NATS stream shop: no attribute"), nats_store._explaining("shop"):
        raise AttributeError("no attribute")


def test_an_entry_that_can_never_be_read_is_damaged(tmp_path, monkeypatch):
    """It would hold up all workers of a fleet for good, as a store that does not answer does."""
    with log_stores.s3(tmp_path / "s3") as store:
        for name, value in store.environ.items():
            monkeypatch.setenv(name, value)
        bucket = boto3.client("s3", endpoint_url=store.environ["AWS_ENDPOINT"])
        odd = ({"ContentType": "\xff"}, {"CacheControl": "a\x01b"}, {"StorageClass": "GLACIER"})
        with open_store(store.log("odd")) as log:
            for number, headers in enumerate(odd):
                bucket.put_object(Bucket="batches", Key=f"odd/{entry_name(number)}", Body=b"x", **headers)
            assert list(log.read_from(0)) == [b""] * len(odd)
    (tmp_path / "odd" / entry_name(0)).mkdir(parents=True)
    with open_store(f"file://{tmp_path}/odd") as log:
        assert log.read(0) == b""


async def test_a_batch_commits_and_lives_while_all_threads_wait(tmp_path):
    """As many other batches as there are threads may wait for their stores; this one's log is heard of all the same."""
    (tmp_path / "log").mkdir()
    (tmp_path / "out").mkdir()
    claims = claimed_log(log_of(tmp_path), 0.1, tmp_path / "out", may_wait=False)
    async with (
        claims as log,
        open_journal(tmp_path / "out", log) as journal,
        open_commit(journal) as commit,
        all_threads_waiting(),
    ):
        with anyio.fail_after(60):
            await commit.bound_runs()
        before = log.last.entry
        await until(lambda: log.last.entry >= before + 2, "the log has heartbeats", limit_s=30)


async def test_a_claim_that_is_cancelled_as_it_is_made_is_released(tmp_path, monkeypatch):
    """A batch that a worker lets go of at that moment need not wait for its lease to end."""
    append = DirectoryStore.append

    def append_and_cancel(store: DirectoryStore, number: int, entry: bytes) -> bool:
        is_appended = append(store, number, entry)
        anyio.from_thread.run_sync(scope.cancel)
        return is_appended

    monkeypatch.setattr(DirectoryStore, "append", append_and_cancel)
    (tmp_path / "log").mkdir()
    (tmp_path / "out").mkdir()
    with anyio.CancelScope() as scope:
        async with claimed_log(log_of(tmp_path), 600, tmp_path / "out", may_wait=False):
            await anyio.sleep_forever()
    kinds = await anyio.to_thread.run_sync(_kinds_of_entries, log_of(tmp_path))
    assert kinds == [EntryKind.CLAIM, EntryKind.RELEASE]


def _kinds_of_entries(url: str) -> list[EntryKind]:
    with open_store(url) as store:
        return [decode_head(entry).kind for entry in store.read_from(0)]
