"""Signals, the lock, status, abort, resolve and repair, with real processes of batch and server."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.maintenance.idle_batch import read_unfinished
from tests.support.api_process import TOKEN
from tests.support.command_line import Said, batchrun
from tests.support.crash import ROOT, CrashBatch, assert_promise_kept, open_api, some_jobs, wait_until
from tests.support.forked import ForkedProcess
from tests.support.patience import impatient_python

ENVIRON = {"APIFY_TOKEN": TOKEN}
#: Duration of Runs that end only by an abort: longer than any test.
LONG_MS = 600_000


def _command(batch: CrashBatch, *arguments: str) -> Said:
    return batchrun(*arguments, cwd=batch.directory, environ=ENVIRON)


def _is_settling(batch: CrashBatch) -> bool:
    file = batch.out / "records.jsonl"
    return file.exists() and file.stat().st_size > 0


def _stop(batch: CrashBatch, process: ForkedProcess, *signals: signal.Signals) -> int:
    first, *others = signals
    process.send_signal(first)
    for number in others:
        wait_until(lambda: "again to exit and leave them running" in batch.said())
        process.send_signal(number)
    return process.wait(60)


def test_the_first_signal_drains(tmp_path):
    """SIGTERM stops new starts and waits for live Runs; none stays live, and the batch can be resumed."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(60))
        process = batch.spawn()
        wait_until(lambda: _is_settling(batch))
        assert _stop(batch, process, signal.SIGTERM) == 130, batch.said()
        assert [run for run in api.runs() if run["status"] in ("READY", "RUNNING")] == []
        assert "no new starts" in batch.said()
        assert "resume   batchrun run batch.toml" in batch.said()
        assert batch.run() == 1, batch.said()
        assert_promise_kept(batch, api)


def test_an_abort_that_is_not_answered_ends_and_names_its_run(tmp_path):
    """The others are aborted; exit 5."""
    jobs = [{"n": n, "ms": LONG_MS, "items": 0} for n in range(2)]
    faults = tmp_path / "faults.toml"
    faults.write_text(
        '[[fault]]\nkind = "latency"\nseconds = 60\ncount = 1\nroutes = ["POST /v2/actor-runs/*/abort"]\n'
    )
    with open_api(tmp_path / "api", faults=faults) as api:
        batch = CrashBatch(tmp_path, api.base_url, jobs)
        assert batch.run(kill_at="bound:2") == -signal.SIGKILL, batch.said()
        module = "batchrun.maintenance.abort_runs"
        hasty = {f"{module}.PATIENCE_S": 1.0, f"{module}.NO_ANSWER_S": 0.0}
        said = batchrun("abort", "out", cwd=tmp_path, environ=ENVIRON, constants=hasty)
        assert (said.code, len(said.out.split())) == (5, 1), said
        assert "is still running: asked to abort it, the platform does not answer within 1 s" in said.err


def test_no_run_of_another_task_is_aborted(tmp_path):
    """Who can write to a shared log, or has had the directory, may have named it."""
    jobs = [{"n": n, "ms": LONG_MS} for n in range(2)]
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path / "one", api.base_url, jobs)
        other = CrashBatch(tmp_path / "two", api.base_url, jobs[:1], {"task.name": "other"})
        for each, runs in ((batch, 2), (other, 3)):
            process = each.spawn()
            wait_until(lambda runs=runs: len(api.runs()) == runs)
            assert _stop(each, process, signal.SIGHUP) == 130, each.said()
        foreign = read_unfinished(other.out).bound[0]
        own, named = read_unfinished(batch.out).bound
        with open_ledger(batch.out) as ledger, ledger.transaction():
            ledger._db.execute("UPDATE attempt SET run_id = ? WHERE run_id = ?", (foreign, named))
        said = _command(batch, "abort", "out")
        assert (said.code, said.out.split()) == (5, [own]), said
        assert f"{foreign} is still running: it is no Run of the batch's task" in said.err
        assert {run["id"] for run in api.runs() if run["status"] != "ABORTED"} == {foreign, named}


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGHUP,)])
def test_a_second_signal_or_a_hang_up_leaves_runs_running(tmp_path, signals):
    """It exits at once with 130 and reports the number of running Runs; abort ends exactly those."""
    jobs = [{"n": n, "ms": 0 if n == 0 else LONG_MS, "items": 0} for n in range(9)]
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, jobs)
        process = batch.spawn()
        wait_until(lambda: _is_settling(batch) and len(api.runs()) == 9)
        assert _stop(batch, process, *signals) == 130, batch.said()
        assert "8 Runs are still running" in batch.said()
        status = orjson.loads(_command(batch, "status", "out", "--json").out)
        assert (status["pid"], status["summary"]["live_runs"]) == (None, 8)
        aborted = _command(batch, "abort", "out")
        assert aborted.code == 0, aborted
        live = {run["id"] for run in api.runs() if run["status"] != "SUCCEEDED"}
        assert set(aborted.out.split()) == live
        status = orjson.loads(_command(batch, "status", "out", "--json").out)
        assert (status["summary"]["live_runs"], status["waiting"]) == (0, 8)  # as `abort` has said
        assert batch.run() == 1
        assert sorted(record["outcome"] for record in batch.records()) == ["aborted"] * 8 + ["succeeded"]
        assert len(api.runs()) == 9


def test_a_hang_up_that_nohup_ignores_is_ignored(tmp_path):
    """The batch runs to its end."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(40))
        command = impatient_python("runpy.run_module('batchrun', run_name='__main__', alter_sys=True)")
        process = batch.spawn_program("nohup", *command, "run", "batch.toml")
        wait_until(lambda: _is_settling(batch))
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 1, batch.said()
        assert_promise_kept(batch, api)


def test_ctrl_c_for_the_whole_process_group_drains_the_batch(tmp_path):
    """Embedded, while the demo site's renderer works: the first Ctrl-C drains, and the batch can be resumed."""
    options = ["--out", "out", "-c", "2", "--limit", "6"]
    command = [sys.executable, "-m", "batchrun", "run", str(ROOT / "configs/quickstart.toml"), *options]
    with (tmp_path / "stderr.txt").open("wb") as stderr:
        process = subprocess.Popen(command, cwd=tmp_path, stderr=stderr, start_new_session=True)
    records = tmp_path / "out/records.jsonl"
    wait_until(lambda: records.exists() and records.stat().st_size > 0)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130, (tmp_path / "stderr.txt").read_text()
    said = batchrun(*command[3:], cwd=tmp_path)
    assert said.code == 0, said
    outcomes = [orjson.loads(line)["outcome"] for line in records.read_bytes().splitlines()]
    assert outcomes == ["succeeded"] * 6


def test_an_idle_pipe_does_not_keep_a_batch_from_stopping(tmp_path):
    """With jobs from an open pipe without further lines, one SIGINT ends the process."""
    (tmp_path / "batch.toml").write_text(
        '[api]\nbase_url = "embedded"\n[task]\nactor = "apify/hello-world"\nname = "hello"\n[jobs]\nfile = "-"\n'
    )
    command = [sys.executable, "-m", "batchrun", "run", "batch.toml"]
    with (tmp_path / "stderr.txt").open("wb") as stderr:
        process = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.PIPE, stderr=stderr)
    assert process.stdin is not None
    process.stdin.write(b'{"a": 1}\n')
    process.stdin.flush()
    records = tmp_path / "batch.out/records.jsonl"
    wait_until(lambda: records.exists() and records.stat().st_size > 0)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130, (tmp_path / "stderr.txt").read_text()
    process.stdin.close()


def test_a_directory_is_used_by_one_process_at_a_time(tmp_path):
    """A second run, abort, repair and resolve are refused with the first one's pid; status works; a kill frees it."""
    jobs = [{"n": n, "ms": LONG_MS} for n in range(3)]
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, jobs)
        process = batch.spawn()
        wait_until(lambda: len(api.runs()) == 3)
        for command in (("run", "batch.toml"), ("abort", "out"), ("repair", "out"), ("resolve", "out")):
            refused = _command(batch, *command)
            assert refused.code == 6, refused
            assert f"in use by process {process.pid}" in refused.err
        status = _command(batch, "status", "out")
        assert (status.code, f"process  {process.pid}" in status.out) == (0, True)
        process.kill()
        process.wait()
        assert _command(batch, "abort", "out").code == 0
        assert {run["status"] for run in api.runs()} == {"ABORTED"}


def _batch_in_doubt(tmp_path: Path) -> tuple[CrashBatch, Path]:
    """Return a batch of three jobs, and faults: the second start is not answered, and no mark is echoed."""
    faults = tmp_path / "faults.toml"
    lost = 'kind = "drop_answer"\nroutes = ["starts"]\ncount = 1\nafter = 1\n'
    faults.write_text(f'seed = 1\n[[fault]]\nkind = "no_echo"\n[[fault]]\n{lost}')
    return CrashBatch(tmp_path, "", [{"n": n} for n in range(3)], {"limits.max_concurrent_runs": 1}), faults


def _pointed_at(batch: CrashBatch, base_url: str) -> CrashBatch:
    return CrashBatch(batch.directory, base_url, batch.jobs, batch.settings)


def test_without_an_echo_a_person_decides_about_a_start_in_doubt(tmp_path):
    """The rest of the batch finishes, exit 1; resolve shows the candidate and takes the decision; run resumes."""
    batch, faults = _batch_in_doubt(tmp_path)
    with open_api(tmp_path / "api", faults=faults) as api:
        batch = _pointed_at(batch, api.base_url)
        assert batch.run() == 1, batch.said()
        assert (len(batch.records()), len(api.runs())) == (2, 3)
        assert "Finished, except for starts in doubt" in batch.said()
        shown = batchrun("resolve", "out", cwd=batch.directory, environ=ENVIRON, stdin="\n")
        assert shown.code == 0, shown
        (candidate,) = {run["id"] for run in api.runs()} - {record["run"]["id"] for record in batch.records()}
        assert candidate in shown.out
        status = orjson.loads(_command(batch, "status", "out", "--json").out)
        (doubt,) = status["doubts"]
        wrong = _command(batch, "resolve", "out", "--key", doubt["job_key"], "--run", "no-such-run")
        assert wrong.code == 6, wrong
        decided = _command(batch, "resolve", "out", "--key", doubt["job_key"], "--run", candidate)
        assert decided.code == 0, decided
        assert "`batchrun run` resumes the batch" in decided.err + shown.err
        assert batch.run() == 0, batch.said()
        assert _command(batch, "resolve", "out").err == "No start is in doubt\n"
        assert_promise_kept(batch, api)


def test_a_start_that_started_no_run_is_repeated(tmp_path):
    """After `resolve --none` the job gets a new Run."""
    batch, faults = _batch_in_doubt(tmp_path)
    with open_api(tmp_path / "api", faults=faults) as api:
        batch = _pointed_at(batch, api.base_url)
        assert batch.run() == 1, batch.said()
        (doubt,) = orjson.loads(_command(batch, "status", "out", "--json").out)["doubts"]
        assert _command(batch, "resolve", "out", "--key", doubt["job_key"], "--none").code == 0
        assert batch.run() == 0, batch.said()
        assert (len(batch.records()), len(api.runs())) == (3, 4)


def test_repair_writes_missing_and_damaged_records_again(tmp_path):
    """Missing and garbled lines are rebuilt from the platform as they were; nothing is started."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(40))
        assert batch.run() == 1, batch.said()
        before = {record["key"]: record for record in batch.records()}
        file = batch.out / "records.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join([*lines[:5], b"{garbage\n", *lines[9:20], lines[20][:30]]))
        refused = batch.run()
        assert (refused, "batchrun repair" in batch.said()) == (6, True), batch.said()
        repaired = _command(batch, "repair", "out")
        assert repaired.code == 0, repaired
        assert "16 records kept, 24 written again" in repaired.err
        after = {record["key"]: record for record in batch.records()}
        assert set(after) == set(before)
        for key, record in before.items():
            assert _lasting(after[key]) == _lasting(record)
        assert batch.run() == 1
        assert_promise_kept(batch, api)


def _lasting(record: dict[str, object]) -> dict[str, object]:
    """Leave out what the platform may finalise after a Run's end."""
    return {
        name: value for name, value in record.items() if name not in ("run", "attempts", "cost_usd", "cost_is_final")
    }


def test_repair_brings_back_a_removed_item_file(tmp_path):
    """All items are read again from the datasets, once each."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(30))
        assert batch.run() == 1, batch.said()
        (batch.out / "items.jsonl").unlink()
        (batch.out / "records.jsonl").unlink()
        assert batch.run() == 6
        assert _command(batch, "repair", "out").code == 0
        assert_promise_kept(batch, api)


#: What becomes of one line of items, by what happened to it.
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "garbled": lambda line: b"\0" * (len(line) - 1) + b"\n",
    "cut short in the middle": lambda line: b" " * 9 + line[:-10] + b"\n",
    "twice": lambda line: line * 2,
    "of another Run": lambda line: line.replace(b'"_run":"', b'"_run":"x'),
}


def test_repair_checks_every_line_of_the_items(tmp_path):
    """A file of the right length is not taken for whole; what is intact stays as it is."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(30))
        assert batch.run() == 1, batch.said()
        file = batch.out / "items.jsonl"
        whole = file.read_bytes()
        assert _command(batch, "repair", "out").code == 0
        assert file.read_bytes() == whole
        for name, damaged in DAMAGES.items():
            lines = file.read_bytes().splitlines(keepends=True)
            number = len(lines) // 2
            lines[number] = damaged(lines[number])
            file.write_bytes(b"".join(lines))
            said = _command(batch, "repair", "out")
            assert (said.code, "items of 1 Run written again" in said.err) == (0, True), (name, said)
            assert_promise_kept(batch, api)
        assert batch.run() == 1, batch.said()
        assert_promise_kept(batch, api)


@pytest.mark.parametrize("kept", [b"", b"{garbage\n"])
def test_repair_writes_bad_lines_again(tmp_path, kept):
    """Line, reason and content come back as they were; the intact ones stay."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(3), {"jobs.on_bad_line": "record"})
        with (tmp_path / "jobs.jsonl").open("ab") as jobs:
            jobs.write(b'not json\n{"n":1,\n[]\n')
        assert batch.run() == 1, batch.said()
        file = batch.out / "bad_lines.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        assert len(lines) == 3
        file.write_bytes(kept + lines[2])
        assert batch.run() == 6, batch.said()
        said = _command(batch, "repair", "out")
        assert (said.code, "2 lines of bad_lines.jsonl written again" in said.err) == (0, True), said
        assert file.read_bytes() == lines[2] + lines[0] + lines[1]
        assert batch.run() == 1, batch.said()


def test_a_command_on_a_directory_without_a_batch_is_one_line(tmp_path):
    """Exit 6, naming the directory."""
    (tmp_path / "nowhere").mkdir()
    for command in ("status", "abort", "repair", "resolve"):
        said = batchrun(command, "nowhere", cwd=tmp_path, environ=ENVIRON)
        assert (said.code, said.out, said.err.count("\n")) == (6, "", 1), said
        assert "nowhere: holds no ledger" in said.err


def test_a_batch_that_is_refused_in_mid_run_ends_with_its_summary(tmp_path):
    """Live Runs are followed to their end; exit 5, with the reason, the summary, its JSON, and how to resume."""
    faults = tmp_path / "faults.toml"
    refusal = 'status = 402\ntype = "not-enough-usage-to-run-paid-actor"\nroutes = ["starts"]'
    faults.write_text(f'[[fault]]\nkind = "error_before"\n{refusal}\nafter = 5\n')
    with open_api(tmp_path / "api", faults=faults) as api:
        batch = CrashBatch(tmp_path, api.base_url, [{"n": n, "ms": 1500} for n in range(30)])
        said = _command(batch, "run", "batch.toml", "--json")
        assert said.code == 5, said
        summary = orjson.loads(said.out)
        assert (summary["ending"], summary["outcomes"], summary["live_runs"]) == ("refused", {"succeeded": 5}, 0)
        assert {run["status"] for run in api.runs()} == {"SUCCEEDED"}
        for words in ("Stopped by the platform in ", "left     25 of 30 jobs", "resume   batchrun run batch.toml"):
            assert words in said.err, said.err
        assert said.err.splitlines()[-1].startswith("batchrun: the platform refuses to start Runs: POST ")
