"""Directory and files of a batch that are moved or removed while it runs: noticed, said, and nothing is lost."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from batchrun.batch import running_batch
from tests.support.api_process import TOKEN
from tests.support.command_line import Said, batchrun
from tests.support.crash import Api, CrashBatch, assert_promise_kept, open_api, wait_until

#: How soon a batch notices what is lost, in seconds; a second by default.
CONSTANTS = {f"{running_batch.__name__}.WATCH_INTERVAL_S": 0.1}


def batch_of(directory: Path, api: Api, count: int = 12, *, job_file: str = "jobs.jsonl") -> CrashBatch:
    """Return a batch whose Runs end once `let_end` is called."""
    jobs = [{"n": n, "until": str(directory / "ends"), "items": 3} for n in range(count)]
    settings = {"limits.max_concurrent_runs": 4, "jobs.file": job_file}
    return CrashBatch(directory, api.base_url, jobs, settings, constants=CONSTANTS)


def let_end(batch: CrashBatch) -> None:
    """Let the batch's Runs end, live ones and later ones."""
    (batch.directory / "ends").touch()


def run_until_lost(batch: CrashBatch, api: Api, lose: Callable[[Path], object]) -> None:
    """Run a process, lose something once its first Runs are live, and wait for its end."""
    process = batch.spawn()
    wait_until(lambda: len(api.runs()) == 4)
    lose(batch.out)
    wait_until(lambda: "Nothing more is started; live Runs are followed to their end" in batch.said())
    let_end(batch)
    assert process.wait(120) == 6, batch.said()
    assert all(run["status"] == "SUCCEEDED" for run in api.runs()), "a live Run was not followed to its end"
    assert len(api.runs()) < len(batch.jobs), "starts went on"
    assert "Traceback" not in batch.said()


@pytest.mark.parametrize("name", ["", "ledger.sqlite3", "ledger.sqlite3-wal", "records.jsonl", "items.jsonl"])
def test_what_was_moved_is_found_and_put_back(tmp_path, name):
    """The live Runs are settled in the moved files; with them back in their place the batch ends right."""
    with open_api(tmp_path / "api") as api:
        batch = batch_of(tmp_path, api)
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
        batch = batch_of(tmp_path, api)
        run_until_lost(batch, api, lambda out: [(out / name).unlink() for name in names])
        assert batch.spawn("repair", "out").wait(60) == 0, batch.said()
        assert batch.run() == 0, batch.said()
        assert_promise_kept(batch, api)


def test_a_removed_directory_stops_the_starts(tmp_path):
    """What is paid for already is followed to its end, and nothing is bought any more."""
    with open_api(tmp_path / "api") as api:
        batch = batch_of(tmp_path, api)
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
        batch = batch_of(tmp_path, api, 4)
        file = tmp_path / "jobs.jsonl"
        with file.open("ab") as jobs:
            jobs.write(b'{"n":99,"ms":0,"items":0}')
        process = batch.spawn()
        wait_until(lambda: len(api.runs()) == 4)
        file.rename(tmp_path / "away")
        let_end(batch)
        assert process.wait(120) == 6, batch.said()
        assert "jobs.jsonl: was moved or removed while this batch used it" in batch.said()
        assert len(batch.records()) == 4
        (tmp_path / "away").rename(file)
        assert batch.run() == 0, batch.said()
        assert len(batch.records()) == len(api.runs()) == 5


def test_standard_input_that_lacks_unfinished_jobs_is_no_success(tmp_path):
    """Exit 2 and the lines; with the whole input again the batch ends."""
    with open_api(tmp_path / "api") as api:
        batch = batch_of(tmp_path, api, job_file="-")
        let_end(batch)

        def run(lines: str, kill_at: str = "") -> Said:
            environ = {"APIFY_TOKEN": TOKEN, "BATCHRUN_KILL_AT": kill_at}
            return batchrun("run", "batch.toml", "--yes", *batch.flags, cwd=tmp_path, environ=environ, stdin=lines)

        whole = (tmp_path / "jobs.jsonl").read_text()
        killed, lacking = run(whole, "settled:1"), run("")
        assert (killed.code, lacking.code) == (-signal.SIGKILL, 2), (killed, lacking)
        assert "unfinished jobs are missing from the input" in lacking.err
        ended = run(whole)
        assert ended.code == 0, ended
        assert_promise_kept(batch, api)
