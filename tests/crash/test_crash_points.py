import signal

import pytest

from tests.support.crash import CrashBatch, assert_promise_kept, open_api, some_jobs

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
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(48))
        assert batch.run(kill_at=kill_at) == -signal.SIGKILL, batch.said()
        assert batch.run() == 1, batch.said()
        assert_promise_kept(batch, api)


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
        batch = CrashBatch(tmp_path, api.base_url, some_jobs(300))
        assert batch.run_with_kills(seed=1, kills=8, longest_s=0.8) == 1, batch.said()
        assert batch.kills >= 3
        assert_promise_kept(batch, api)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    "kill_at", ["replaced:1", "admitted:1", "intended:9", "answered:9", "settled:9", "committed:3"]
)
def test_a_batch_killed_while_lines_replace_others_carries_each_out_once(tmp_path, kill_at, suffix):
    """A job that was not started has one Run, with its last input; one that was has one for each of its inputs."""
    jobs = [{"n": n, "ms": 20, "items": 1, "@key": f"k{n}", "@priority": n % 3} for n in range(60)]
    mending = [{"n": 100 + n, "ms": 20, "items": 1, "@key": f"k{n}", "@replaces": True} for n in range(0, 60, 2)]
    with open_api(tmp_path / "api") as api:
        settings = {"limits.max_concurrent_runs": 2}
        batch = CrashBatch(tmp_path, api.base_url, jobs, settings, suffix=suffix)
        assert batch.run(kill_at="settled:8") == -signal.SIGKILL, batch.said()
        batch = CrashBatch(tmp_path, api.base_url, [*jobs, *mending], settings, suffix=suffix)
        assert batch.run(kill_at=kill_at) == -signal.SIGKILL, batch.said()
        code = batch.run()
        records, runs = batch.records(), api.runs()
        refused = [each for each in records if each["outcome"] == "invalid"]
        assert (code, len(refused) <= 4) == (1 if refused else 0, True), batch.said()
        attempts = [each["run_id"] for record in records for each in record["attempts"] if each["run_id"]]
        assert sorted(attempts) == sorted(run["id"] for run in runs), batch.said()
        carried_out = [record["line"] for record in records if record["key"]]
        assert len(carried_out) == len(set(carried_out)), "no line is carried out twice"
        last = {record["key"]: record["line"] for record in records if record["key"]}
        left = {batch.jobs[record["line"] - 1]["@key"] for record in refused}
        wanted = {job["@key"]: line for line, job in enumerate(batch.jobs, 1) if line <= 60 or job["@key"] not in left}
        assert last == wanted
        assert len(batch.items()) == len(runs) <= 60 + 12, batch.said()
