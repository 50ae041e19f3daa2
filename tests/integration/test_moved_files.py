"""Directory and files of a batch that are moved or removed while it runs: noticed, said, and nothing is lost."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.api_process import TOKEN
from tests.support.crash import Api, CrashBatch, assert_promise_kept, open_api

LONG_MS = 3000
JOBS = [{"n": n, "ms": LONG_MS, "items": 3} for n in range(12)]
SETTINGS = {"limits.max_concurrent_runs": 4}


def wait_for(reached: Callable[[], bool]) -> None:
    """Wait for a state that comes for certain, or fail after a minute."""
    for _ in range(600):
        if reached():
            return
        time.sleep(0.1)
    raise AssertionError("it never came")


def run_until_lost(batch: CrashBatch, api: Api, lose: Callable[[Path], object]) -> None:
    """Run a process, lose something once its first Runs are live, and wait for its end."""
    process = batch.spawn()
    wait_for(lambda: len(api.runs()) == 4)
    lose(batch.out)
    assert process.wait(120) == 6, batch.said()
    assert all(run["status"] == "SUCCEEDED" for run in api.runs()), "a live Run was not followed to its end"
    assert len(api.runs()) < len(JOBS), "starts went on"
    assert "Nothing more is started; live Runs are followed to their end" in batch.said()
    assert "Traceback" not in batch.said()


@pytest.mark.parametrize("name", ["", "ledger.sqlite3", "ledger.sqlite3-wal", "records.jsonl", "items.jsonl"])
def test_what_was_moved_is_found_and_put_back(tmp_path, name):
    """The live Runs are settled in the moved files; with them back in their place the batch ends right."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, JOBS, SETTINGS)
        away = tmp_path / ("away" if not name else "out/away")
        run_until_lost(batch, api, lambda out: (out / name).rename(away))
        assert f"{name or 'out'}: was moved to" in batch.said()
        assert "away while this batch used it" in batch.said()
        away.rename(batch.out / name)
        assert batch.run() == 0, batch.said()
        assert_promise_kept(batch, api)


@pytest.mark.parametrize("names", [["records.jsonl"], ["items.jsonl", "records.jsonl"], ["ledger.sqlite3-wal"]])
def test_removed_outputs_are_written_again_by_a_repair(tmp_path, names):
    """The batch does not claim success with files that do not exist."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, JOBS, SETTINGS)
        run_until_lost(batch, api, lambda out: [(out / name).unlink() for name in names])
        assert batch.spawn("repair", "out").wait(60) == 0, batch.said()
        assert batch.run() == 0, batch.said()
        assert_promise_kept(batch, api)


def test_a_removed_directory_stops_the_starts(tmp_path):
    """What is paid for already is followed to its end, and nothing is bought any more."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, JOBS, SETTINGS)
        run_until_lost(batch, api, shutil.rmtree)


@pytest.mark.parametrize("name", ["jobs.csv", "jobs.jsonl"])
def test_a_job_file_that_was_changed_after_its_end_was_read_is_refused(tmp_path, name):
    """Edited, cut, inserted into or replaced: said at the next run, exit 2; restored, the batch is as it was."""
    lines = [b"n,ms\n", *(b"%d,0\n" % n for n in range(9))]
    if name == "jobs.jsonl":
        lines = [b'{"n":%d,"ms":0}\n' % n for n in range(10)]
    with open_api(tmp_path / "api") as api:
        template = {"jobs.template.n": "{{n:int}}"} if name == "jobs.csv" else {}
        batch = CrashBatch(tmp_path, api.base_url, [], {"jobs.file": name, **template})
        file = tmp_path / name
        file.write_bytes(b"".join(lines))
        assert batch.run() == 0, batch.said()
        started = len(api.runs())
        for changed in ([*lines[:5], lines[4], *lines[5:]], lines[:-1], [*lines[:-1], lines[-1][:-4] + b"7,0\n"], []):
            file.write_bytes(b"".join(changed) or b"other")
            assert batch.run() == 2, batch.said()
        assert len(api.runs()) == started
        file.write_bytes(b"".join(lines))
        assert batch.run() == 0, batch.said()


def test_a_job_file_that_vanishes_is_trouble_of_this_machine(tmp_path):
    """Exit 6, not 2: what was read is carried out, and with the file back the batch goes on."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, JOBS[:4], SETTINGS)
        file = tmp_path / "jobs.jsonl"
        with file.open("ab") as jobs:
            jobs.write(b'{"n":99,"ms":0,"items":0}')
        process = batch.spawn()
        wait_for(lambda: len(api.runs()) == 4)
        file.rename(tmp_path / "away")
        assert process.wait(120) == 6, batch.said()
        assert "jobs.jsonl: was moved or removed while this batch used it" in batch.said()
        assert len(batch.records()) == 4
        (tmp_path / "away").rename(file)
        assert batch.run() == 0, batch.said()
        assert len(batch.records()) == len(api.runs()) == 5


def test_standard_input_that_lacks_unfinished_jobs_is_no_success(tmp_path):
    """Exit 2 and the lines; with the whole input again the batch ends."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, JOBS, {**SETTINGS, "jobs.file": "-"})

        def run(lines: bytes, kill_at: str = "") -> int:
            environ = {**os.environ, "APIFY_TOKEN": TOKEN, "BATCHRUN_KILL_AT": kill_at}
            command = [sys.executable, "-m", "batchrun", "run", "batch.toml", "--yes", *batch.flags]
            with (tmp_path / "stderr.txt").open("ab") as stderr:
                done = subprocess.run(
                    command, check=False, cwd=tmp_path, env=environ, input=lines, stderr=stderr, timeout=120
                )
            return done.returncode

        whole = (tmp_path / "jobs.jsonl").read_bytes()
        assert run(whole, "settled:1") == -9, batch.said()
        assert run(b"") == 2, batch.said()
        assert "unfinished jobs are missing from the input" in batch.said()
        assert run(whole) == 0, batch.said()
        assert_promise_kept(batch, api)
