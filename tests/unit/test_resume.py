import gzip
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import orjson
import pytest
from blockbuster import BlockBuster

from batchrun.batch import job_source
from batchrun.batch.job_source import FileSource
from batchrun.batch.resumed_jobs import Backlog, reopen, take_up
from batchrun.config import load_config
from batchrun.config.job_format_builder import job_format
from batchrun.engine.notices import UnendedLine
from batchrun.engine.ports import Chunk
from batchrun.errors import JobFileError
from batchrun.jobs import JobFile, JobFormat, text_source
from batchrun.ledger.facts import DUPLICATES, IDENTITY
from batchrun.ledger.protocol import ReadTo, Settlement
from batchrun.ledger.sqlite.journal import Journal, _open_journal
from batchrun.ledger.sqlite.tables import LedgerTables
from batchrun.model import BadLine, Intent, Job, JobId, JsonObject, Mark, Outcome, Selection
from batchrun.output.layout import LEDGER
from batchrun.preflight.job_file_head import settle_dialect
from tests.support.memory_ledger import ListSource, make_bad_line, make_job, read_to

WAIT_S = 60.0
LINES = [b'{"@key": "k%d", "n": %d}\n' % (n, n) for n in range(10)]


@dataclass
class Opened:
    """A batch of ten failed jobs, reopened."""

    file: Path
    journal: Journal
    job_file: JobFile

    @property
    def ledger(self) -> LedgerTables:
        """The batch's ledger."""
        return self.journal.ledger

    def backlog(self, lines: Sequence[Job | BadLine] = ()) -> Backlog:
        """Return the source of the open jobs, followed by these lines or mixed with them."""
        return Backlog(self.ledger, self.job_file, ListSource(lines, chunk=4))


async def _run_inline(function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
    return function(*arguments)


@pytest.fixture
def opened(blockbuster: BlockBuster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Opened]:
    """A batch over a job file with positions; files and SQLite are used inline, without syncs."""
    blockbuster.deactivate()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(anyio.to_thread, "run_sync", _run_inline)
    (tmp_path / "jobs.jsonl").write_bytes(b"".join(LINES))
    yield from _opened(tmp_path / "jobs.jsonl")


@pytest.fixture
def from_the_top(blockbuster: BlockBuster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Opened]:
    """A batch over a compressed job file."""
    blockbuster.deactivate()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(anyio.to_thread, "run_sync", _run_inline)
    (tmp_path / "jobs.jsonl.gz").write_bytes(gzip.compress(b"".join(LINES)))
    yield from _opened(tmp_path / "jobs.jsonl.gz")


def _opened(file: Path) -> Iterator[Opened]:
    with ExitStack() as stack:
        journal = _open_journal(stack, file.parent)
        job_file = stack.enter_context(JobFile(JobFormat(path=file)))
        with journal.ledger.transaction():
            jobs = [job for job in job_file.read() if isinstance(job, Job)]
            journal.admit(jobs, ReadTo(offset=file.stat().st_size, line=10, fingerprint=b"f"))
            for number in range(1, 11):
                journal.ledger.settle(JobId(number), None, Settlement(outcome=Outcome.FAILED))
        yield Opened(file, journal, job_file)


@contextmanager
def opened_source(
    directory: Path, file: Path, settings: Mapping[str, Any] = MappingProxyType({})
) -> Iterator[tuple[Journal, FileSource]]:
    """The journal and the source of a process that opens a batch again."""
    config = load_config(flags={"task.id": "t", "jobs.file": str(file), **settings}, environ={})
    with ExitStack() as stack:
        journal = _open_journal(stack, directory)
        source = job_source._open(config, {}, journal.ledger, None)
        stack.callback(source.job_file.close)
        yield journal, source


async def drained(backlog: Backlog, size: int = 4) -> list[Chunk]:
    """Return all chunks, as the engine asks for them."""
    chunks = []
    while (chunk := await backlog.next_chunk(size)) is not None:
        chunks.append(chunk)
    return chunks


async def test_reopened_jobs_come_in_chunks_from_their_lines(opened: Opened) -> None:
    """Each reopened job comes once, in its new round; no chunk has lines to admit."""
    assert reopen(opened.ledger, opened.job_file, WAIT_S, Selection()) == []
    chunks = await drained(opened.backlog())
    assert [(len(chunk.resumed), chunk.entries, chunk.read_to) for chunk in chunks] == [
        (4, (), None), (4, (), None), (2, (), None),
    ]  # fmt: skip
    jobs = [(job.key, job.body, noted.key, noted.round) for chunk in chunks for job, noted in chunk.resumed]
    assert jobs == [(f"k{n}", b'{"n":%d}' % n, f"k{n}", 2) for n in range(10)]


async def test_begun_jobs_are_taken_up_and_the_others_come_as_a_backlog(opened: Opened) -> None:
    """A job is begun by an attempt, or a wait for one, in its current round."""
    ledger = opened.ledger
    with ledger.transaction():
        ledger.intend(JobId(4), Intent(attempt_no=1, round=1, mark=Mark("past")))
        ledger.reopen(Selection(keys=["k1", "k2", "k3", "k4"]))
        ledger.intend(JobId(2), Intent(attempt_no=1, round=2, mark=Mark("m")))
        ledger.postpone(JobId(3), None, 1000.0)
    begun = take_up(opened.ledger, opened.job_file, WAIT_S)
    assert len(begun) == 2
    chunks = await drained(opened.backlog())
    assert [[job.key for job, _ in chunk.resumed] for chunk in chunks] == [["k3", "k4"]]


def test_an_edited_line_reopens_nothing_and_is_named(opened: Opened) -> None:
    """A line with a changed key or content is named, and no job is reopened."""
    for edited in (
        LINES[7].replace(b"k7", b"K7"),
        LINES[7].replace(b": 7", b": 8"),
        b"x" * (len(LINES[7]) - 1) + b"\n",
    ):
        opened.file.write_bytes(b"".join([*LINES[:7], edited, *LINES[8:]]))
        with pytest.raises(JobFileError, match=":8: "):
            reopen(opened.ledger, opened.job_file, WAIT_S, Selection())
        assert opened.ledger.open_jobs() == []
        reopened = reopen(opened.ledger, opened.job_file, WAIT_S, Selection(keys=["nope"]))
        assert reopened == []


async def test_the_lines_of_the_file_follow_the_backlog(opened: Opened) -> None:
    """After the open jobs come lines to admit, and no open job is missing."""
    reopen(opened.ledger, opened.job_file, WAIT_S, Selection(keys=["k1"]))
    backlog = opened.backlog([make_job(1), make_bad_line(2)])
    backlogged, read = await drained(backlog)
    assert ([job.key for job, _ in backlogged.resumed], len(read.entries), read.resumed) == (["k1"], 2, ())
    backlog.check_all_came()


async def test_in_a_file_that_is_read_from_the_top_open_jobs_come_with_their_lines(from_the_top: Opened) -> None:
    """Each open job comes once, with its attempts; other lines are to be admitted, in their order."""
    ledger = from_the_top.ledger
    with ledger.transaction():
        ledger.reopen(Selection(keys=["k1", "k5"]))
        ledger.intend(JobId(2), Intent(attempt_no=1, round=2, mark=Mark("m")))
    lines = [*from_the_top.job_file.read(), make_job(11), make_bad_line(12)]
    backlog = from_the_top.backlog(lines)
    assert take_up(ledger, from_the_top.job_file, WAIT_S) == []
    chunks = await drained(backlog)
    resumed = [[(job.key, noted.round, len(noted.attempts)) for job, noted in chunk.resumed] for chunk in chunks]
    assert resumed == [[("k1", 2, 1)], [("k5", 2, 0)], []]
    assert [entry for chunk in chunks for entry in chunk.entries] == [
        line for line in lines if line.position.line not in (2, 6)
    ]
    assert [chunk.read_to for chunk in chunks] == [read_to(4), read_to(8), read_to(12)]
    backlog.check_all_came()


@pytest.mark.parametrize("change", ["missing", "edited", "moved"])
async def test_a_missing_line_is_named(from_the_top: Opened, change: str) -> None:
    """A line with the same key at another position, or with other content, is another line."""
    with from_the_top.ledger.transaction():
        from_the_top.ledger.reopen(Selection())
    lines = [job for job in from_the_top.job_file.read() if isinstance(job, Job)]
    kept = {
        "missing": [],
        "edited": [replace(lines[6], digest=b"other")],
        "moved": [replace(lines[6], position=replace(lines[6].position, line=20))],
    }[change]
    backlog = from_the_top.backlog([*lines[:6], *lines[7:], *kept])
    chunks = await drained(backlog)
    assert [entry for chunk in chunks for entry in chunk.entries] == kept
    with pytest.raises(JobFileError, match=r"1 unfinished jobs are missing from the input \(lines 7\)"):
        backlog.check_all_came()


@pytest.mark.parametrize("name", ["jobs.jsonl.gz", "jobs.jsonl"])
def test_a_reread_file_has_no_more_duplicates_than_before(
    blockbuster: BlockBuster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """Every process reads a compressed file from its first line; with `@priority`, from the oldest that waits."""
    blockbuster.deactivate()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    file = tmp_path / name
    late = b'{"n": 99, "@priority": -1}\n'
    lines = [*LINES, LINES[3]] if name.endswith(".gz") else [late, LINES[3], LINES[3], late]
    file.write_bytes(gzip.compress(b"".join(lines)) if name.endswith(".gz") else b"".join(lines))
    for _ in range(3):
        with opened_source(tmp_path, file) as (journal, source):
            chunk = source._read(100 if name.endswith(".gz") else 2)
            assert chunk is not None
            with journal.ledger.transaction():
                assert chunk.read_to is not None
                journal.admit(chunk.entries, chunk.read_to)
            assert journal.ledger.fact(DUPLICATES) == 1


async def read_by_a_process(
    directory: Path, file: Path, settings: Mapping[str, Any] = MappingProxyType({})
) -> tuple[list[str], UnendedLine | None]:
    """Read a job file as a process would; return the bodies of the jobs that are new, and the news of its last line."""
    bodies = []
    with opened_source(directory, file, settings) as (journal, source):
        while (chunk := await source.next_chunk(2)) is not None:
            with journal.ledger.transaction():
                assert chunk.read_to is not None
                admitted = journal.admit(chunk.entries, chunk.read_to)
            bodies += [job.body.decode() for job, _ in admitted.jobs]
        return bodies, source.unended


@pytest.fixture
def inline(blockbuster: BlockBuster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use files and SQLite inline, without syncs."""
    blockbuster.deactivate()
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(anyio.to_thread, "run_sync", _run_inline)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("suffix", ["", ".gz"])
async def test_a_line_that_is_still_being_written_is_read_when_it_is_whole(tmp_path: Path, suffix: str) -> None:
    """Half a line is no job while a process has the file open for writing; it is said, and nothing is lost."""
    file, as_file = tmp_path / f"jobs.csv{suffix}", gzip.compress if suffix else bytes
    with file.open("wb") as writer:
        writer.write(as_file(b"sku,n\nA,1\nB,2\nC,3"))
        writer.flush()
        assert await read_by_a_process(tmp_path, file) == (
            ['{"sku":"A","n":"1"}', '{"sku":"B","n":"2"}'],
            UnendedLine(file=str(file), line=4, is_read=False),
        )
    file.write_bytes(as_file(b"sku,n\nA,1\nB,2\nC,300\nD,4\n"))
    assert await read_by_a_process(tmp_path, file) == (['{"sku":"C","n":"300"}', '{"sku":"D","n":"4"}'], None)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv"])
async def test_a_line_replaces_jobs_before_they_are_resumed(tmp_path: Path, kind: str) -> None:
    """Of jobs that are admitted and not started, wherever the line is; one under way is left to the reading."""
    file = tmp_path / f"jobs.{kind}"

    def write(rows: list[tuple[str, int, bool]]) -> None:
        objects = [{"@key": key, "n": str(n), "@replaces": replaces} for key, n, replaces in rows]
        lines = b"".join(orjson.dumps(each, option=orjson.OPT_APPEND_NEWLINE) for each in objects)
        if kind == "json":
            lines = orjson.dumps(objects)
        elif kind == "csv":
            lines = "".join(["@key,n,@replaces\n", *(f"{key},{n},{is_it}\n" for key, n, is_it in rows)]).encode()
        file.write_bytes(gzip.compress(lines) if kind.endswith("gz") else lines)

    rows = [(key, 1, False) for key in "abc"]
    write(rows)
    await read_by_a_process(tmp_path, file)
    with ExitStack() as stack:
        journal = _open_journal(stack, tmp_path)
        with journal.ledger.transaction():
            journal.ledger.intend(JobId(1), Intent(attempt_no=1, mark=Mark("m")))
    write([*rows, *((f"new{n}", 2, False) for n in range(5)), ("a", 2, True), ("b", 2, True), ("b", 3, True)])
    for _ in range(2):
        with opened_source(tmp_path, file) as (journal, source):
            open_jobs = journal.ledger.open_jobs()
            bodies = [job.body for job in source.job_file.reread([each.position for each in open_jobs])]
            assert [(each.key, each.round) for each in open_jobs] == [("a", 1), ("b", 1), ("c", 1)]
            assert sorted(bodies) == [b'{"n":"1"}', b'{"n":"1"}', b'{"n":"3"}']
            assert (journal.ledger.fact(DUPLICATES), journal.ledger.count_outcomes()) == (2, {})
    bodies_read, _ = await read_by_a_process(tmp_path, file)
    assert bodies_read == ['{"n":"2"}'] * 5
    with ExitStack() as stack:
        journal = _open_journal(stack, tmp_path)
        assert journal.ledger.count_outcomes() == {Outcome.INVALID: 1}


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("limit", [None, 150])
async def test_shards_divide_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, limit: int | None
) -> None:
    """Each job is in one of them, also with few lines of its own among many, and when they are read again.

    A limit is one of the whole file. A line that replaces another one's job comes to the shard of that job only.
    """
    monkeypatch.setattr(job_source, "MAX_OTHERS", 7)
    file, as_file = tmp_path / f"jobs.jsonl{suffix}", gzip.compress if suffix else bytes
    lines = b"".join(b'{"@key": "k%d", "n": %d}\n' % (n % 200, n % 200) for n in range(220))
    file.write_bytes(as_file(lines))
    bodies = list[str]()
    for number in range(1, 9):
        directory = tmp_path / str(number)
        directory.mkdir()
        settings = {"jobs.shard": [number, 8], "jobs.limit": limit}
        found, _ = await read_by_a_process(directory, file, settings)
        again, _ = await read_by_a_process(directory, file, settings)
        assert (len(found) > 5, again) == (True, [])
        bodies += found
    assert sorted(bodies) == sorted(f'{{"n":{n}}}' for n in range(200 if limit is None else limit))
    if limit is None:
        file.write_bytes(as_file(lines + b'{"@key": "k3", "n": -1, "@replaces": true}\n'))
        changed = list[bytes]()
        for number in range(1, 9):
            directory, settings = tmp_path / str(number), {"jobs.shard": [number, 8]}
            await read_by_a_process(directory, file, settings)
            with opened_source(directory, file, settings) as (journal, source):
                open_jobs = journal.ledger.open_jobs()
                changed += [job.body for job in source.job_file.reread([each.position for each in open_jobs])]
        assert (len(changed), changed.count(b'{"n":-1}'), changed.count(b'{"n":3}')) == (200, 1, 0)


@pytest.mark.usefixtures("inline")
async def test_the_last_line_of_a_file_at_rest_is_read_without_its_end(tmp_path: Path) -> None:
    """It is said; it is one job, however often it is read; and what it grows into later is another one."""
    file = tmp_path / "jobs.csv"
    file.write_bytes(b"sku,n\nA,1\nB,2")
    said = UnendedLine(file=str(file), line=3, is_read=True)
    began_s = anyio.current_time()
    assert await read_by_a_process(tmp_path, file) == (['{"sku":"A","n":"1"}', '{"sku":"B","n":"2"}'], said)
    assert anyio.current_time() - began_s == text_source.QUIET_S
    os.utime(file, (0, 0))
    assert await read_by_a_process(tmp_path, file) == ([], said)
    assert anyio.current_time() - began_s == text_source.QUIET_S
    file.write_bytes(b"sku,n\nA,1\nB,200\n")
    assert await read_by_a_process(tmp_path, file) == (['{"sku":"B","n":"200"}'], None)


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("suffix", ["", ".gz"])
async def test_a_process_that_reads_from_the_top_forgets_no_position(tmp_path: Path, suffix: str) -> None:
    """It passes lines that were read before; if it dies there, all of them are compared by the next process, too."""
    file, as_file = tmp_path / f"jobs.jsonl{suffix}", gzip.compress if suffix else bytes
    file.write_bytes(as_file(b"".join(LINES)))
    await read_by_a_process(tmp_path, file)
    with opened_source(tmp_path, file, {"jobs.limit": 3}) as (journal, source):
        chunk = await source.next_chunk(2)
        assert chunk is not None
        assert chunk.read_to is not None
        with journal.ledger.transaction():
            journal.admit(chunk.entries, chunk.read_to)
    file.write_bytes(as_file(b"".join([*LINES[:6], LINES[6].replace(b": 6", b": 7"), *LINES[7:]])))
    with pytest.raises(JobFileError, match="first 10 lines"):
        await read_by_a_process(tmp_path, file)


@pytest.mark.usefixtures("inline")
async def test_a_quote_that_is_never_closed_is_mended_alone(tmp_path: Path) -> None:
    """The lines behind it are read, once the file is at rest; the mended row is the only new job."""
    file = tmp_path / "jobs.csv"
    file.write_bytes(b'sku,n\nA,1\nB,"2\nC,3\nD,4\n')
    said = UnendedLine(file=str(file), line=3, is_read=True)
    assert await read_by_a_process(tmp_path, file) == (
        [f'{{"sku":"{sku}","n":"{n}"}}' for sku, n in ("A1", "C3", "D4")],
        said,
    )
    file.write_bytes(b"sku,n\nA,1\nB,2\nC,3\nD,4\n")
    assert await read_by_a_process(tmp_path, file) == (['{"sku":"B","n":"2"}'], None)


@pytest.mark.usefixtures("inline")
def test_a_begun_batch_keeps_its_dialect(tmp_path: Path) -> None:
    """Lines that are appended change neither delimiter nor quotes; a new batch asks where they leave doubt."""
    file = tmp_path / "jobs.csv"
    file.write_bytes(b"sku;price, EUR\na1;15\n")
    config = load_config(flags={"task.id": "t", "jobs.file": str(file), "output.dir": str(tmp_path)}, environ={})
    settled = settle_dialect(config)
    assert (settled.jobs.delimiter, settled.jobs.quote, settled.jobs.trim) == (";", '"', True)
    begin(tmp_path, {"jobs.delimiter": ";", "jobs.quote": "none", "jobs.trim": False})
    file.write_bytes(b"sku;price, EUR\na1;1,5\n")
    settled = settle_dialect(config)
    assert (settled.jobs.delimiter, settled.jobs.quote, settled.jobs.trim) == (";", "none", False)
    other = config.model_copy(update={"output": config.output.model_copy(update={"dir": tmp_path / "new"})})
    with pytest.raises(JobFileError, match="in more than one way"):
        settle_dialect(other)


@pytest.mark.usefixtures("inline")
def test_a_batch_of_an_earlier_version_is_read_as_that_version_did(tmp_path: Path) -> None:
    """Its ledger notes no quote: then the header decides, and blanks around cells count, so that keys stay."""
    file = tmp_path / "jobs.csv"
    file.write_bytes(b"sku;price, EUR; n\na1;1,5; 7\n")
    begin(tmp_path, {"jobs.delimiter": None, "task": "t"})
    with closing(sqlite3.connect(tmp_path / LEDGER)) as connection:
        connection.execute("PRAGMA user_version = 4")  # its tables are brought up to date later
    config = load_config(flags={"task.id": "t", "jobs.file": str(file), "output.dir": str(tmp_path)}, environ={})
    with JobFile(job_format(settle_dialect(config), {})) as job_file:
        assert [one.body for one in job_file.read() if isinstance(one, Job)] == [
            b'{"sku":"a1","price, EUR":"1,5","n":" 7"}'
        ]


def begin(directory: Path, identity: dict[str, Any]) -> None:
    """Leave a ledger with a job and this identity."""
    with ExitStack() as stack:
        journal = _open_journal(stack, directory)
        with journal.ledger.transaction():
            journal.admit([make_job()], read_to(1))
            journal.ledger.note_fact(IDENTITY, identity)


@pytest.mark.usefixtures("inline")
async def test_a_chunk_ends_by_the_memory_that_its_jobs_take(tmp_path: Path) -> None:
    """Of many open batches each holds a chunk; `@meta` stays parsed, and each empty object takes 96 bytes."""
    file = tmp_path / "jobs.jsonl"
    meta: list[JsonObject] = [{}] * 50_000
    file.write_bytes(b"".join(orjson.dumps({"n": n, "@meta": meta}) + b"\n" for n in range(7)))
    with opened_source(tmp_path, file) as (_, source):
        sizes = []
        while (chunk := await source.next_chunk(256)) is not None:
            sizes.append(len(chunk.entries))
    assert sizes == [2, 2, 2, 1]
