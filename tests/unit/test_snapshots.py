"""Snapshots of a shared log: what a directory that begins with one has, and which ones it does not use."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
import zstandard

from batchrun.errors import LedgerError, LogUnreachable
from batchrun.ledger.facts import JOB_COUNT, LOG_CLAIM, LOG_POSITION
from batchrun.ledger.shared_commits import FileGrowth
from batchrun.ledger.shared_log import replica as replica_module
from batchrun.ledger.shared_log import snapshots
from batchrun.ledger.shared_log.directory_store import DirectoryStore
from batchrun.ledger.shared_log.entries import digest
from batchrun.ledger.shared_log.followed_files import FollowedFiles
from batchrun.ledger.shared_log.owned_log import OwnedLog
from batchrun.ledger.shared_log.replica import open_replica
from batchrun.ledger.shared_log.snapshots import SnapshotMaker, read_snapshots
from batchrun.ledger.shared_log.standby import stand_by
from batchrun.ledger.sqlite import foreign_statements, ledger_copy
from batchrun.ledger.sqlite.following_tables import FollowingTables, open_following
from batchrun.ledger.sqlite.ledger_copy import COPY, copy_ledger
from batchrun.ledger.sqlite.reader import LedgerReader, open_for_reading
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.model import BadLine, Position
from batchrun.output.layout import LEDGER, RECORDS
from tests.support.shared_logs import claim, contents, open_log, replay

#: Of a process that claims a log by itself.
CLAIM: dict[str, Any] = {"may_wait": False, "on_standby": None, "check": lambda: None, "membership": None}


@pytest.fixture(autouse=True)
def small_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a ledger of some pages have snapshots of several parts."""
    monkeypatch.setattr(snapshots, "MIN_BYTES", 0)
    monkeypatch.setattr(snapshots, "PIECE_BYTES", 20_000)


class Counting(DirectoryStore):
    """A store that notes which objects are asked for, and put."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.asked: list[str] = []
        self.put: list[str] = []

    def put_object(self, name: str, content: bytes) -> None:
        self.put.append(name)
        super().put_object(name, content)

    def get_object(self, name: str) -> bytes | None:
        self.asked.append(name)
        return super().get_object(name)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The copies of ledgers that were loaded."""
    paths: list[Path] = []
    load = FollowingTables.load

    def noting(tables: FollowingTables, copy: Path) -> None:
        load(tables, copy)
        paths.append(copy)

    monkeypatch.setattr(FollowingTables, "load", noting)
    return paths


def commit(directory: Path, log: OwnedLog, numbers: range) -> None:
    """Commit a job and its record for each number."""
    with open_ledger(directory, log=log) as ledger:
        for n in numbers:
            record = b"record %d\n" % n
            with ledger.transaction():
                position = Position(line=n, variant=0, offset=n, length=1)
                assert ledger.admit_bad_line(BadLine(position=position, reason="", content="x"))
                before = ledger.output_lengths()[RECORDS]
                ledger.note_output_lengths({RECORDS: before + len(record)})
                ledger.share({RECORDS: FileGrowth(offset=before, data=record)})
                with (directory / RECORDS).open("ab") as file:
                    file.write(record)


def log_with_snapshot(tmp_path: Path, name: str = "log") -> tuple[DirectoryStore, OwnedLog]:
    """Make a log with a snapshot in the middle, and its owner in the directory a."""
    store = open_log(tmp_path / name)
    owner = tmp_path / f"owner of {name}"
    log = claim(store, owner)
    commit(owner, log, range(1, 10))
    assert SnapshotMaker(store, owner).make_next()
    commit(owner, log, range(10, 15))
    return store, log


def parts_of(store: DirectoryStore) -> list[str]:
    """Return the names of the last snapshot's parts."""
    snapshot = read_snapshots(store)[-1]
    assert snapshot is not None
    return [*snapshot.parts]


def test_a_part_that_has_not_changed_is_put_once(tmp_path, monkeypatch):
    """NATS removes the bytes of an object that is put again, also while a standby reads them."""
    monkeypatch.setattr(snapshots, "GROWTH", 1.0)
    open_log(tmp_path / "log")
    store, owner = Counting(tmp_path / "log"), tmp_path / "owner"
    commit(owner, claim(store, owner), range(1, 10))
    maker = SnapshotMaker(store, owner)
    for _ in range(2):
        assert maker.make_next()
    first, second = read_snapshots(store)
    assert first is not None
    assert second is not None
    assert [*first.parts] == [*second.parts]
    assert sorted(store.put) == sorted([*first.parts, "snapshot-000000000", "snapshot-000000001"])


def test_an_empty_directory_begins_with_a_snapshot(tmp_path, loaded):
    """It has what a replay of all entries makes, and then what followed; the owner's claim stays the owner's."""
    log_with_snapshot(tmp_path)
    store = Counting(tmp_path / "log")
    assert replay(store, tmp_path / "b") == 15
    assert contents(tmp_path / "b") == contents(tmp_path / "owner of log")
    assert len(parts_of(store)) > 2
    assert {*parts_of(store)} <= {*store.asked}
    assert loaded == [tmp_path / "b" / COPY]
    assert not loaded[0].exists()
    with open_for_reading(tmp_path / "b") as ledger:
        assert (ledger.fact(LOG_CLAIM), _position(ledger)) == (None, 14)
    replay(store, tmp_path / "b")
    next_log = claim(store, tmp_path / "b", name="machine-2")
    commit(tmp_path / "b", next_log, range(20, 22))
    replay(store, tmp_path / "c")
    assert contents(tmp_path / "c") == contents(tmp_path / "b")


def _position(ledger: LedgerReader) -> int:
    position = ledger.fact(LOG_POSITION)
    assert position is not None
    return position.entry


def _without_a_part(store: DirectoryStore, objects: Path) -> None:
    (objects / f"{parts_of(store)[1]}.zst").unlink()


def _with_a_damaged_part(store: DirectoryStore, objects: Path) -> None:
    part = objects / f"{parts_of(store)[1]}.zst"
    part.write_bytes(part.read_bytes()[:-1])


def _changed(objects: Path, **fields: Any) -> None:
    head = objects / "snapshot-000000000.zst"
    head.write_bytes(orjson.dumps(orjson.loads(head.read_bytes()) | fields))


def _of_another_log(_: DirectoryStore, objects: Path) -> None:
    store, _log = log_with_snapshot(objects.parent.parent, "other")
    for each in (objects.parent.parent / "other" / "objects").iterdir():
        (objects / each.name).write_bytes(each.read_bytes())
    assert len(read_snapshots(store)) == 1


def _of_another_entry(store: DirectoryStore, objects: Path) -> None:
    _changed(objects, entry=3, digest=digest(store.read(3) or b""))


def _of_an_entry_that_is_not_there(_: DirectoryStore, objects: Path) -> None:
    _changed(objects, entry=99)


def _of_other_tables(_: DirectoryStore, objects: Path) -> None:
    _changed(objects, tables=1)


def _half_a_head(_: DirectoryStore, objects: Path) -> None:
    head = objects / "snapshot-000000000.zst"
    head.write_bytes(head.read_bytes()[:-10])


def _with_a_name_that_leads_elsewhere(_: DirectoryStore, objects: Path) -> None:
    _changed(objects, parts=["../../../secret", 7])


def _holding(statement: str, *, with_pragma: str = "user_version") -> Callable[[DirectoryStore, Path], None]:
    """Return what puts a ledger into a snapshot that a statement has changed."""

    def change(_: DirectoryStore, objects: Path) -> None:
        copy = objects / "copy"
        snapshot = orjson.loads((objects / "snapshot-000000000.zst").read_bytes())
        pieces = [
            zstandard.ZstdDecompressor().decompress((objects / f"{part}.zst").read_bytes())
            for part in snapshot["parts"]
        ]
        copy.write_bytes(b"".join(pieces))
        with closing(sqlite3.connect(copy)) as ledger, ledger:
            ledger.execute(f"PRAGMA {with_pragma}")
            ledger.execute(statement)
        parts = []
        content = copy.read_bytes()
        for at in range(0, len(content), snapshots.PIECE_BYTES):
            part = zstandard.ZstdCompressor().compress(content[at : at + snapshots.PIECE_BYTES])
            parts.append(digest(part))
            (objects / f"{parts[-1]}.zst").write_bytes(part)
        _changed(objects, parts=parts)

    return change


def _with_a_giant_schema(store: DirectoryStore, objects: Path) -> None:
    """Let SQLite's own table have a text that it does not look at: many rows can share one such text in the file."""
    ledger = (
        "INSERT INTO sqlite_schema SELECT replace(hex(zeroblob(10000000)), '0', 'x'), name, tbl_name, rootpage, sql"
    )
    _holding(
        f"{ledger} FROM sqlite_schema WHERE name LIKE 'sqlite_autoindex_job_%'", with_pragma="writable_schema = 1"
    )(store, objects)


@pytest.mark.parametrize(
    "spoil",
    [
        _without_a_part,
        _with_a_damaged_part,
        _of_another_log,
        _of_another_entry,
        _of_an_entry_that_is_not_there,
        _of_other_tables,
        _half_a_head,
        _with_a_name_that_leads_elsewhere,
        _holding("CREATE TRIGGER more AFTER INSERT ON job BEGIN DELETE FROM attempt; END"),
        _holding("CREATE TABLE another (id)"),
        _holding("DROP TABLE duplicate"),
        _holding("DELETE FROM batch"),
        _holding(f"UPDATE output SET length = 7 WHERE name = '{RECORDS}'"),
        _holding(
            "INSERT INTO attempt (job_id, attempt_no, mark, state, intended_at) VALUES (1, 1, 'm', 'no state', 1)",
            with_pragma="ignore_check_constraints = 1",
        ),
        _with_a_giant_schema,
    ],
)
def test_a_snapshot_that_does_not_go_with_the_log_is_not_used(tmp_path, loaded, spoil):
    """All entries are replayed instead; nothing of it is left."""
    store, _ = log_with_snapshot(tmp_path)
    spoil(store, tmp_path / "log" / "objects")
    assert replay(store, tmp_path / "b") == 15
    assert contents(tmp_path / "b") == contents(tmp_path / "owner of log")
    assert loaded == []
    assert not (tmp_path / "b" / COPY).exists()


def test_a_snapshot_names_no_part_twice(tmp_path):
    """One small object, named again and again, would be a file that fills the disk."""
    store, _ = log_with_snapshot(tmp_path)
    _changed(tmp_path / "log" / "objects", parts=parts_of(store)[:1] * 2)
    assert read_snapshots(store) == [None]


def test_a_snapshot_that_is_much_larger_than_its_log_is_not_fetched(tmp_path, loaded, monkeypatch):
    """Whoever can write to the store could fill a disk with parts that are small there. Other snapshots are tried."""
    monkeypatch.setattr(snapshots, "GROWTH", 0.0)
    monkeypatch.setattr(snapshots, "MAX_BYTES_WITHOUT_LOG", 400_000)
    store, log = log_with_snapshot(tmp_path)
    assert SnapshotMaker(store, tmp_path / "owner of log").make_next()
    forged = [f"{n:064}" for n in range(30)]
    head = tmp_path / "log" / "objects" / "snapshot-000000001.zst"
    head.write_bytes(orjson.dumps(orjson.loads(head.read_bytes()) | {"parts": forged}))
    counting = Counting(tmp_path / "log")
    assert replay(counting, tmp_path / "b") == log.last.entry + 1
    assert contents(tmp_path / "b") == contents(tmp_path / "owner of log")
    assert (set(forged) & set(counting.asked), len(loaded)) == (set(), 1)


def test_a_copy_has_as_many_lengths_as_there_are_files(tmp_path):
    """They are read into memory, and their names may be of any length."""
    log_with_snapshot(tmp_path)
    copy_ledger(tmp_path / "owner of log")
    with open_following(tmp_path / "owner of log") as tables:
        copy = tmp_path / "owner of log" / COPY
        assert tables.read_copy(copy).output_lengths
        with closing(sqlite3.connect(copy)) as ledger, ledger:
            ledger.executemany("INSERT INTO output VALUES (?, 0)", [(f"x{n}",) for n in range(10)])
        with pytest.raises(LedgerError, match="lengths of more files than there are"):
            tables.read_copy(copy)


def test_a_snapshot_is_given_up_when_the_process_ends(tmp_path, loaded, monkeypatch):
    """Its parts may be thousands: no further one is read, nor an entry; the next process begins again."""
    monkeypatch.setattr(snapshots, "_PARTS_AT_ONCE", 1)
    log_with_snapshot(tmp_path)
    (tmp_path / "b").mkdir()
    began, goes_on = threading.Event(), threading.Event()

    class Waiting(Counting):
        def get_object(self, name: str) -> bytes | None:
            if not name.startswith(("snapshot", "pack")):
                began.set()
                assert goes_on.wait(60)
            return super().get_object(name)

    store = Waiting(tmp_path / "log")

    async def end_soon() -> None:
        async with anyio.create_task_group() as children:
            children.start_soon(partial(stand_by, store, 60.0, tmp_path / "b", **CLAIM))
            await anyio.to_thread.run_sync(began.wait, 60)
            children.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.wait_all_tasks_blocked()
            goes_on.set()

    anyio.run(end_soon)
    parts = parts_of(store)
    assert sum(name in parts for name in store.asked) == 1 < len(parts)
    assert (loaded, (tmp_path / "b" / COPY).exists()) == ([], False)
    assert replay(store, tmp_path / "b") == 15


def test_entries_are_gathered_by_what_they_hold(tmp_path, monkeypatch):
    """A few bytes of the log may hold megabytes, which never reach a file: they are not kept until 2,000 are read."""
    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    with open_ledger(tmp_path / "a", log=log) as ledger:
        for n in range(6):
            with ledger.transaction():
                ledger.note_json(f"x{n}", orjson.dumps("x" * 20_000).decode())
    commits: list[str] = []
    transaction = FollowingTables.transaction

    def noting(tables: FollowingTables) -> AbstractContextManager[None]:
        commits.append("")
        return transaction(tables)

    monkeypatch.setattr(FollowingTables, "transaction", noting)
    monkeypatch.setattr(replica_module, "BYTES_PER_COMMIT", 30_000)
    replay(store, tmp_path / "b")
    assert len(commits) == 4, "two entries each, and what is left"


def test_a_snapshot_that_takes_too_long_to_read_is_not_used(tmp_path, monkeypatch, loaded):
    """Its file may be a tree of pages that lead to one another: the entries are replayed instead."""
    store, _ = log_with_snapshot(tmp_path)
    replay(store, tmp_path / "a")
    monkeypatch.setattr(foreign_statements, "LOOK_STEPS", 1)
    monkeypatch.setattr(ledger_copy, "bound_steps", partial(foreign_statements.bound_steps, max_steps=0))
    replay(store, tmp_path / "b")
    assert len(loaded) == 1, "only before"
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_an_earlier_snapshot_is_used_if_the_last_one_is_damaged(tmp_path, monkeypatch):
    """Each stands for itself."""
    monkeypatch.setattr(snapshots, "GROWTH", 0.0)
    store, log = log_with_snapshot(tmp_path)
    earlier = parts_of(store)
    commit(tmp_path / "owner of log", log, range(30, 32))
    assert SnapshotMaker(store, tmp_path / "owner of log").make_next()
    _with_a_damaged_part(store, tmp_path / "log" / "objects")
    counting = Counting(tmp_path / "log")
    replay(counting, tmp_path / "b")
    assert {*earlier} <= {*counting.asked}
    assert contents(tmp_path / "b") == contents(tmp_path / "owner of log")


def test_a_snapshot_that_is_half_written_is_none(tmp_path):
    """Its parts come first; the next process makes it again."""

    class Failing(DirectoryStore):
        def put_object(self, name: str, content: bytes) -> None:
            if name.startswith("snapshot"):
                raise LogUnreachable("no answer")
            super().put_object(name, content)

    open_log(tmp_path / "log")
    store = Failing(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    commit(tmp_path / "a", log, range(1, 9))
    with pytest.raises(LogUnreachable):
        SnapshotMaker(store, tmp_path / "a").make_next()
    maker = SnapshotMaker(store, tmp_path / "a")
    maker.stop()
    assert not maker.make_next()
    assert (read_snapshots(store), (tmp_path / "a" / COPY).exists()) == ([], False)
    whole = open_log(tmp_path / "log")
    assert SnapshotMaker(whole, tmp_path / "a").make_next()
    replay(whole, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_store_that_fails_within_a_snapshot_is_caught_up_with_in_steps(tmp_path):
    """The next look replays the entries, which keeps what was read; files are as if the first had not been."""

    class Failing(DirectoryStore):
        def read(self, number: int) -> bytes | None:
            if number == 5 and not (tmp_path / "is back").exists():
                raise LogUnreachable("no answer")
            return super().read(number)

    log_with_snapshot(tmp_path)
    store = Failing(tmp_path / "log")
    with open_replica(store, _made(tmp_path / "b")) as following:
        for _ in range(2):
            with pytest.raises(LogUnreachable):
                following.catch_up()
        with open_for_reading(tmp_path / "b") as ledger:
            assert _position(ledger) == 4
        (tmp_path / "is back").touch()
        following.catch_up()
    assert contents(tmp_path / "b") == contents(tmp_path / "owner of log")


def _made(directory: Path) -> Path:
    directory.mkdir()
    return directory


def test_a_machine_that_dies_within_a_snapshot_begins_again(tmp_path, monkeypatch):
    """Neither its files nor the copy are in the way."""
    store, _ = log_with_snapshot(tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr(FollowingTables, "load", _killed)
        killed.setattr(FollowedFiles, "cut", _killed)
        with pytest.raises(KeyboardInterrupt):
            replay(store, tmp_path / "b")
    assert (tmp_path / "b" / RECORDS).stat().st_size
    (tmp_path / "b" / COPY).write_bytes(b"half of it")
    replay(store, tmp_path / "b")
    assert contents(tmp_path / "b") == contents(tmp_path / "owner of log")
    assert not (tmp_path / "b" / COPY).exists()


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_snapshot_is_made_once_the_ledger_has_grown_by_a_quarter(tmp_path, monkeypatch):
    """By whichever process owns the batch; the first one of 16 MB."""
    monkeypatch.setattr(snapshots, "MIN_BYTES", 200_000)
    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    maker = SnapshotMaker(store, tmp_path / "a")
    assert not maker.make_next()
    _grow(tmp_path / "a", log, 250_000)
    assert maker.make_next()
    assert not maker.make_next()
    assert not SnapshotMaker(store, tmp_path / "a").make_next()
    _grow(tmp_path / "a", log, 350_000)
    assert SnapshotMaker(store, tmp_path / "a").make_next()
    assert maker.make_next()  # it was overtaken, say: its number is taken, and nothing comes of it
    assert len(read_snapshots(store)) == 2
    replay(store, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def _grow(directory: Path, log: OwnedLog, to_bytes: int) -> None:
    with open_ledger(directory, log=log) as ledger:
        while (size := (directory / LEDGER).stat().st_size) < to_bytes:
            with ledger.transaction():
                ledger.note_json(f"x{size}", orjson.dumps("x" * 20_000).decode())
            ledger._db.execute("PRAGMA wal_checkpoint")
        assert ledger.fact(JOB_COUNT) is None


def test_a_log_that_is_damaged_is_refused_with_or_without_a_snapshot(tmp_path):
    """What the snapshot leaves out is read all the same, entry after entry, for the files."""
    store, _ = log_with_snapshot(tmp_path)
    (tmp_path / "log" / "log" / f"{3:012}.zst").write_bytes(store.read(4) or b"")
    with pytest.raises(LedgerError, match="does not continue the entry before"):
        replay(store, tmp_path / "b")
