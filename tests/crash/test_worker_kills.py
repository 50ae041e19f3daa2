"""A worker with five batches, killed at random and restarted; checked against the server's Runs."""

import random
import signal
import time
from collections import Counter
from functools import partial

import pytest

from tests.support.crash import open_api, some_jobs, wait_until
from tests.support.fault_sets import LOST_ANSWERS
from tests.support.worker_life import most_at_once
from tests.support.worker_process import KilledWorker, log_lines

SETTINGS = "[limits]\nstart_horizon_s = 2\nlisting_lag_s = 0.2\n[retry]\nbackoff_s = 0.05\n[output]\npage_size = 2\n"
NAMES = ("one", "two", "three", "four", "five")
MAX_CONCURRENT_RUNS = 12


def _supervise(worker: KilledWorker, chance: random.Random, kills: int, jobs: int, done_before: int) -> None:
    """Kill and restart the worker `kills` times, each soon after one of the next records of all batches is there."""
    for records in sorted(chance.choices(range(jobs * len(NAMES)), k=kills)):
        worker.until(partial(_has_records, worker, done_before + records), 900)
        time.sleep(chance.uniform(0.0, 0.5))
        worker.kill()
        worker.start()


def _has_records(worker: KilledWorker, count: int) -> bool:
    return worker.records_written() >= count


def _has_rounds(worker: KilledWorker, jobs: int, rounds: int) -> bool:
    """Whether every batch rests with a record of each job for each round."""
    batches = worker.batches()
    if any(batches.get(name, {}).get("state") != "finished" for name in NAMES):
        return False  # a record may be half written
    records = [worker.records(name) for name in NAMES]
    return all(Counter(each["round"] for each in found)[rounds] == jobs for found in records)


@pytest.mark.parametrize(
    ("kills", "jobs", "seed"),
    [(3, 20, 1), *(pytest.param(20, 400, seed, marks=pytest.mark.long) for seed in range(2, 5))],
)
def test_five_batches_and_their_retries_survive_any_number_of_kills(tmp_path, record_property, kills, jobs, seed):
    """One record per job and round, every Run of the server in a record, never more live Runs than allowed.

    The worker is killed as often while the batches run as while all their jobs are retried.
    """
    faults = tmp_path / "faults.toml"
    faults.write_text(f"seed = {seed}\n{LOST_ANSWERS}")
    config = f"[limits]\nmax_concurrent_runs = {MAX_CONCURRENT_RUNS}\n"
    with open_api(tmp_path / "api", faults=faults) as api:
        worker = KilledWorker(tmp_path / "data", api.base_url, config)
        for n, name in enumerate(NAMES):
            worker.put_batch(name, some_jobs(jobs, seed + n), SETTINGS)
        try:
            chance = random.Random(seed)
            worker.start()
            _supervise(worker, chance, kills, jobs, done_before=0)
            worker.until(lambda: _has_rounds(worker, jobs, 1), 900)
            for name in NAMES:
                worker.retry(name, {"outcomes": ["succeeded", "failed"]}, key="once")
            _supervise(worker, chance, kills, jobs, done_before=jobs * len(NAMES))
            worker.until(lambda: _has_rounds(worker, jobs, 2), 900)
            assert worker.stop() == 0, worker.said()
        finally:
            worker.end()
    with open_api(tmp_path / "api") as api:
        runs = api.runs()
    record_property("kills", worker.kills)
    assert worker.kills == 2 * kills
    told, cost_usd = list[str](), 0.0
    for name in NAMES:
        summary, records = worker.summary(name), worker.records(name)
        assert summary is not None
        assert summary["state"] == "finished", summary
        for number in (1, 2):
            lines = sorted(record["line"] for record in records if record["round"] == number)
            assert lines == list(range(1, jobs + 1)), (name, number)
        assert sum(summary["counts"]["outcomes"].values()) == jobs
        cost_usd += summary["counts"]["cost_usd"]
        for record in records:
            started = [each["run_id"] for each in record["attempts"] if each["run_id"]]
            assert len(started) == (2 if worker.jobs[name][record["line"] - 1]["fails"] else 1), record
            told += started
    assert sorted(told) == sorted(run["id"] for run in runs), worker.said()
    assert cost_usd == pytest.approx(sum(run["usageTotalUsd"] for run in runs))
    assert most_at_once(runs) <= MAX_CONCURRENT_RUNS


@pytest.mark.parametrize("kill_at", ["retry_ordered:1", "reopened:1", "intended:2", "settled:1"])
def test_a_retry_that_is_killed_is_one_round(tmp_path, kill_at):
    """Before it is taken up, after its commit, amid its round; the same order given again adds nothing."""
    jobs = [{"n": n, "fails": n < 3} for n in range(5)]
    with open_api(tmp_path / "api") as api:
        worker = KilledWorker(tmp_path / "data", api.base_url, "[limits]\nmax_concurrent_runs = 1\n")
        worker.put_batch("one", jobs, SETTINGS.replace("[retry]", "[retry]\nmax_attempts = 1"))
        try:
            worker.start()
            wait_until(lambda: worker.is_done)
            worker.kill()
            worker.start(kill_at)
            worker.retry("one", {}, key="once")
            assert worker.process.wait(60) == -signal.SIGKILL, worker.said()
            worker.start()
            worker.retry("one", {}, key="once")
            wait_until(lambda: Counter(each["round"] for each in log_lines(worker.records_file("one"))) == {1: 5, 2: 3})
            worker.retry("one", {}, key="once")
            assert worker.stop() == 0, worker.said()
        finally:
            worker.end()
        told = [each["run_id"] for record in worker.records("one") for each in record["attempts"] if each["run_id"]]
        assert sorted(told) == sorted(run["id"] for run in api.runs())
        assert Counter(each["round"] for each in worker.records("one")) == {1: 5, 2: 3}
