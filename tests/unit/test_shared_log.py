"""The log of a batch's commits that other machines replay; crash tests carry whole batches from machine to machine."""

import json
import os
import random
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import anyio
import obstore
import orjson
import pytest
import zstandard
from anyio.abc import SocketAttribute, SocketStream
from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Srv
from nats.errors import Error as NatsError
from obstore.store import MemoryStore

from batchrun.errors import ConfigError, LedgerError, LogUnreachable, OutputError, Superseded
from batchrun.ledger.facts import ECHO, JOB_COUNT
from batchrun.ledger.shared_commits import Commit, FileGrowth, LogPosition
from batchrun.ledger.shared_log import (
    bucket_store,
    directory_store,
    entries,
    first_commit,
    followed_files,
    nats_store,
    owned_log,
    packs,
)
from batchrun.ledger.shared_log import standby as standby_module
from batchrun.ledger.shared_log.bucket_store import BucketStore
from batchrun.ledger.shared_log.directory_store import DirectoryStore
from batchrun.ledger.shared_log.entries import (
    MAX_ENTRY_BYTES,
    Entry,
    EntryKind,
    Owner,
    commit_content,
    decode,
    digest,
    encode,
)
from batchrun.ledger.shared_log.log_store import open_part, open_store, part_url
from batchrun.ledger.shared_log.owned_log import OwnedLog
from batchrun.ledger.shared_log.packs import Packer
from batchrun.ledger.shared_log.replica import open_replica
from batchrun.ledger.shared_log.standby import SILENT_LEASES, Claimant, Standby
from batchrun.ledger.sqlite import foreign_statements
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger
from batchrun.model import BadLine, Position
from batchrun.output.layout import ITEMS, RECORDS
from batchrun.runtime import bounded_zstd
from batchrun.runtime.free_space import RESERVED_BYTES
from batchrun.runtime.steady_time import boot_time
from tests.support.shared_logs import UncertainStore, claim, contents, open_log, replay
from tests.support.slow_names import slow_names

OWNER = Owner(id="o", name="machine-1 (process 7)", lease_s=20.0)


def no_objects(_: str) -> None:
    """Return the objects of a log that has none."""


def commit_entry(commit: Commit) -> Entry:
    """Return an entry that holds a commit."""
    return Entry(kind=EntryKind.COMMIT, owner=OWNER, previous="", commit=commit)


#: A frame that names 1 TB as its content.
ENDLESS = bytes.fromhex("28b52ffde00000000000010000010000")

VALUES = st.none() | st.text() | st.binary() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(
    -(2**63), 2**63 - 1
)  # fmt: skip


@example([("INSERT 1", (',"files":{}',)), ('INSERT ,"statements":[]', {"x": 1, "statements": 2, "files": 3})], b"")
@given(st.lists(st.tuples(st.sampled_from(["INSERT 1", "UPDATE 2"]), st.lists(VALUES).map(tuple))), st.binary())
def test_an_entry_is_read_as_it_was_written(changes, data):
    """Floats to the last bit, bytes as bytes: the rows on all machines are the same."""
    files = {RECORDS: FileGrowth(offset=5, data=data), ITEMS: FileGrowth(offset=0, data=b"x")}
    entry = commit_entry(Commit(changes=changes, files=files))
    encoded = encode(EntryKind.COMMIT, OWNER, "", commit_content(entry.commit))
    assert decode(encoded, no_objects) == entry
    assert decode(encoded, no_objects, with_changes=False) == commit_entry(Commit(files=files))


def test_what_a_commit_changes_is_not_parsed_for_its_files():
    """They are most of a log's bytes: a take-over that begins with a snapshot needs none of them."""
    files = {RECORDS: FileGrowth(offset=0, data=b"x")}
    encoded = encode(EntryKind.COMMIT, OWNER, "", commit_content(Commit(changes=[("INSERT 1", (1,))], files=files)))
    unreadable = zstandard.compress(zstandard.decompress(encoded).replace(b"[[0,[1]]]", b"[[0,[1"))
    assert decode(unreadable, no_objects, with_changes=False) == commit_entry(Commit(files=files))
    with pytest.raises(LedgerError, match="an entry of the shared log cannot be read"):
        decode(unreadable, no_objects)


def test_a_large_commit_is_in_objects_beside_the_log(monkeypatch):
    """An entry stays within what every store takes; without one of them, or with another, it is refused."""
    monkeypatch.setattr(entries, "MAX_OBJECT_BYTES", 400_000)
    data = random.Random(1).randbytes(1 << 20).hex().encode()
    entry = commit_entry(Commit(changes=[("INSERT", (b"k",))], files={ITEMS: FileGrowth(offset=0, data=data)}))
    content = commit_content(entry.commit)
    encoded = encode(EntryKind.COMMIT, OWNER, "", content)
    assert len(encoded) < 1000
    assert len(content.objects) == 3
    assert all(len(part) <= 400_000 for part in content.objects.values())
    assert decode(encoded, content.objects.get) == entry
    for name in content.objects:
        for wrong in (None, b"x"):
            with pytest.raises(LedgerError, match=f"lacks the object {name}"):
                decode(encoded, {**content.objects, name: wrong}.get)


@pytest.mark.parametrize(
    "wrong",
    [b"", b"x", ENDLESS, zstandard.compress(b"[]"), zstandard.compress(b'{"v":1}\n'), zstandard.compress(b"\xff")],
)
def test_an_entry_that_cannot_be_read_is_refused(wrong):
    """In words, whatever it holds."""
    with pytest.raises(LedgerError, match="an entry of the shared log cannot be read"):
        decode(wrong, no_objects)


_ENTRY = {
    "v": 1, "kind": "commit", "owner": {"id": "a", "name": "host", "lease_s": 1}, "previous": "",
    "statements": ["INSERT INTO t VALUES (?)"], "changes": [[0, [1]]], "files": {},
}  # fmt: skip


#: Values of another kind, by field.
_ODD: dict[str, list[Any]] = {
    "v": ["1", None],
    "kind": [7],
    "owner": [
        *([], {}, {"id": 1, "name": "", "lease_s": 1}),
        *({"id": "a", "name": "b", "lease_s": lease_s} for lease_s in ("x", -1, 1e300, None)),
    ],
    "statements": [5, [5], None, [[]]],
    "changes": [5, [5], [[0]], [[0, 5]], [[9, []]], [["0", []]], [[0, [{}]]], [[0, [{"hex": 5}]]]],
    "files": [[], 5, {"x": 5}, {"x": [None, 1]}, {"x": [0, "1"]}, {"x": [-1, 0]}, {"x": [0, 9]}],
    "objects": [5, [5], ["../x"], ["a\0b"], [None], {"x": 1}],
}


@pytest.mark.parametrize("change", [{name: value} for name, values in _ODD.items() for value in values])
def test_an_entry_of_another_shape_is_refused(change):
    """Whoever can write to the log chooses every field; none of them is a bug of this program."""
    with pytest.raises(LedgerError, match="an entry of the shared log cannot be read"):
        decode(zstandard.compress(orjson.dumps(_ENTRY | change) + b"\n"), no_objects)


def test_the_memory_of_an_entry_s_json_is_bounded(monkeypatch):
    """5 KB may hold 14 million changes. None is written that no reader takes; the first may hold a whole ledger."""
    monkeypatch.setattr(entries, "_MAX_PARSED_BYTES", 100_000)
    large, small = Commit(changes=[("DELETE FROM job", ())] * 1_000), Commit(changes=[("DELETE FROM job", ())] * 100)
    content = commit_content(large, is_first=True)
    encoded = encode(EntryKind.COMMIT, OWNER, "", content)
    assert decode(encoded, no_objects, is_first=True) == commit_entry(large)
    with pytest.raises(LedgerError, match="an entry of the shared log cannot be read: it would take"):
        decode(encoded, no_objects)
    with pytest.raises(LedgerError, match=r"is too large for the shared log; lower limits\.max_buffer_mb"):
        commit_content(large)
    assert decode(encode(EntryKind.COMMIT, OWNER, "", commit_content(small)), no_objects) == commit_entry(small)


def test_only_outside_of_a_fleet_a_log_may_begin_with_a_whole_ledger(tmp_path, monkeypatch):
    """In a fleet, whoever can write to the store begins logs, and each worker in turn reads their first entry."""
    monkeypatch.setattr(entries, "_MAX_PARSED_BYTES", 100_000)
    store = open_log(tmp_path / "store")
    large = commit_content(Commit(changes=[("DELETE FROM job", ())] * 1_000), is_first=True)
    assert store.append(0, encode(EntryKind.CLAIM, OWNER, "", large))
    for name in ("alone", "fleet"):
        (tmp_path / name).mkdir()
    with open_replica(store, tmp_path / "alone") as alone:
        assert alone.catch_up() == 1
    with (
        open_replica(store, tmp_path / "fleet", is_of_fleet=True) as in_fleet,
        pytest.raises(LedgerError, match="cannot be read: it would take"),
    ):
        in_fleet.catch_up()


def test_an_entry_names_no_more_objects_than_it_may_hold():
    """Their names compress well: 4 MB could be asked for millions of times."""
    part = zstandard.compress(b"x")
    names = [digest(part)] * 300
    for some, words in ((names, "it names too many objects"), (names[:2], "it names an object twice")):
        with pytest.raises(LedgerError, match=words):
            decode(zstandard.compress(orjson.dumps(_ENTRY | {"objects": some}) + b"\n"), {digest(part): part}.get)


def test_the_bytes_of_a_large_entry_are_never_held_whole():
    """A few kilobytes may hold 1 GB of them; so may an honest commit that has an OUTPUT of that size."""
    sizes = {RECORDS: 70 << 20, ITEMS: 30 << 20}
    files = {name: FileGrowth(offset=0, data=bytes(size)) for name, size in sizes.items()}
    encoded = encode(EntryKind.COMMIT, OWNER, "", commit_content(Commit(files=files)))
    del files
    tracemalloc.start()
    try:
        entry = decode(encoded, no_objects)
        assert {name: sum(map(len, each.pieces)) for name, each in entry.commit.files.items()} == sizes
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert entry.length > sum(sizes.values())


def small_entries_are_large(monkeypatch) -> None:
    """Let the rules for large entries hold for small ones."""
    for module, name in (
        (bounded_zstd, "_MAX_AT_ONCE_BYTES"),
        (entries, "_MAX_HELD_BYTES"),
        (followed_files, "MAX_WAITING_BYTES"),
    ):
        monkeypatch.setattr(module, name, 1_000)
    monkeypatch.setattr(entries, "_PIECE_BYTES", 700)


def large_commit(offset: int) -> Commit:
    """Return a commit with 11 KB for two files, which had a length before."""
    noise = random.Random(offset)
    return Commit(
        changes=[("INSERT INTO batch VALUES (?, ?)", (f"fact {offset}", "1"))],
        files={
            RECORDS: FileGrowth(offset=offset, data=noise.randbytes(6_000)),
            ITEMS: FileGrowth(offset=offset, data=noise.randbytes(5_000)),
        },
    )


def test_a_large_entry_is_written_piece_by_piece(tmp_path, monkeypatch):
    """The files are those of the owner, also where the objects of a commit hold it."""
    monkeypatch.setattr(entries, "MAX_ENTRY_BYTES", 100)
    commit, store = large_commit(0), open_log(tmp_path / "log")
    content = commit_content(commit)
    assert content.objects
    for name, part in content.objects.items():
        store.put_object(name, part)
    store.append(0, encode(EntryKind.COMMIT, OWNER, "", content))
    small_entries_are_large(monkeypatch)
    assert replay(store, tmp_path / "a") == 1
    files = contents(tmp_path / "a")
    assert {name: files[name] for name in commit.files} == {name: each.data for name, each in commit.files.items()}


@pytest.mark.parametrize("cut", [1, 4_000])
def test_a_large_entry_that_ends_early_leaves_nothing_that_counts(tmp_path, monkeypatch, cut):
    """Some of it was written before its damage was found: opening the directory again cuts it off."""
    small_entries_are_large(monkeypatch)
    store = open_log(tmp_path / "log")
    store.append(0, encode(EntryKind.COMMIT, OWNER, "", commit_content(large_commit(0)))[:-cut])
    for _ in range(2):
        with pytest.raises(LedgerError, match="an entry of the shared log cannot be read"):
            replay(store, tmp_path / "a")
    with open_replica(store, tmp_path / "a") as follower:
        assert follower.last is None
    files = contents(tmp_path / "a")
    assert (files[RECORDS], files[ITEMS]) == (b"", b"")


def test_the_name_of_an_owner_is_one_line():
    """It is printed, and whoever can write to the log has chosen it."""
    owner = {"id": "a", "name": "host\n100 succeeded" + "x" * 999, "lease_s": 1}
    name = decode(zstandard.compress(orjson.dumps(_ENTRY | {"owner": owner}) + b"\n"), no_objects).owner.name
    assert (name[:19], len(name.splitlines()), len(name)) == ("host 100 succeededx", 1, 200)


def test_an_entry_of_a_newer_version_is_refused():
    """The older program must not guess; nor does it know the columns of later tables."""
    for newer in (b'{"v":2,"kind":"commit"}\n', b'{"v":1,"tables":99,"kind":"commit"}\n'):
        with pytest.raises(LedgerError, match="written by a newer batchrun"):
            decode(zstandard.compress(newer), no_objects)


@pytest.mark.parametrize("fails", [["after"], ["before"], ["before", "after"], ["after", "before", "after"]])
def test_an_append_whose_answer_was_lost_is_made_once(tmp_path, monkeypatch, fails):
    """It is read back and compared; what was lost is sent again, under the same number."""
    monkeypatch.setattr(owned_log, "FIRST_WAIT_S", 0.0)
    store = UncertainStore(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    store.fails = fails
    first = log.append(Commit(changes=[("INSERT", (1,))]))
    second = log.append(Commit(changes=[("INSERT", (2,))]))
    assert (first.entry, second.entry) == (1, 2)
    assert [json_of(store, n)["changes"] for n in (1, 2)] == [[[0, [1]]], [[0, [2]]]]
    assert log.trouble == ""


def json_of(store: DirectoryStore, number: int) -> Any:
    """Return the header of an entry."""
    return json.loads(zstandard.ZstdDecompressor().decompress(store.read(number) or b"").partition(b"\n")[0])


def test_an_append_that_is_found_later_renews_no_lease(tmp_path, monkeypatch):
    """Its answer was lost, and it is read back: another owner may have claimed the log behind it."""
    now = boot_time()
    monkeypatch.setattr(owned_log, "boot_time", lambda: now)
    monkeypatch.setattr(owned_log, "FIRST_WAIT_S", 0.0)

    class Overtaken(UncertainStore):
        def append(self, number: int, entry: bytes) -> bool:
            nonlocal now
            try:
                return super().append(number, entry)
            except LogUnreachable:
                now += 61.0
                claim(open_log(tmp_path / "log"), tmp_path / "b", name="machine-2")
                raise

    store = Overtaken(tmp_path / "log")
    log = claim(store, tmp_path / "a", lease_s=60.0)
    store.fails = ["after"]
    log.append(Commit(changes=[("INSERT INTO batch VALUES ('x', '1')", ())]))
    assert not log.may_start()
    with pytest.raises(Superseded, match="machine-2"):
        log.beat()


def test_an_owner_that_was_overtaken_appends_nothing_more(tmp_path):
    """Its next number is taken: it learns by whom, and its commit has not happened anywhere."""
    store = open_log(tmp_path / "log")
    first = claim(store, tmp_path / "a")
    with open_ledger(tmp_path / "a", log=first) as ledger:
        with ledger.transaction():
            ledger.note_fact(JOB_COUNT, 1)
        claim(store, tmp_path / "b", name="machine-2")
        with pytest.raises(Superseded, match="machine-2 has taken the batch over"), ledger.transaction():
            ledger.note_fact(JOB_COUNT, 2)
        assert ledger.fact(JOB_COUNT) == 1
        assert not first.may_start()
        with pytest.raises(Superseded, match="machine-2"):
            first.append(Commit(changes=[("INSERT", ())]))
        with pytest.raises(Superseded):
            first.release()
    assert store.read(3) is None
    replay(store, tmp_path / "a")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_of_two_claims_one_is_accepted(tmp_path):
    """Two machines that claim at the same moment: the store decides."""
    store = open_log(tmp_path / "log")
    results = []
    barrier = threading.Barrier(2)

    def try_to(name):
        barrier.wait()
        results.append(store.append(0, name))

    threads = [threading.Thread(target=try_to, args=(name,)) for name in (b"1", b"2")]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(results) == [False, True]


def test_a_start_needs_an_append_that_is_younger_than_the_lease(tmp_path):
    """A machine that slept past its lease asks the log before it starts anything."""
    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    assert log.may_start()
    last = LogPosition(entry=0, digest=digest(store.read(0) or b""))
    slept = OwnedLog(store, OWNER, last, boot_time() - OWNER.lease_s - 0.1)
    assert not slept.may_start()
    slept.beat()
    assert slept.may_start()


def test_a_heartbeat_is_appended_once_nothing_else_was_for_a_while(tmp_path):
    """Another machine must hear of an owner that only waits."""
    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    log.beat()
    assert store.read(1) is None
    last = LogPosition(entry=0, digest=digest(store.read(0) or b""))
    OwnedLog(store, OWNER, last, boot_time() - OWNER.lease_s / 2).beat()
    assert json_of(store, 1)["kind"] == "heartbeat"


def test_a_process_that_ends_gives_a_lost_log_a_second_and_leaves(tmp_path, monkeypatch):
    """What it could not note is found again by the next process, and it appends nothing after that."""
    monkeypatch.setattr(owned_log, "LAST_TRIES_S", 0.0)
    monkeypatch.setattr(owned_log, "FIRST_WAIT_S", 0.01)
    store = UncertainStore(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    store.fails = ["before"] * 100
    log.give_up_soon()
    with pytest.raises(OutputError, match="the shared log cannot be reached: the request was lost"):
        log.append(Commit(changes=[("INSERT", ())]))
    sent = store.appends
    with pytest.raises(OutputError, match="cannot be reached"):
        log.release()
    assert store.appends == sent


def test_nothing_is_appended_once_a_commit_could_not_be_made_here(tmp_path):
    """This machine lacks an entry then; the next process replays it."""
    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    with open_ledger(tmp_path / "a", log=log) as ledger:
        with suppress(ZeroDivisionError), ledger.transaction():
            ledger.note_fact(ECHO, True)
            ledger.share({})
            raise ZeroDivisionError
        assert ledger.fact(ECHO) is None
        with pytest.raises(OutputError, match="could not be written here"), ledger.transaction():
            ledger.note_fact(ECHO, False)
    assert replay(store, tmp_path / "a") == 2
    with open_ledger(tmp_path / "a", log=log) as ledger:
        assert ledger.fact(ECHO) is True


def test_a_step_that_fails_before_it_is_shared_is_in_no_log(tmp_path):
    """Nor is it in the next commit."""
    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    with open_ledger(tmp_path / "a", log=log) as ledger:
        with suppress(ZeroDivisionError), ledger.transaction():
            ledger.note_fact(ECHO, True)
            raise ZeroDivisionError
        with ledger.transaction():
            ledger.note_fact(JOB_COUNT, 3)
    assert [change for _, change in json_of(store, 1)["changes"]] == [["job_count", "3"]]


def test_a_ledger_with_a_shared_log_is_not_written_without_it(tmp_path):
    """Another machine may own the batch."""
    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    with open_ledger(tmp_path / "a", log=log) as ledger, ledger.transaction():
        ledger.note_fact(ECHO, True)
    with pytest.raises(LedgerError, match="this batch has a shared log"), open_ledger(tmp_path / "a"):
        pass


def test_a_directory_follows_only_the_log_that_it_has_begun_with(tmp_path):
    """Another batch's log, or one that was emptied, would mix two batches."""
    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    with open_ledger(tmp_path / "a", log=log) as ledger, ledger.transaction():
        ledger.note_fact(ECHO, True)
    emptied = open_log(tmp_path / "other")
    with pytest.raises(LedgerError, match=r"the log at replica\.url does not have them"):
        replay(emptied, tmp_path / "a")
    other = claim(emptied, tmp_path / "b")
    other.append(Commit(changes=[]))
    with pytest.raises(LedgerError, match=r"the log at replica\.url does not have them"):
        replay(emptied, tmp_path / "a")


def begun_without_a_log(directory: Path) -> None:
    """Make a directory of a batch that has no log."""
    directory.mkdir()
    with open_ledger(directory) as ledger, ledger.transaction():
        ledger.note_fact(ECHO, True)
        ledger.note_output_lengths({RECORDS: 5})
        assert ledger.admit_bad_line(
            BadLine(position=Position(line=1, variant=0, offset=0, length=5), reason="", content="x")
        )
    (directory / RECORDS).write_bytes(b"12345")


def test_a_batch_that_was_begun_without_a_log_begins_one(tmp_path):
    """Its first claim carries all that there is. If its answer is lost, the next process knows it again."""
    begun_without_a_log(tmp_path / "a")
    store = UncertainStore(tmp_path / "log")
    store.fails = ["after"]
    with pytest.raises(LogUnreachable):
        claim(store, tmp_path / "a")
    assert replay(store, tmp_path / "b") == 1
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    log = claim(store, tmp_path / "a")
    with open_ledger(tmp_path / "a", log=log) as ledger, ledger.transaction():
        ledger.note_fact(JOB_COUNT, 7)
    replay(store, tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a")["job"]


def test_a_batch_that_was_begun_without_a_log_follows_no_other(tmp_path, monkeypatch):
    """Two batches would be mixed. One that is too large for a single entry is refused as well."""
    begun_without_a_log(tmp_path / "a")
    store = open_log(tmp_path / "log")
    claim(store, tmp_path / "b")
    with pytest.raises(LedgerError, match="names another batch's"):
        replay(store, tmp_path / "a")
    monkeypatch.setattr(first_commit, "MAX_UNLOGGED_BYTES", 4)
    with pytest.raises(LedgerError, match="run it to its end without"):
        claim(open_log(tmp_path / "empty"), tmp_path / "a")


@pytest.mark.parametrize(
    ("commit", "previous", "words"),
    [
        (Commit(), "0" * 64, "does not continue the entry before"),
        (Commit(files={RECORDS: FileGrowth(offset=9, data=b"x")}), "", "does not continue records.jsonl"),
        (Commit(files={"../x": FileGrowth(offset=0, data=b"x")}), "", "does not continue ../x"),
        (Commit(changes=[("ATTACH '/etc/x' AS x", ())]), "", "none of a ledger's statements"),
        (Commit(changes=[("INSERT INTO nowhere VALUES (1)", ())]), "", "no such table"),
        (Commit(changes=[("INSERT INTO batch VALUES (?, ?)", (1,))]), "", "a statement that no ledger makes"),
        (Commit(changes=[("INSERT INTO batch VALUES (?, ?)", ("x", 1 << 63))]), "", "a statement that no ledger makes"),
        (Commit(changes=[("INSERT INTO batch VALUES (?, ?)", ("x", [1]))]), "", "."),
        (Commit(changes=[("INSERT INTO batch VALUES (1, 2); DELETE FROM job", ())]), "", "."),
        *(
            (Commit(changes=[(f"INSERT INTO batch {foreign}", ())]), "", "a statement that no ledger makes")
            for foreign in (
                "WITH RECURSIVE n AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT 'x', count(*) FROM n",
                "VALUES ('x', load_extension('/tmp/x.so'))",
                "VALUES ('x', zeroblob(1000000000))",
                "VALUES ('x', printf('%.1000000000c', '*'))",
                "SELECT name, sql FROM sqlite_schema",
                "SELECT name, type FROM pragma_table_info('job')",
                "VALUES ('x', 1) RETURNING sqlite_version()",
            )
        ),
        (Commit(changes=[("DELETE FROM sqlite_schema", ())]), "", "a statement that no ledger makes"),
    ],
)
def test_a_damaged_log_is_refused_and_changes_nothing(tmp_path, commit, previous, words):
    """An entry that does not fit what is there, or that no batchrun writes."""
    store = open_log(tmp_path / "log")
    claim(store, tmp_path / "a")
    previous = previous or digest(store.read(0) or b"")
    assert store.append(1, encode(EntryKind.COMMIT, OWNER, previous, commit_content(commit)))
    with pytest.raises(LedgerError, match=words):
        replay(store, tmp_path / "b")


def test_a_statement_without_an_end_is_given_up(tmp_path, monkeypatch):
    """It could keep a machine busy, and a person's Ctrl-C waiting, for years; a value that grows is refused as well."""
    monkeypatch.setattr(foreign_statements, "MAX_STEPS", 5_000_000)
    monkeypatch.setattr(foreign_statements, "MAX_VALUE_BYTES", 100_000)
    log = claim(open_log(tmp_path / "log"), tmp_path / "a")
    log.append(Commit(changes=[("INSERT INTO batch VALUES (?, ?)", (f"x{n}", "y" * 90_000)) for n in range(30)]))
    replay(open_log(tmp_path / "log"), tmp_path / "b")
    every = ", ".join(f"batch AS t{n}" for n in range(6))
    log.append(Commit(changes=[(f"UPDATE batch SET value = (SELECT max(t0.name || t5.name) FROM {every})", ())]))
    with pytest.raises(LedgerError, match="a statement that no ledger makes: interrupted"):
        replay(open_log(tmp_path / "log"), tmp_path / "b")
    monkeypatch.setattr(foreign_statements, "MAX_STEPS", 1 << 60)
    monkeypatch.setattr(foreign_statements, "has_room", lambda _: False)  # what is joined has filled the disk
    with pytest.raises(LedgerError, match="a statement that no ledger makes: interrupted"):
        replay(open_log(tmp_path / "log"), tmp_path / "b")
    log = claim(open_log(tmp_path / "other"), tmp_path / "c")
    log.append(Commit(changes=[("INSERT INTO batch VALUES ('x', ?)", ("y" * 90_000,))]))
    log.append(Commit(changes=[("UPDATE batch SET value = value || value", ())]))
    with pytest.raises(LedgerError, match="a statement that no ledger makes: string or blob too big"):
        replay(open_log(tmp_path / "other"), tmp_path / "d")


@pytest.mark.parametrize(("column", "value"), [("line", "x"), ("round", 0.5), ("admitted_at", 1e300), ("key", b"k")])
def test_a_log_with_values_of_another_kind_is_not_claimed(tmp_path, column, value):
    """Readers of a ledger would stumble over them; reports would end as bugs of this program."""
    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    row = {"id": 1, "key": "k", "digest": b"d", "line": 1, "variant": 0, "offset": 0, "length": 2, "admitted_at": 1.0}
    names, marks = ", ".join(f'"{name}"' for name in row), ", ".join(f":{name}" for name in row)
    log.append(Commit(changes=[(f"INSERT INTO job ({names}) VALUES ({marks})", row)]))
    claim(store, tmp_path / "b")
    other = open_log(tmp_path / "other")
    log = claim(other, tmp_path / "c")
    log.append(Commit(changes=[(f"INSERT INTO job ({names}) VALUES ({marks})", row)]))
    log.append(Commit(changes=[(f"UPDATE job SET {column} = ?", (value,))]))
    with pytest.raises(LedgerError, match="a value of another kind into job"):
        claim(other, tmp_path / "d")


@pytest.mark.parametrize("lost", [0, 1])
def test_a_log_that_lacks_an_entry_is_not_claimed(tmp_path, lost):
    """A claim in the gap would make a second owner, or begin the batch again."""
    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    for _ in range(2):
        log.append(Commit(changes=[("INSERT INTO batch VALUES ('x', '1') ON CONFLICT DO NOTHING", ())]))
    (tmp_path / "log" / "log" / f"{lost:012}.zst").unlink()
    with pytest.raises(LedgerError, match=f"lacks entry {lost}, but has later ones"):
        claim(store, tmp_path / "b")
    assert store.read(lost) is None


@pytest.mark.parametrize("open_one", [open_log, lambda _: BucketStore(MemoryStore(), "s3://b/p")])
def test_what_nobody_here_writes_is_not_read_into_memory(tmp_path, monkeypatch, open_one):
    """A giant entry or object is as good as damaged; those beside it are read."""
    for home in (directory_store, bucket_store):
        monkeypatch.setattr(home, "MAX_READ_ENTRY_BYTES", 10)
        monkeypatch.setattr(home, "MAX_READ_OBJECT_BYTES", 20)
    store = open_one(tmp_path / "log")
    for number, size in enumerate((10, 11, 1)):
        store.append(number, b"x" * size)
        store.put_object(str(number), b"x" * 2 * size)
    assert [*map(len, store.read_from(0))] == [10, 0, 1]
    assert [len(store.get_object(str(number)) or b"") for number in range(3)] == [20, 0, 2]


def test_a_log_does_not_fill_the_disk_of_those_who_follow_it(tmp_path, monkeypatch):
    """An entry of some KB may hold a GB."""
    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    log.append(Commit(files={RECORDS: FileGrowth(offset=0, data=b"x" * (RESERVED_BYTES >> 4))}))
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Disk(free=RESERVED_BYTES))
    with pytest.raises(OutputError, match="the disk is too full to follow the shared log"):
        replay(store, tmp_path / "b")
    assert contents(tmp_path / "b")[RECORDS] == b""


@dataclass
class _Disk:
    free: int
    total: int = 1 << 40


def test_a_bucket_that_ignores_the_condition_of_a_put_is_refused():
    """Two machines could own the batch there."""

    class Overwriting(BucketStore):
        def _create(self, path: str, content: bytes) -> bool:
            obstore.put(self._store, path, content)
            return True

    with pytest.raises(ConfigError, match="two machines could own the batch"):
        Overwriting(MemoryStore(), "s3://shop").append(0, b"x")
    store = BucketStore(MemoryStore(), "s3://shop")
    assert (store.append(1, b"x"), store.append(1, b"x")) == (True, False)
    assert (store.has_later(0), store.has_later(1)) == (True, False)


def test_a_directory_that_is_gone_is_no_empty_log(tmp_path):
    """A mount that went away must not look like a batch that nobody has begun."""
    store = open_log(tmp_path / "log")
    (tmp_path / "log").rename(tmp_path / "gone")
    with pytest.raises(LogUnreachable):
        store.read(0)
    with pytest.raises(LogUnreachable):
        store.append(0, b"x")


@pytest.mark.parametrize("linked", ["log", "objects", "."])
def test_no_link_in_a_shared_log_leads_to_another_directory(tmp_path, linked):
    """Whoever can write to the log would choose where this user's files are written, and which are deleted."""
    place, aim = tmp_path / "shop", precious(tmp_path)
    place.mkdir()
    if linked == ".":
        place.rmdir()
    (place / linked).symlink_to(aim)
    with pytest.raises(LedgerError, match=f"{(place / linked)}: it is a symbolic link"), open_store(f"file://{place}"):
        pass
    assert names_in(aim) == [".new-draft"]


def test_no_link_in_the_place_of_a_log_of_several_leads_to_another_directory(tmp_path):
    """Neither when it is made, nor when a batch of a fleet opens it."""
    place, aim = tmp_path / "fleet", precious(tmp_path)
    place.mkdir()
    (place / "batch-a").symlink_to(aim)
    (tmp_path / "mount").symlink_to(place)  # the place itself is as its user names it
    url = f"file://{tmp_path}/mount"
    for open_one in (open_part(url, "batch-b"), open_store(part_url(url, "batch-b"))):
        with open_one as store:
            store.append(0, b"x")
    with pytest.raises(LedgerError, match="mount/batch-a: it is a symbolic link"), open_part(url, "batch-a"):
        pass
    with pytest.raises(LedgerError, match="batch-a: it is a symbolic"), open_store(part_url(url, "batch-a")):
        pass
    assert names_in(aim) == [".new-draft"]


@pytest.mark.parametrize("linked", ["log", "objects", "."])
def test_a_link_that_comes_while_a_batch_runs_ends_it(tmp_path, linked):
    """At once, as no wait mends it; nothing is written or deleted where it leads."""
    store, aim = open_log(tmp_path / "shop"), precious(tmp_path)
    log = claim(store, tmp_path / "a")
    (tmp_path / "shop" / linked).rename(tmp_path / "moved")
    (tmp_path / "shop" / linked).symlink_to(aim)
    large = Commit(files={RECORDS: FileGrowth(offset=0, data=random.Random(1).randbytes(MAX_ENTRY_BYTES))})
    for _ in range(2):
        with pytest.raises(LedgerError, match="it is a symbolic link"):
            log.append(large)
    assert not log.may_start()
    if linked != "objects":
        with pytest.raises(LedgerError, match="it is a symbolic link"):
            store.has_later(0)
    assert names_in(aim) == [".new-draft"]


def test_a_link_in_the_place_of_a_file_that_is_not_whole_brings_nothing_into_the_log(tmp_path, monkeypatch):
    """It comes in the moment before the file gets its name, and leads to a secret of this user."""
    store, secret = open_log(tmp_path / "shop"), tmp_path / "secret"
    secret.write_text("secret")
    sync = os.fsync

    def sync_and_swap(descriptor: int) -> None:
        sync(descriptor)
        for beside in (tmp_path / "shop/log").glob(".new-*"):
            beside.unlink()
            beside.symlink_to(secret)

    monkeypatch.setattr(os, "fsync", sync_and_swap)
    store.append(0, b"x")
    assert store.read(0) == b""
    assert secret.stat().st_nlink == 1


def precious(tmp_path: Path) -> Path:
    """Return a directory of the user with a file that looks like one that a killed process has left."""
    (tmp_path / "aim").mkdir()
    (tmp_path / "aim/.new-draft").touch()
    os.utime(tmp_path / "aim/.new-draft", (0, 0))
    return tmp_path / "aim"


def names_in(directory: Path) -> list[str]:
    """Return the names of all files in a directory."""
    return [each.name for each in directory.iterdir()]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/x", "is no kind of store"),
        ("batches/shop", "is no kind of store"),
        ("file://host/x", "must be like file:///"),
        ("file:///", "must be like file:///"),
        ("nats://host:4222", "needs a name"),
        ("nats://host:4222/a.b", "needs a name"),
        ("nats://host:4222/shop?copies=3", "there are .replicas=3"),
        ("nats://host:4222/shop?token=hers-7", "replica.url: has a .parameter that is not known"),
        ("nats://me:secret@host:4222/shop", "must hold no password"),
        ("s3://", "replica.url"),
        ("s3://[::1/x", "Invalid IPv6 URL; write it like s3://"),
        ("s3://KEY:secret@b/x", "must hold no key"),
        ("gs://secret@b/x", "must hold no key"),
        ("s3://b/x?X-Amz-Signature=secret", "must hold no key"),
    ],
)
def test_a_url_that_names_no_store_is_refused_with_those_that_there_are(url, words):
    """Before anything is started."""
    with pytest.raises(ConfigError, match=words), open_store(url):
        pass


def test_a_directory_that_does_not_exist_begins_no_log(tmp_path):
    """A machine without the mount would begin the batch again, and pay for every Run twice."""
    url = f"file://{tmp_path}/not-mounted/shop"
    with pytest.raises(LogUnreachable, match="Is it mounted"), open_store(url):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_may_be_read_and_not_written_is_said_at_once(tmp_path):
    """No process waits in silence for a log that it cannot claim."""
    store = UncertainStore(tmp_path / "log")
    store.fails = ["before"]
    with open_replica(store, tmp_path) as following, pytest.raises(LogUnreachable, match="the request was lost"):
        Claimant(following, 20.0).look()


@pytest.mark.parametrize("answer", ["refused", "lost"])
def test_a_claim_that_came_second_waits_for_the_new_owner(tmp_path, answer):
    """However long the log was silent before: the owner that was first is alive."""
    other = open_log(tmp_path / "log")
    claim(other, tmp_path / "a", lease_s=0.0)
    (tmp_path / "b").mkdir()

    class Second(DirectoryStore):
        def append(self, number: int, entry: bytes) -> bool:
            claim(other, tmp_path / "c", name="machine-3")
            if answer == "lost":
                raise LogUnreachable("the answer was lost")
            return super().append(number, entry)

    with open_replica(Second(tmp_path / "log"), tmp_path / "b") as second:
        standby = Claimant(second, 0.0)
        assert standby.look() == Standby(owner="machine-3", takes_over_after_s=60.0 * SILENT_LEASES)
    assert other.read(2) is None


def test_a_standby_says_that_the_log_is_out_of_reach_and_takes_over_later(tmp_path):
    """While nobody can be heard, silence proves nothing."""
    store = open_log(tmp_path / "log")
    claim(store, tmp_path / "a", lease_s=0.0)
    (tmp_path / "b").mkdir()
    with open_replica(store, tmp_path / "b") as replica:
        standby = Claimant(replica, 0.2)
        assert standby.look() == Standby(owner="machine-1", takes_over_after_s=0.2 * SILENT_LEASES)
        log = tmp_path / "log"
        log.rename(tmp_path / "away")
        time.sleep(0.4)
        found = standby.look()
        assert isinstance(found, Standby)
        assert "No such file" in found.trouble
        (tmp_path / "away").rename(log)
        assert isinstance(standby.look(), Standby)
        while isinstance(standby.look(), Standby):
            time.sleep(0.02)


class Unreadable(DirectoryStore):
    """A store that does not answer for a while; `shows` entries are read before it fails."""

    fails = False
    shows = 0

    def read(self, number: int) -> bytes | None:
        if self.fails and number >= self.shows:
            raise LogUnreachable("no answer")
        return super().read(number)


@pytest.fixture
def standby(tmp_path, monkeypatch) -> Iterator[tuple[Callable[[float], OwnedLog | Standby], Unreadable]]:
    """Return what looks at a log at some second, with a lease of 20 s, and its store; the owner is silent after 0 s."""
    now = 0.0
    monkeypatch.setattr(standby_module, "boot_time", lambda: now)
    claim(open_log(tmp_path / "log"), tmp_path / "a", lease_s=20.0)
    store = Unreadable(tmp_path / "log")
    (tmp_path / "b").mkdir()
    with open_replica(store, tmp_path / "b") as replica:
        claimant = Claimant(replica, 20.0)

        def look(at: float) -> OwnedLog | Standby:
            nonlocal now
            now = at
            return claimant.look()

        assert isinstance(look(0.0), Standby)
        yield look, store


def test_a_look_that_fails_does_not_begin_the_wait_anew(standby):
    """Only the time around it does not count: 14 s before and 16 s after it are the 30 s of silence."""
    look, store = standby
    assert isinstance(look(14.0), Standby)
    store.fails = True
    look(16.0)
    store.fails = False
    look(18.0)
    assert isinstance(look(33.5), Standby)
    assert isinstance(look(34.0), OwnedLog)


def test_silence_while_the_log_is_out_of_reach_does_not_count(standby):
    """Its owner may have been cut off as well: once the store is back, it is to be heard before it is replaced."""
    look, store = standby
    store.fails = True
    for at in range(1, 1000):
        look(float(at))
    store.fails = False
    assert isinstance(look(1000.0), Standby)
    assert isinstance(look(1029.5), Standby)
    assert isinstance(look(1030.0), OwnedLog)


def test_an_owner_that_is_heard_of_within_a_look_that_fails_is_not_silent(standby, tmp_path):
    """The entry was read, and the store failed after it."""
    look, store = standby
    assert isinstance(look(29.0), Standby)
    store.fails, store.shows = True, 2
    entry = encode(EntryKind.HEARTBEAT, OWNER, digest(store.read(0) or b""))
    assert store.append(1, entry)
    look(29.5)
    store.fails = False
    assert isinstance(look(30.0), Standby)
    assert isinstance(look(59.5), Standby)
    assert isinstance(look(60.0), OwnedLog)


def test_a_store_that_fails_in_the_middle_is_caught_up_with_in_steps(tmp_path):
    """What was read is kept, or a store that fails often would never be caught up with."""

    class Failing(DirectoryStore):
        def read(self, number: int) -> bytes | None:
            if number == 3:
                raise LogUnreachable("no answer")
            return super().read(number)

    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    with open_ledger(tmp_path / "a", log=log) as ledger:
        for count in range(4):
            with ledger.transaction():
                ledger.note_fact(JOB_COUNT, count)
    with pytest.raises(LogUnreachable):
        replay(Failing(tmp_path / "log"), tmp_path / "b")
    with open_ledger(tmp_path / "b", log=log) as ledger:
        assert ledger.fact(JOB_COUNT) == 1
    assert replay(store, tmp_path / "b") == 2


def test_a_first_replay_that_is_cut_short_is_resumed(tmp_path, monkeypatch):
    """The files are written before the ledger's commit; what was not committed is cut off."""
    store = open_log(tmp_path / "log")
    log = claim(store, tmp_path / "a")
    log.append(Commit(files={RECORDS: FileGrowth(offset=0, data=b"12345")}))
    with monkeypatch.context() as killed:
        killed.setattr(LedgerTables, "note_fact", _killed)
        with pytest.raises(KeyboardInterrupt):
            replay(store, tmp_path / "b")
    (tmp_path / "b" / RECORDS).write_bytes(b"123")
    replay(store, tmp_path / "b")
    assert contents(tmp_path / "b")[RECORDS] == b"12345"


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_long_log_is_read_from_packs(tmp_path, monkeypatch):
    """A pack repeats entries as they are; larger ones, and those after the last pack, are read one by one."""
    monkeypatch.setattr(packs, "ENTRIES_PER_PACK", 5)
    monkeypatch.setattr(packs, "MAX_PACKED_BYTES", 400)
    store, reads = open_log(tmp_path / "log"), list[int]()
    log = claim(store, tmp_path / "a")
    with open_ledger(tmp_path / "a", log=log) as ledger:
        for count in range(16):
            with ledger.transaction():
                ledger.note_fact(JOB_COUNT, count)
                if count == 7:
                    ledger.note_json("config", json.dumps(random.Random(1).randbytes(500).hex()))
    packer = Packer(store)
    while packer.make_next(log.last.entry + 1):
        pass
    assert len(list((tmp_path / "log" / "objects").glob("pack-*"))) == 3
    assert not Packer(store).make_next(log.last.entry + 1)

    class Counting(DirectoryStore):
        def read(self, number: int) -> bytes | None:
            reads.append(number)
            return super().read(number)

    assert replay(Counting(tmp_path / "log"), tmp_path / "b") == 17
    assert sorted(reads) == [8, 15, 16, 17]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    (tmp_path / "log" / "objects" / "pack-000000001.zst").write_bytes(b"x")
    with pytest.raises(LedgerError, match="pack-000000001 of the shared log is damaged"):
        replay(store, tmp_path / "c")


def test_heartbeats_go_on_while_a_large_commit_is_sent(tmp_path):
    """A slow line must not cost the owner its lease."""
    is_sending, may_go_on = threading.Event(), threading.Event()

    class Slow(DirectoryStore):
        def put_object(self, name: str, content: bytes) -> None:
            is_sending.set()
            assert may_go_on.wait(60)
            super().put_object(name, content)

    open_log(tmp_path / "log")
    log = claim(Slow(tmp_path / "log"), tmp_path / "a", lease_s=0.0)
    data = random.Random(1).randbytes(MAX_ENTRY_BYTES * 2)
    thread = threading.Thread(target=log.append, args=[Commit(changes=[("INSERT", (data,))])])
    thread.start()
    assert is_sending.wait(60)
    log.beat()
    assert log.last.entry == 1
    may_go_on.set()
    thread.join()
    assert log.last.entry == 2


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"sync_always": True, "sync_interval": 120_000_000_000}, ""),
        ({"sync_interval": 120_000_000_000}, "every 120 s only"),
        (None, "is unknown, since http://127.0.0.1:"),
    ],
)
def test_nats_servers_that_may_lose_acknowledged_entries_are_named(config, words):
    """What a server's monitoring says of it; without an answer, that it is unknown."""

    class Monitor(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if config else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"jetstream": {"config": config}}).encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Monitor) as server:
        threading.Thread(target=server.handle_request).start()
        monitor = f"http://127.0.0.1:{server.server_address[1]}"
        unused: Any = None
        store = nats_store.NatsStore(unused, unused, "batchrun-shop", [monitor])
        caution = store.caution()
    assert (words in caution, bool(caution)) == (True, bool(words))


@pytest.mark.parametrize("drop", [b"x", b"\r\nX: y"])
def test_a_monitoring_port_that_drips_holds_up_no_batch(monkeypatch, drop):
    """Any program may have taken the port: one that sends a bit now and then, without an end, counts as silent."""
    monkeypatch.setattr(nats_store, "_MONITOR_S", 0.2)
    is_over = threading.Event()

    def drip(listener: socket.socket) -> None:
        client, _ = listener.accept()
        with client, suppress(OSError):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n")
            while not is_over.wait(0.05):
                client.sendall(drop)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=[listener], daemon=True)
        dripping.start()
        assert nats_store._synced_every_s(f"http://127.0.0.1:{listener.getsockname()[1]}") is None
        is_over.set()
        dripping.join()


def test_a_refused_entry_that_does_not_show_is_no_sign_of_another_owner(tmp_path, monkeypatch):
    """An earlier try can still be under way in the store, whose answer was lost: it shows a moment later."""
    monkeypatch.setattr(owned_log, "FIRST_WAIT_S", 0.0)

    class Late(DirectoryStore):
        hidden = 0

        def append(self, number: int, entry: bytes) -> bool:
            if number == 1 and not self.hidden:
                self.hidden = 2
                super().append(number, entry)
                raise LogUnreachable("the answer was lost")
            return super().append(number, entry)

        def read(self, number: int) -> bytes | None:
            self.hidden -= self.hidden > 0
            return None if self.hidden else super().read(number)

    open_log(tmp_path / "log")
    log = claim(Late(tmp_path / "log"), tmp_path / "a")
    assert log.append(Commit(changes=[("INSERT", ())])).entry == 1


def test_a_password_in_the_address_of_a_bucket_is_in_no_error(monkeypatch):
    """The error names the address, and stands in logs and on the page."""
    monkeypatch.setattr(bucket_store, "_MAX_RETRIES", 0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "known")
    monkeypatch.setenv("AWS_ENDPOINT", "http://shop:known-to-nobody@127.0.0.1:1")
    with open_store("s3://shop/log") as store:
        for look in (lambda: store.read(0), lambda: store.has_later(0), lambda: store.append(0, b"")):
            with pytest.raises(LogUnreachable, match=r"http://\*\*\*@127\.0\.0\.1:1/") as raised:
                look()
            assert "known-to-nobody" not in str(raised.value)


@pytest.mark.parametrize(
    "address",
    [
        *("http://me:SEC/RET@127.0.0.1:1", "", "127.0.0.1:1", "http://", "http://[::1", "http://h:1/a b", "http://ü"),
        *("http://127.0.0.1:1/x?k=SECRET", "http://127.0.0.1:1/x#SECRET"),
    ],
)
def test_an_address_in_the_environment_that_is_none_is_said_without_its_password(monkeypatch, address):
    """The client of the bucket would end the process with a traceback."""
    monkeypatch.setenv("AWS_ENDPOINT", address)
    with pytest.raises(ConfigError, match=r"^AWS_ENDPOINT is no address like") as raised, open_store("s3://shop/log"):
        pass
    assert "RET" not in str(raised.value)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "shop")
    with open_store("az://shop/log"):
        pass  # that client does not read it


def test_a_slow_name_server_holds_up_no_end_of_a_nats_client(monkeypatch):
    """The look-up is given up with the connection; the process that ends waits for neither."""
    monkeypatch.setattr(nats_store, "_CONNECT_S", 0.1)
    said = list[str]()

    def connect() -> None:
        with pytest.raises(LogUnreachable) as raised, open_store("nats://slow.test:4222/shop"):
            pass
        said.append(str(raised.value))

    with slow_names() as asked:
        process = threading.Thread(target=connect)
        process.start()
        process.join(20)
        assert (asked, said) == (["slow.test"], ["NATS stream batchrun-shop: no answer"])
    process.join()


def test_a_nats_server_that_does_not_answer_is_said(monkeypatch):
    """Its client would try for ever."""
    monkeypatch.setattr(nats_store, "_CONNECT_S", 0.2)
    with (
        pytest.raises(LogUnreachable, match=r"NATS stream batchrun-shop: .*Connect call failed"),
        open_store("nats://127.0.0.1:1/shop"),
    ):
        pass


@pytest.mark.parametrize(("host", "is_sent"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_a_nats_password_goes_to_another_machine_by_tls_only(monkeypatch, host, is_sent):
    """Everybody on the way would read it; the server, or who leaves that out of its answer, says if there is TLS."""
    monkeypatch.setattr(nats_store, "_CONNECT_S", 1)
    monkeypatch.setattr(nats_store, "_CREATED_IN_S", 0.1)
    monkeypatch.setenv("NATS_USER", "shop")
    monkeypatch.setenv("NATS_PASSWORD", "known to nobody")
    came: list[bytes] = []

    def answer() -> None:
        connection, _ = server.accept()
        server.close()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b'INFO {"auth_required":true}\r\n')
            came.append(lines.readline())

    with socket.create_server(("127.0.0.1", 0)) as server:
        listener = threading.Thread(target=answer)
        listener.start()
        url = f"nats://{host}:{server.getsockname()[1]}/shop"
        with pytest.raises(LogUnreachable) as raised, open_store(url):
            pass
        listener.join()
    assert b"known to nobody" in came[0] if is_sent else came == [b""]
    assert ("offers no TLS" in str(raised.value)) is not is_sent


@pytest.mark.parametrize(("host", "is_refused"), [("127.0.0.1", False), ("nats.example", True)])
def test_a_session_of_nats_credentials_is_opened_by_tls_only(host, is_refused):
    """Whoever is on the way could take TLS out of the greeting, pass the signature on, and have the session."""
    client = nats_store._CarefulClient()
    client._user_credentials = "a.creds"
    client.options["password"] = None
    client._current_server = Srv(urlparse(f"nats://{host}:4222"))
    client._server_info = {}
    with pytest.raises((NatsError, KeyError)) as raised:  # KeyError: this one goes on, and has no other options
        client._connect_command()
    assert ("offers no TLS" in str(raised.value)) is is_refused


def test_a_package_that_credentials_of_nats_need_is_named(monkeypatch):
    """The client says that it is not connected."""
    monkeypatch.setenv("NATS_CREDS", "a.creds")
    monkeypatch.setattr(nats_store, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install nkeys"), open_store("nats://127.0.0.1:1/shop"):
        pass


async def test_a_nats_server_brings_in_no_others():
    """Whoever answers in its place, before TLS, could name one that has a certificate for a name of its own."""

    async def answer(connection: SocketStream) -> None:
        async with connection:
            await connection.send(b'INFO {"connect_urls":["other.example:4222"]}\r\n')
            await connection.receive()
            await connection.send(b"PONG\r\n")
            await connection.receive()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    address = f"nats://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
    async with listener, anyio.create_task_group() as children:
        children.start_soon(listener.serve, answer)
        client = nats_store._CarefulClient()
        await client.connect([address])
        assert [server.geturl() for server in client.servers] == [address]
        await client.close()
        children.cancel_scope.cancel()
