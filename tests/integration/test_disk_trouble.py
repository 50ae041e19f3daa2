"""Disk errors: one line says what to do, exit 6, nothing is lost, and the batch resumes once the error is mended."""

import resource
import shutil
import sqlite3

import pytest

from batchrun.ledger.sqlite import connection
from tests.support.crash import CrashBatch, assert_promise_kept, open_api, some_jobs


def _run_with_file_limit(batch: CrashBatch, max_bytes: int) -> int:
    """Run a process whose files cannot grow beyond a size, as on a full disk."""
    process = batch.spawn()
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (max_bytes, max_bytes))
    return process.wait(120)


@pytest.mark.parametrize(("max_kb", "jobs"), [(40, 40), (64, 60), (200, 150)])
def test_a_full_disk_ends_the_process_and_loses_nothing(tmp_path, max_kb, jobs):
    """Exit 6 and one line; with space on the disk again the batch ends as if nothing had happened."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(jobs))
        code = _run_with_file_limit(batch, max_kb * 1024)
        assert code == 6, (code, batch.said())
        assert "Traceback" not in batch.said()
        assert "a bug in batchrun" not in batch.said()
        assert batch.run() == 1, batch.said()
        assert_promise_kept(batch, api)


def test_a_damaged_ledger_is_never_written_over(tmp_path):
    """Exit 6; records and ledger stay as they are."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(10))
        assert batch.run() in (0, 1)
        records = (batch.out / "records.jsonl").read_bytes()
        for name in ("ledger.sqlite3-wal", "ledger.sqlite3-shm"):
            (batch.out / name).unlink(missing_ok=True)
        (batch.out / "ledger.sqlite3").write_bytes(b"this is no ledger" * 1000)
        assert batch.run() == 6, batch.said()
        assert "ledger.sqlite3" in batch.said()
        assert "Traceback" not in batch.said()
        assert (batch.out / "records.jsonl").read_bytes() == records
        assert (batch.out / "ledger.sqlite3").read_bytes() == b"this is no ledger" * 1000


def test_records_without_their_ledger_are_refused_and_never_cut(tmp_path):
    """Exit 6; with the ledger put back, the batch resumes."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(30))
        assert batch.run_with_kills(seed=1, kills=1) in (0, 1)
        away = tmp_path / "away"
        away.mkdir()
        for file in batch.out.glob("ledger.sqlite3*"):
            shutil.move(file, away / file.name)
        records = (batch.out / "records.jsonl").read_bytes()
        assert batch.run() == 6, batch.said()
        assert "Put the newest ledger.sqlite3 and ledger.sqlite3-wal back" in batch.said()
        assert (batch.out / "records.jsonl").read_bytes() == records
        for file in away.iterdir():
            shutil.move(file, batch.out / file.name)
        assert batch.run() in (0, 1)
        assert_promise_kept(batch, api)


def test_a_ledger_that_stays_locked_ends_the_process(tmp_path):
    """Exit 6 and one line, after a wait for the other program; nothing was started."""
    with open_api(tmp_path / "api") as api:
        soon = {f"{connection.__name__}.LOCK_PATIENCE_S": 0.5}
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(5), constants=soon)
        batch.out.mkdir()
        with sqlite3.connect(batch.out / "ledger.sqlite3", isolation_level=None) as held:
            held.execute("PRAGMA journal_mode = WAL")
            held.execute("CREATE TABLE held (n)")
            held.execute("BEGIN EXCLUSIVE")
            assert batch.run() == 6, batch.said()
            assert "locked" in batch.said()
            held.execute("ROLLBACK")
        assert api.runs() == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    """Exit 6 and one line; nothing was started."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(5), {"output.dir": '"/proc/batchrun"'})
        assert batch.run() == 6, batch.said()
        assert "/proc/batchrun" in batch.said()
        assert api.runs() == []
