"""The list of a fleet, to which somebody else can write, too."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import structlog
import zstandard
from structlog.testing import capture_logs

from batchrun.errors import OutputError
from batchrun.ledger.shared_log.directory_store import DirectoryStore
from batchrun.runtime.free_space import RESERVED_BYTES
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.fleet.fleet import Fleet
from batchrun.worker.fleet.fleet_list import MAX_PIECES, PIECE_BYTES, FleetList
from batchrun.worker.fleet.fleet_members import MAX_MEMBERS, Page
from batchrun.worker.fleet.shared_page import SharedPage

CONTENT = zstandard.compress(b"[notify]\ncommand = 'id'\n")
PIECE = sha256(CONTENT).hexdigest()
GOOD: dict[str, Any] = {
    "id": "good", "name": "good", "created_at": "2026-01-01T00:00:00Z", "batch_file": "batch.toml",
    "jobs_file": "jobs.csv.gz", "schema_file": "item.schema.json",
}  # fmt: skip
FILES = {name: [PIECE] for name in ("batch.toml", "jobs.csv.gz", "item.schema.json")}


def entry(files: Mapping[str, list[str]] = FILES, **changes: Any) -> bytes:
    """Encode an entry."""
    return zstandard.compress(json.dumps({"submission": {**GOOD, **changes}, "files": files}).encode())


def with_file(field: str, name: str) -> bytes:
    """Encode an entry that has one of its files under another name."""
    return entry({name if each == GOOD[field] else each: [PIECE] for each in FILES}, **{field: name})


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """An empty store, with one piece of a file."""
    (tmp_path / "store").mkdir()
    made = DirectoryStore(tmp_path / "store")
    made.prepare()
    made.put_object(PIECE, CONTENT)
    return made


BAD = {
    "a file outside": entry({**FILES, "../../worker.toml": [PIECE]}),
    "an absolute file": entry({**FILES, "/tmp/worker.toml": [PIECE]}),
    "the worker's own note": entry({**FILES, "submission.json": [PIECE]}),
    "a file that is not there": entry({name: [PIECE] for name in FILES if name != "jobs.csv.gz"}),
    "a job file outside": with_file("jobs_file", "../../jobs.csv"),
    "a job file under another name": with_file("jobs_file", "jobs.csv/../../x"),
    "a batch file outside": with_file("batch_file", "../../worker.toml"),
    "no batch file": entry({name: [PIECE] for name in FILES if name != "batch.toml"}, batch_file=None),
    "a schema outside": with_file("schema_file", "/etc/passwd"),
    "a profile": entry(profile="shop"),
    "the spool": entry(spooled="../../x.toml"),
    "an object outside": entry({**FILES, "batch.toml": ["../../x"]}),
    "an id outside": entry(id="../x"),
    "a batch file of 16 MB": entry({**FILES, "batch.toml": [PIECE] * 2}),
    "a job file without an end": entry({**FILES, "jobs.csv.gz": [PIECE] * (MAX_PIECES + 1)}),
    "a long name": entry(name="x" * 300),
    "a name that controls a terminal": entry(name="a\x1b[2Jb"),
    "a long key": entry(idempotency_key="x" * 300),
    "a setting of many parts": entry(settings={".".join("a" * 17): 1}),
    "a time without its zone": entry(created_at="2026-01-01T00:00:00"),
    "a cost without an end": entry(counts={"cost_usd": 1.7e308}),
    "a count without an end": entry(counts={"jobs": 10**400}),
    "no entry": b"garbage",
    "no JSON": zstandard.compress(b"{"),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_an_entry_that_leads_out_of_its_directory_is_skipped(store: DirectoryStore, bad: bytes) -> None:
    """One line names it; the batches before and after it are there."""
    for number, each in enumerate((entry(), bad, entry(id="later"))):
        store.append(number, each)
    batches = FleetList(store)
    structlog.reset_defaults()
    with capture_logs() as said:
        assert batches.read().keys() == batches.read().keys() == {"good", "later"}
    assert [(each["event"], each["entry"]) for each in said] == [("fleet_entry_skipped", 1)]


def deleted(**changes: Any) -> bytes:
    """Encode an entry that deletes a batch."""
    return zstandard.compress(json.dumps({"submission": {**GOOD, **changes}, "files": FILES, "deleted": True}).encode())


WHOLE = entry(id="s", shards=2)
IN_SHARDS = {"s", "s-1", "s-2"}


@pytest.mark.parametrize(
    ("entries", "skipped", "left"),
    [
        ([WHOLE, deleted(id="s-1")], [1], IN_SHARDS),
        ([WHOLE, deleted(id="s-1", part_of="s")], [1], IN_SHARDS),
        ([WHOLE, entry(id="s-1"), deleted(id="s-1")], [1, 2], IN_SHARDS),
        ([entry(id="s-1"), deleted(id="s-1"), WHOLE], [2], set[str]()),
        ([entry(id="s-1"), WHOLE], [1], {"s-1"}),
        ([WHOLE, entry(id="s", shards=3)], [1], IN_SHARDS),
        ([WHOLE, deleted(id="s")], [1], IN_SHARDS),
        ([WHOLE, deleted(id="s", shards=2), WHOLE], [], set[str]()),
    ],
)
def test_no_entry_takes_a_part_from_a_batch_in_shards(
    store: DirectoryStore, entries: list[bytes], skipped: list[int], left: set[str]
) -> None:
    """A worker would miss it at each turn; whoever has deleted a batch in shards has deleted its parts."""
    for number, each in enumerate(entries):
        store.append(number, each)
    structlog.reset_defaults()
    with capture_logs() as said:
        assert FleetList(store).read().keys() == left
    assert [each["entry"] for each in said] == skipped


def test_the_files_of_a_batch_are_brought_into_its_directory(store: DirectoryStore, tmp_path: Path) -> None:
    """All of them, and nothing else."""
    store.append(0, entry())
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    batches = FleetList(store)
    fleet = Fleet(f"file://{tmp_path / 'store'}", 10.0, SharedPage(store), batches, directory)
    fleet.prepare(batches.read()["good"])
    brought = directory.of("good")
    assert {each.name for each in brought.iterdir()} == FILES.keys()
    assert (brought / "batch.toml").read_bytes() == zstandard.decompress(CONTENT)


def test_a_file_that_would_fill_the_disk_is_not_begun(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One small object, named again and again, has no more room than the disk."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: _Disk(free=RESERVED_BYTES + 29 * PIECE_BYTES))
    batches = FleetList(store)
    with pytest.raises(OutputError, match="the disk is too full"):
        batches.get_file([PIECE] * 30, tmp_path / "jobs.csv")
    assert [each.name for each in tmp_path.iterdir()] == ["store"]
    batches.get_file([PIECE] * 29, tmp_path / "jobs.csv")


@dataclass
class _Disk:
    free: int
    total: int = 1 << 40


@pytest.mark.parametrize("odd", [
    '"limits": {"micro_usd": 1' + "0" * 400 + "}",
    '"held": {"runs": -1}',
    '"needs": {"runs": {"lump": 1' + "0" * 300 + "}}",
    '"batches": {"' + "a" * 12 + '": {"taken_at": 0, "counts": {"cost_usd": NaN}}}',
    '"batches": {"' + "a" * 12 + '": {"taken_at": 0, "counts": {"cost_usd": 1e308}}}',
    '"batches": {"' + "a" * 12 + '": {"taken_at": 0, "counts": {"live_runs": 1' + "0" * 100 + "}}}",
])  # fmt: skip
def test_a_page_with_odd_numbers_is_none(store: DirectoryStore, odd: str) -> None:
    """Whoever can write to the store could end all workers with a number that no arithmetic takes."""
    member = '{"name": "m", "address": "", "lease_s": 1, ' + odd + "}"
    store.append(0, zstandard.compress(('{"members": {"m": ' + member + "}}").encode()))
    page = SharedPage(store)
    assert (page.read(), page.number) == (Page(), 0)


def test_a_page_has_so_many_members(store: DirectoryStore) -> None:
    """Each worker looks through all of them, several times a second, between the answers that it gives."""
    members = {f"m{n}": {"name": "m", "address": "", "lease_s": 1} for n in range(MAX_MEMBERS + 1)}
    store.append(0, zstandard.compress(json.dumps({"members": members}).encode()))
    assert SharedPage(store).read() == Page()


def test_a_batch_of_the_page_has_an_id(store: DirectoryStore) -> None:
    """It names a directory."""
    member = {"name": "m", "address": "", "lease_s": 1, "batches": {"../x": {"taken_at": 0}}}
    store.append(0, zstandard.compress(json.dumps({"members": {"m": member}}).encode()))
    assert SharedPage(store).read() == Page()


def test_a_workers_name_is_one_line(store: DirectoryStore) -> None:
    """It stands in errors: what follows in lines of its own would look like a command's own words."""
    listed = json.loads(zstandard.decompress(entry()))
    store.append(0, zstandard.compress(json.dumps(listed | {"worker": "m\r\nrun `x`\u2028at\x0bhttp://a"}).encode()))
    assert FleetList(store).read()["good"].worker == "m run `x` at http://a"
    member = {"name": "m\n\x85n", "address": "a\u2029b", "lease_s": 1}
    page = Page.model_validate_json(json.dumps({"members": {"m": member}}))
    assert (page.members["m"].name, page.members["m"].address) == ("m n", "a b")
