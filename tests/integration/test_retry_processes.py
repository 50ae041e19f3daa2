"""`retry`, `failures`, `cost` and `repair` over several rounds: real processes, killed ones too, and a real server."""

import shlex
from collections import Counter
from typing import Any

import orjson
import pytest

from batchrun.cli.retry_command import resume_command
from batchrun.ledger.facts import TRIPS
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.model import JobKey
from batchrun.policy.breaker import Trip
from tests.support.api_process import TOKEN
from tests.support.command_line import Said, batchrun
from tests.support.crash import Api, CrashBatch, open_api, wait_until
from tests.support.money import assert_costs_are_the_servers
from tests.support.patience import SOON_FINAL_COSTS

ENVIRON = {"APIFY_TOKEN": TOKEN}
ONE_ATTEMPT = {"retry.max_attempts": 1}


def _jobs(count: int = 12) -> list[dict[str, Any]]:
    """Return jobs of which every third fails, always; even ones are of group a, odd ones of b."""
    return [
        {"@key": f"k{n}", "@group": "ab"[n % 2], "n": n, "items": 1 + n % 3, "fails": n % 3 == 0} for n in range(count)
    ]


def _say(batch: CrashBatch, *arguments: str) -> Said:
    return batchrun(*arguments, cwd=batch.directory, environ=ENVIRON)


def _status(batch: CrashBatch) -> dict[str, Any]:
    summary: dict[str, Any] = orjson.loads(_say(batch, "status", "out", "--json").out)["summary"]
    return summary


def _assert_exact(batch: CrashBatch, api: Api, rounds: dict[int, int]) -> None:
    """A record for each key and round, each Run in one of them, the items of each record's Run once, all sums right."""
    records, runs = batch.records(), api.runs()
    assert Counter(record["round"] for record in records) == rounds, batch.said()
    assert len({(record["key"], record["round"]) for record in records}) == len(records)
    in_records = [each["run_id"] for record in records for each in record["attempts"] if each["run_id"]]
    assert sorted(in_records) == sorted(run["id"] for run in runs)
    latest: dict[str, int] = {}
    for record in records:
        assert latest.get(record["key"], 0) < record["round"], "the last line of a key is its latest"
        latest[record["key"]] = record["round"]
    items = Counter(item["_run"] for item in batch.items())
    assert items == {record["run"]["id"]: record["items"]["count"] for record in records}
    summary = _status(batch)
    assert summary["items"] == sum(items.values())
    assert sum(summary["outcomes"].values()) + summary["earlier_records"] == len(records)
    assert_costs_are_the_servers(batch.out, runs)


def test_each_retry_is_a_round_of_its_own(tmp_path):
    """Retried twice, the failing jobs have three records and nine attempts between them; numbers count on."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, _jobs(), {"retry.max_attempts": 2})
        assert batch.run() == 1
        assert _say(batch, "retry", "out").code == 1
        said = _say(batch, "retry", "out")
        assert (said.code, said.err.splitlines()[0]) == (1, "Retrying 4 jobs"), said
        _assert_exact(batch, api, {1: 12, 2: 4, 3: 4})
        assert "12 jobs, 20 lines: 8 of earlier rounds" in said.err
        (third,) = [record for record in batch.records() if record["key"] == "k3" and record["round"] == 3]
        assert [each["attempt_no"] for each in third["attempts"]] == [5, 6]
        table = _say(batch, "cost", "out", "--by", "group,outcome")
        cells = [line.split() for line in table.out.splitlines()[1:]]
        assert [row[:3] for row in cells[:4]] == [
            ["a", "failed", "12"], ["a", "succeeded", "4"], ["b", "failed", "12"], ["b", "succeeded", "4"],
        ]  # fmt: skip
        assert cells[4][:2] == ["total", "32"]


@pytest.mark.parametrize("kill_at", ["reopened:1", "intended:2", "settled:2"])
def test_a_retry_that_is_killed_is_gone_on_with(tmp_path, kill_at):
    """Killed right after the reopening or later, `run` does the rest: a second record each, no Run twice."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, _jobs(), ONE_ATTEMPT)
        assert batch.run() == 1
        killed = batch.spawn("retry", "out", kill_at=kill_at)
        assert killed.wait(60) == -9, batch.said()
        if kill_at == "reopened:1":
            assert (_status(batch)["open_jobs"], len(api.runs())) == (4, 12)
            nothing = _say(batch, "retry", "out")
            assert nothing.code == 0, nothing
            assert "`batchrun run` resumes 4 open jobs" in nothing.err
        assert batch.run() == 1, batch.said()
        _assert_exact(batch, api, {1: 12, 2: 4})


def test_repair_brings_back_the_records_and_items_of_every_round(tmp_path):
    """Removed or damaged, the lines of two rounds come back as they were, earlier rounds before later ones."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, _jobs(), ONE_ATTEMPT)
        assert batch.run() == 1
        assert _say(batch, "retry", "out", "--key", "k0", "--key", "k3").code == 1
        before = {(record["key"], record["round"]): record for record in batch.records()}
        file = batch.out / "records.jsonl"
        lines = file.read_bytes().splitlines(keepends=True)
        file.write_bytes(b"".join([*lines[5:11], b"{garbage\n", lines[13]]))
        (batch.out / "items.jsonl").unlink()
        repaired = _say(batch, "repair", "out")
        assert repaired.code == 0, repaired
        assert "7 records kept, 7 written again" in repaired.err
        _assert_exact(batch, api, {1: 12, 2: 2})
        for record in batch.records():
            was = before[record["key"], record["round"]]
            same = ("outcome", "error", "items", "times", "group")
            assert {name: record[name] for name in same} == {name: was[name] for name in same}
        assert batch.run() == 1
        _assert_exact(batch, api, {1: 12, 2: 2})


def test_what_is_selected_must_match_in_everything(tmp_path):
    """Flags combine by AND, their values by commas; what matches nothing starts nothing and says what there is."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, _jobs(), ONE_ATTEMPT)
        assert batch.run() == 1
        flags = (
            "--error",
            "run-failed",
            "--outcome",
            "failed,timed_out",
            "--group",
            "a",
            "--key",
            "k3",
            "--key",
            "k6",
        )
        dry = _say(batch, "retry", "out", "--dry-run", "--json", *flags)
        assert (dry.code, orjson.loads(dry.out)["jobs"]) == (0, 1), dry
        none = _say(batch, "retry", "out", "--key", "k4")
        assert none.code == 0, none
        assert none.err.splitlines() == [
            "Nothing to retry: no job matches (8 succeeded, 4 failed)",
            "--outcome succeeded retries 1 matching job that succeeded",
        ]
        strange = ("--key", "k3", "--key", "k99", "--group", "a,z", "--error", "run-fialed", "--failure", "0badcafe")
        unknown = _say(batch, "retry", "out", "--dry-run", *strange)
        assert (unknown.code, unknown.out) == (2, ""), unknown
        assert [line.removeprefix("batchrun: ") for line in unknown.err.splitlines()] == [
            "--key k99: no job of this batch has it",
            "--group z: no job of this batch has it",
            "--error run-fialed: no job of this batch has it",
            "--failure 0badcafe: no job of this batch has it",
            "Nothing was started; `batchrun failures` shows what exists",
        ]
        wrong = _say(batch, "retry", "out", "--outcome", "invalid")
        assert (wrong.code, "append corrected lines to the job file" in wrong.err) == (2, True)
        assert (len(api.runs()), len(batch.records())) == (12, 12)
        assert _say(batch, "retry", "out", "--outcome", "succeeded", "--key", "k4").code == 1
        _assert_exact(batch, api, {1: 12, 2: 1})


def test_a_job_file_that_was_edited_since_reopens_nothing(tmp_path):
    """An edited line, and a file that is gone, are named; no job is open afterwards."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, _jobs(), ONE_ATTEMPT)
        assert batch.run() == 1
        file = tmp_path / "jobs.jsonl"
        whole = file.read_bytes()
        file.write_bytes(whole.replace(b'"n":3,', b'"n":4,'))
        edited = _say(batch, "retry", "out")
        assert (edited.code, "was changed" in edited.err) == (2, True), edited
        file.unlink()
        gone = _say(batch, "retry", "out")
        assert (gone.code, "jobs.jsonl" in gone.err) == (2, True), gone
        assert (_status(batch)["open_jobs"], len(api.runs())) == (0, 12)
        file.write_bytes(whole)
        assert _say(batch, "retry", "out").code == 1
        _assert_exact(batch, api, {1: 12, 2: 4})


def test_a_retry_names_the_command_that_goes_on_with_the_batch(tmp_path, monkeypatch):
    """As it was typed, and where, if that is not here; a retry is none."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, _jobs(3), ONE_ATTEMPT)
        assert batch.run() == 1
        assert _say(batch, "retry", "out").code == 1
    line = shlex.join(["batchrun", "run", "batch.toml", *batch.flags])
    assert resume_command(batch.out) == f"{line}  (in {tmp_path})"
    monkeypatch.chdir(tmp_path)
    assert resume_command(batch.out) == line


def test_jobs_from_stdin_are_not_reopened(tmp_path):
    """They cannot be read again; said before anything is changed."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, [], ONE_ATTEMPT)
        lines = "".join(orjson.dumps(job).decode() + "\n" for job in _jobs(3))
        arguments = ("run", "batch.toml", "--jobs", "-", *batch.flags)
        assert batchrun(*arguments, cwd=tmp_path, environ=ENVIRON, stdin=lines).code == 1
        refused = _say(batch, "retry", "out")
        assert (refused.code, "came from stdin" in refused.err) == (2, True), refused
        dry = _say(batch, "retry", "out", "--dry-run")
        assert (dry.code, dry.out, dry.err) == (2, "", refused.err)
        assert _status(batch)["open_jobs"] == 0
        failures = _say(batch, "failures", "out").out
        assert ("1 failed" in failures, "batchrun retry" in failures, "came from stdin" in failures) == (
            True, False, True,
        )  # fmt: skip


def test_a_compressed_job_file_is_retried_too(tmp_path):
    """It is read from the top; only the reopened jobs are started."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, _jobs(), ONE_ATTEMPT, suffix=".gz")
        assert batch.run() == 1
        assert _say(batch, "retry", "out").code == 1
        _assert_exact(batch, api, {1: 12, 2: 4})
        shown = orjson.loads(_say(batch, "failures", "out", "--json").out)
        assert orjson.loads(shown["failures"][0]["override"]) == {"n": 0, "items": 1, "fails": True}


def test_failures_and_cost_look_on_beside_a_running_batch(tmp_path):
    """They tell what has failed so far; retry is refused with the pid, its dry run is not."""
    jobs = [*_jobs(6), {"@key": "slow", "n": 9, "ms": 600_000}]
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, jobs, ONE_ATTEMPT)
        process = batch.spawn()
        try:
            wait_until(lambda: len(api.runs()) == 7 and _settled(batch) == 6)
            shown = _say(batch, "failures", "out")
            assert (shown.code, "2 failed, exit 1" in shown.out) == (0, True), shown
            assert "told to fail" in shown.out
            assert _say(batch, "cost", "out", "--csv").out.splitlines()[-1].startswith("total,6,")
            assert "2 jobs would be retried" in _say(batch, "retry", "out", "--dry-run").out
            refused = _say(batch, "retry", "out")
            assert (refused.code, f"in use by process {process.pid}" in refused.err) == (6, True), refused
            assert "Retrying" not in refused.err
        finally:
            process.kill()
            process.wait()


def _settled(batch: CrashBatch) -> int:
    file = batch.out / "records.jsonl"
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def test_more_than_a_hundred_paid_retries_need_a_yes(tmp_path):
    """Without a terminal and without --yes nothing is reopened."""
    jobs = [{"n": n, "fails": True} for n in range(101)]
    with open_api(tmp_path / "api") as api:
        address = api.base_url.replace("127.0.0.1", "0.0.0.0")
        batch = CrashBatch(tmp_path, address, jobs, {**ONE_ATTEMPT, "breaker.max_failed": "off"})
        environ = {**ENVIRON, "BATCHRUN_API__ALLOW_PLAIN_HTTP": "true", "no_proxy": "*"}
        run = ("run", "batch.toml", "--yes", *batch.flags)
        assert batchrun(*run, cwd=tmp_path, environ=environ, constants=SOON_FINAL_COSTS).code == 1
        asked = batchrun("retry", "out", cwd=tmp_path, environ=environ)
        assert (asked.code, "Start 101 Runs? There is no terminal" in asked.err) == (2, True), asked
        assert (_status(batch)["open_jobs"], len(api.runs())) == (0, 101)
        retry = ("retry", "out", "--yes")
        assert batchrun(*retry, cwd=tmp_path, environ=environ, constants=SOON_FINAL_COSTS).code == 1
        assert len(api.runs()) == 202


def test_tripped_jobs_are_those_that_the_breaker_named(tmp_path):
    """`--tripped` takes the ones among them that did not succeed; without a trip it says so."""
    with open_api(tmp_path / "api") as api:
        batch = CrashBatch(tmp_path, api.base_url, _jobs(), ONE_ATTEMPT)
        assert batch.run() == 1
        never = _say(batch, "retry", "out", "--tripped")
        assert (never.code, "has not tripped" in never.err) == (2, True), never
        with open_ledger(batch.out) as ledger, ledger.transaction():
            keys = tuple(map(JobKey, ("k3", "k4", "k6")))
            ledger.note_fact(TRIPS, [Trip(reason="half of 3 failed", group=None, keys=keys)])
        assert "Retrying 2 jobs" in _say(batch, "retry", "out", "--tripped").err
        assert {record["key"] for record in batch.records() if record["round"] == 2} == {"k3", "k6"}
