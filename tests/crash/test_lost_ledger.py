"""A ledger that is lost, emptied, cut or older after a kill: refused, rebuilt by `repair`; nothing is paid twice."""

import shutil
import signal
import sqlite3
from itertools import cycle, product
from pathlib import Path

import pytest

from batchrun.apify.user_agent import mark_of
from tests.support.crash import (
    Api,
    CrashBatch,
    assert_each_line_counts_once,
    assert_promise_kept,
    batch_with_mended_lines,
    open_api,
    some_jobs,
)

LEDGER = "ledger.sqlite3"


def _lose_wal(out: Path) -> None:
    (out / f"{LEDGER}-wal").unlink()


def _remove(out: Path) -> None:
    for file in out.glob(f"{LEDGER}*"):
        file.unlink()


def _empty(out: Path) -> None:
    _remove(out)
    (out / LEDGER).write_bytes(b"")


def _halve(out: Path) -> None:
    _checkpoint(out)
    content = (out / LEDGER).read_bytes()
    (out / LEDGER).write_bytes(content[: len(content) // 2])


def _garble(out: Path) -> None:
    """Overwrite the middle of the file, as a bad disk does."""
    _checkpoint(out)
    content = (out / LEDGER).read_bytes()
    (out / LEDGER).write_bytes(content[:8192] + b"\xa5" * (len(content) - 8192))


def _replace(out: Path) -> None:
    _remove(out)
    (out / LEDGER).write_bytes(b"this is no ledger" * 1000)


def _set_version_back(out: Path) -> None:
    """As by hand: the tables are those of the present version."""
    connection = sqlite3.connect(out / LEDGER)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute(f"PRAGMA user_version = {version - 1}")
    connection.close()


def _marks(out: Path) -> set[str]:
    connection = sqlite3.connect(f"file:{out / LEDGER}?mode=ro", uri=True)
    found = {mark for (mark,) in connection.execute("SELECT mark FROM attempt")}
    connection.close()
    return found


def _user_agent(api: Api, run_id: str) -> str:
    return str(api.get(f"/actor-runs/{run_id}")["data"]["meta"]["userAgent"])


def _checkpoint(out: Path) -> None:
    connection = sqlite3.connect(out / LEDGER)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    for end in ("-wal", "-shm"):
        (out / f"{LEDGER}{end}").unlink(missing_ok=True)


KILL_POINTS = ("answered:6", "intended:20", "settled:20")
WAYS = (_lose_wal, _remove, _empty, _halve, _garble, _replace)
#: Each way in which a ledger is lost, and each point at which a process may have died before; all pairs take long.
PAIRS = [*zip(cycle(KILL_POINTS), WAYS, strict=False), ("settled:20", _set_version_back)]


@pytest.mark.parametrize(
    ("kill_at", "lose"),
    [
        *PAIRS,
        *(pytest.param(*pair, marks=pytest.mark.long) for pair in product(KILL_POINTS, WAYS) if pair not in PAIRS),
    ],
)
def test_a_ledger_that_was_lost_after_a_kill_is_rebuilt(tmp_path, kill_at, lose):
    """It is refused first, and nothing is started. Rebuilt, the batch ends as if nothing had happened."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(26))
        assert batch.run(kill_at=kill_at) == -signal.SIGKILL, batch.said()
        intended = _marks(batch.out)
        lose(batch.out)
        assert batch.run() == 6, batch.said()
        assert "batchrun repair" in batch.said()
        # Starts that were on their way at the kill may still arrive.
        assert {mark_of(_user_agent(api, run["id"])) for run in api.runs()} <= intended
        assert batch.spawn("repair", "out").wait(60) == 0, batch.said()
        assert "The ledger was rebuilt" in batch.said()
        assert batch.run() == 1, batch.said()
        assert_promise_kept(batch, api)
        assert "Traceback" not in batch.said()
        assert "bug" not in batch.said()


@pytest.mark.parametrize("command", [("run",), ("repair", "out")], ids=["run", "repair"])
def test_a_ledger_of_an_earlier_version_is_brought_up_to_date(tmp_path, command):
    """With a bad line at the head of the job file, which was allowed when the batch was begun; by `repair` as well."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(6), {"jobs.on_bad_line": "record"})
        file = tmp_path / "jobs.jsonl"
        file.write_bytes(b"no job\n" + file.read_bytes())
        assert batch.run(kill_at="settled:3") == -signal.SIGKILL, batch.said()
        connection = sqlite3.connect(batch.out / LEDGER)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        connection.execute("ALTER TABLE attempt DROP COLUMN storages")
        connection.execute(f"PRAGMA user_version = {version - 1}")
        connection.close()
        if command != ("run",):
            assert batch.spawn(*command).wait(60) == 0, batch.said()
            assert "rebuilt" not in batch.said()
        assert batch.run() == 1, batch.said()
        assert len(batch.records()) == 7
        started = [each["run_id"] for record in batch.records() for each in record["attempts"]]
        assert sorted(started) == sorted(run["id"] for run in api.runs())


def test_a_ledger_that_was_restored_from_a_copy_is_rebuilt(tmp_path):
    """Killed twice, copied in between: the copy knows nothing of later Runs; the records and the log of starts do."""
    with open_api(tmp_path / "api") as api:
        # More than can have begun at the first kill: 8 Runs at once, 8 that wait to be settled, and those settled.
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(36), {"limits.max_concurrent_runs": 8})
        assert batch.run(kill_at="settled:5") == -signal.SIGKILL
        copy = tmp_path / "copy"
        copy.mkdir()
        for file in batch.out.glob(f"{LEDGER}*"):
            shutil.copy(file, copy)
        assert batch.run(kill_at="settled:15") == -signal.SIGKILL
        _remove(batch.out)
        for file in copy.iterdir():
            shutil.copy(file, batch.out)
        assert batch.run() == 6, batch.said()
        assert batch.spawn("repair", "out").wait(60) == 0, batch.said()
        assert batch.run() == 1, batch.said()
        assert_promise_kept(batch, api)


@pytest.mark.parametrize("kill_at", ["rebuilt:1", "moved_away:1", "repaired:1", "repaired:2"])
def test_a_repair_that_is_killed_is_repeated(tmp_path, kill_at):
    """Wherever it dies, no process runs the batch with half a repair, and another repair does the rest."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(20))
        assert batch.run(kill_at="settled:10") == -signal.SIGKILL
        _empty(batch.out)
        assert batch.spawn("repair", "out", kill_at=kill_at).wait(60) == -signal.SIGKILL
        assert batch.run() == 6, batch.said()
        assert batch.spawn("repair", "out").wait(60) == 0, batch.said()
        assert batch.run() == 1, batch.said()
        assert_promise_kept(batch, api)


def test_a_ledger_is_not_rebuilt_from_records_that_lack_lines(tmp_path):
    """Their jobs would be started again; with the records back it is."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(36))
        for _ in range(2):  # the second one begins the log of starts again
            assert batch.run(kill_at="settled:10") == -signal.SIGKILL
        records = (batch.out / "records.jsonl").read_bytes()
        _remove(batch.out)
        for damaged in (records[:200], b"{garbage\n" + records[9:]):
            (batch.out / "records.jsonl").write_bytes(damaged)
            assert batch.spawn("repair", "out").wait(60) == 6, batch.said()
            assert "the ledger cannot be rebuilt from it" in batch.said()
        (batch.out / "records.jsonl").write_bytes(records)
        assert batch.spawn("repair", "out").wait(60) == 0, batch.said()
        assert batch.run() == 1, batch.said()
        assert_promise_kept(batch, api)


def test_rounds_survive_a_rebuild(tmp_path):
    """A retry's round and the one before it come back, settled or open."""
    with open_api(tmp_path / "api") as api:
        jobs = [{"n": n, "@key": f"k{n}", "ms": 0, "items": 2, "fails": n < 4} for n in range(8)]
        batch = CrashBatch(tmp_path, api.base_url, jobs, {"retry.max_attempts": 1})
        assert batch.run() == 1, batch.said()
        assert batch.spawn("retry", "out", kill_at="settled:2").wait(60) == -signal.SIGKILL
        _empty(batch.out)
        assert batch.spawn("repair", "out").wait(60) == 0, batch.said()
        assert batch.run() == 1, batch.said()
        rounds = sorted((record["key"], record["round"]) for record in batch.records())
        assert rounds == sorted([(f"k{n}", 1) for n in range(8)] + [(f"k{n}", 2) for n in range(4)])
        in_records = [each["run_id"] for record in batch.records() for each in record["attempts"] if each["run_id"]]
        assert sorted(in_records) == sorted(run["id"] for run in api.runs())


@pytest.mark.parametrize("kill_at", ["replaced:1", "intended:9", "answered:9", "settled:20"])
def test_lines_that_replace_others_survive_a_rebuild(tmp_path, kill_at):
    """Records and starts say which of a job's lines counted; those that did not come to a start count afterwards."""
    with open_api(tmp_path / "api") as api:
        batch = batch_with_mended_lines(tmp_path, api)
        assert batch.run(kill_at=kill_at) == -signal.SIGKILL, batch.said()
        _empty(batch.out)
        assert batch.spawn("repair", "out").wait(60) == 0, batch.said()
        assert batch.run() in (0, 1), batch.said()
        assert_each_line_counts_once(batch, api)
