from batchrun.ledger.sqlite.reader import open_for_reading
from tests.support.crash import CrashBatch, assert_promise_kept, open_api, some_jobs
from tests.support.patience import SOON_FINAL_COSTS, SOON_SETTLED_S

#: What one Run of these may cost: 128 MB for a minute.
ONE_RUN_USD = 0.25 * 128 / 1024 * 60 / 3600


def test_kills_leak_no_money_and_spend_none_twice(tmp_path):
    """The budget is what all attempts together may cost and no cent more: what a kill lost of it would be missed."""
    jobs = some_jobs(40)
    attempts = len(jobs) + sum(bool(job.get("fails")) for job in jobs)
    settings = {
        "limits.budget_usd": attempts * ONE_RUN_USD,
        "limits.compute_unit_usd": 0.25,
        "run.timeout_s": 60,
        "limits.max_concurrent_runs": 8,
    }
    with open_api(tmp_path / "api", usage_settle_s=SOON_SETTLED_S) as api:
        batch = CrashBatch(tmp_path, api.base_url, jobs, settings, constants=SOON_FINAL_COSTS)
        assert batch.run_with_kills(seed=11, kills=5, longest_s=1.0) == 1, batch.said()
        assert batch.kills >= 1
        assert_promise_kept(batch, api)
        cost_usd = sum(run["usageTotalUsd"] for run in api.runs())
    with open_for_reading(batch.out) as ledger:
        money = ledger.money()
    assert (round(money.spent_usd, 9), money.reserved_usd) == (round(cost_usd, 9), 0)
