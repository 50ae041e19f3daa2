"""A worker with five batches, killed at random and restarted; checked against the server's Runs."""

import random
import time

import pytest

from tests.support.crash import open_api, some_jobs, wait_until
from tests.support.fault_sets import LOST_ANSWERS
from tests.support.worker_life import most_at_once
from tests.support.worker_process import KilledWorker

SETTINGS = "[limits]\nstart_horizon_s = 2\nlisting_lag_s = 0.2\n[retry]\nbackoff_s = 0.05\n[output]\npage_size = 2\n"
NAMES = ("one", "two", "three", "four", "five")
MAX_CONCURRENT_RUNS = 12


def _supervise(worker: KilledWorker, chance: random.Random, kills: int) -> None:
    """Kill and restart the worker `kills` times while batches are open; then let it end."""
    worker.start()
    while worker.kills < kills and not worker.is_done:
        time.sleep(chance.uniform(0.4, 2.0))
        worker.kill()
        worker.start()
    wait_until(lambda: worker.is_done, 180)
    assert worker.stop() == 0, worker.said()


@pytest.mark.parametrize(
    ("kills", "jobs", "seed"),
    [(5, 60, 1), *(pytest.param(20, 400, seed, marks=pytest.mark.long) for seed in range(2, 5))],
)
def test_five_batches_survive_any_number_of_kills(tmp_path, record_property, kills, jobs, seed):
    """One record per job, every Run of the server in a record, and never more live Runs than allowed."""
    faults = tmp_path / "faults.toml"
    faults.write_text(f"seed = {seed}\n{LOST_ANSWERS}")
    config = f"[limits]\nmax_concurrent_runs = {MAX_CONCURRENT_RUNS}\n"
    with open_api(tmp_path / "api", faults=faults) as api:
        worker = KilledWorker(tmp_path / "data", api.base_url, config)
        for n, name in enumerate(NAMES):
            worker.put_batch(name, some_jobs(jobs, seed + n), SETTINGS)
        try:
            _supervise(worker, random.Random(seed), kills)
        finally:
            worker.end()
    with open_api(tmp_path / "api") as api:
        runs = api.runs()
    record_property("kills", worker.kills)
    assert worker.kills >= 3
    told, cost_usd = list[str](), 0.0
    for name in NAMES:
        summary, records = worker.summary(name), worker.records(name)
        assert summary is not None
        assert summary["state"] == "finished", summary
        assert sorted(record["line"] for record in records) == list(range(1, jobs + 1)), name
        assert sum(summary["counts"]["outcomes"].values()) == jobs
        cost_usd += summary["counts"]["cost_usd"]
        for record in records:
            started = [each["run_id"] for each in record["attempts"] if each["run_id"]]
            assert len(started) == (2 if worker.jobs[name][record["line"] - 1]["fails"] else 1), record
            told += started
    assert sorted(told) == sorted(run["id"] for run in runs), worker.said()
    assert cost_usd == pytest.approx(sum(run["usageTotalUsd"] for run in runs))
    assert most_at_once(runs) <= MAX_CONCURRENT_RUNS
