import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from tests.support.crash import (
    CrashBatch,
    assert_each_line_counts_once,
    assert_promise_kept,
    batch_with_mended_lines,
    open_api,
    some_jobs,
)

#: Each arrow of the start protocol, in the middle of a batch; the first and the second commit are of other things.
KILL_POINTS = [
    "admitted:2",
    "intended:20",
    "answered:20",
    "bound:20",
    "terminal:20",
    "page_written:9",
    "collected:20",
    "postponed:1",
    "appended:5",
    "committed:1",
    "committed:2",
    "committed:9",
    "logged:5",
    "settled:20",
]
#: The same arrows, each the first time.
EARLY_KILL_POINTS = [
    "admitted:1",
    "intended:1",
    "answered:1",
    "bound:1",
    "terminal:1",
    "page_written:1",
    "collected:1",
    "appended:1",
    "settled:1",
]


@pytest.mark.parametrize(
    "kill_at", [*KILL_POINTS, *(pytest.param(each, marks=pytest.mark.long) for each in EARLY_KILL_POINTS)]
)
def test_a_batch_killed_at_an_arrow_of_the_protocol_ends_right(tmp_path, kill_at):
    """Killed there and run again, every job has one record, and every Run of the server is in the records once."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(36))
        assert batch.run(kill_at=kill_at) == -signal.SIGKILL, batch.said()
        assert batch.run() == 1, batch.said()
        assert_promise_kept(batch, api)


def test_a_batch_killed_while_sqlite_makes_its_ledger_begins(tmp_path):
    """The file and the journal that undoes it are left; readers find no ledger, and the next process makes one."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(8))
        batch.out.mkdir(mode=0o700)
        _leave_unfinished(tmp_path / "begun.sqlite3", batch.out / "ledger.sqlite3")
        assert batch.spawn("status", "out").wait() == 6
        assert "holds no ledger" in batch.said()
        assert batch.run() == 1, batch.said()
        assert_promise_kept(batch, api)


def _leave_unfinished(scratch: Path, file: Path) -> None:
    """Copy a database in the middle of its first change: SQLite has written pages of it, and committed nothing."""
    connection = sqlite3.connect(scratch, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN")
    connection.execute("CREATE TABLE filler AS SELECT randomblob(1000000)")
    for end in ("", "-journal"):
        shutil.copy(f"{scratch}{end}", f"{file}{end}")
    connection.close()
    assert file.stat().st_size > 0


@pytest.mark.parametrize("kill_at", ["abort_noted:1", "aborted:1", "aborted:3", "terminal:2"])
def test_a_batch_killed_around_an_abort_of_ours_knows_whose_it_was(tmp_path, kill_at):
    """Runs that take longer than a job may are timed out, not aborted by a stranger, whoever looks at them."""
    jobs = [{"n": n, "ms": 60_000, "items": 0} for n in range(4)]
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, jobs, {"deadlines.max_job_s": 1})
        assert batch.run(kill_at=kill_at) == -signal.SIGKILL, batch.said()
        assert batch.run() == 1, batch.said()
        assert_promise_kept(batch, api)
    ends = {(record["outcome"], record["error"]["type"]) for record in batch.records()}
    assert ends == {("timed_out", "max-job-s")}


def test_a_batch_killed_at_random_instants_ends_right(tmp_path):
    """Killed again and again at any instant, the batch ends as if it had never been killed."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(140))
        assert batch.run_with_kills(seed=1, kills=8, longest_s=0.8) == 1, batch.said()
        assert batch.kills, "it ended before the first kill"
        assert_promise_kept(batch, api)


@pytest.mark.parametrize(
    ("kill_at", "suffix"),
    [
        *((each, "") for each in ("replaced:1", "admitted:1", "intended:9", "answered:9", "settled:9", "committed:3")),
        ("replaced:1", ".gz"),
        ("admitted:1", ".gz"),
    ],
)
def test_a_batch_killed_while_lines_replace_others_carries_each_out_once(tmp_path, kill_at, suffix):
    """A job that was not started has one Run, with its last input; one that was has one for each of its inputs."""
    with open_api(tmp_path / "api") as api:
        batch = batch_with_mended_lines(tmp_path, api, suffix)
        assert batch.run(kill_at=kill_at) == -signal.SIGKILL, batch.said()
        code = batch.run()
        refused = assert_each_line_counts_once(batch, api)
        assert code == (1 if refused else 0), batch.said()
