"""The forecast of a batch's time and cost from the task's recent Runs, and the unknowns that it reports."""

from datetime import UTC, datetime, timedelta
from typing import Any

from batchrun.apify.wire import AccountInfo, AccountLimits
from batchrun.model import Run, RunId, RunStatus
from batchrun.policy.forecast import Estimate
from batchrun.preflight.batch_forecast import Effort, Samples, forecast, take_samples

BEGAN = datetime(2026, 1, 2, tzinfo=UTC)


def _run(seconds: float | None, cost_usd: float | None, status: RunStatus = RunStatus.SUCCEEDED) -> Run:
    return Run(
        id=RunId("r"),
        status=status,
        dataset_id=None,
        store_id=None,
        started_at=BEGAN,
        finished_at=None if seconds is None else BEGAN + timedelta(seconds=seconds),
        cost_usd=cost_usd,
        user_agent=None,
        fields={},
    )


def _account(**known: Any) -> AccountInfo:
    values: dict[str, Any] = {"max_concurrent_runs": 25, "live_runs": 0, "max_total_memory_mb": 8192}
    limits = AccountLimits(**{**values, "used_memory_mb": 0, **known})
    return AccountInfo(username="u", plan=None, limits=limits, max_monthly_usage_usd=None, monthly_usage_usd=None)


EFFORT = Effort(runs=100, slots=10, run_memory_mb=1024, start_rate_per_s=100.0)
STEADY = Samples(durations_s=[20.0] * 40, costs_usd=[0.25] * 40, unknown_costs=0, unsuccessful=0)


def test_only_runs_that_succeeded_are_samples():
    """An unknown cost is not counted as 0; a live Run is not counted at all."""
    runs = [
        _run(10, 0.5),
        _run(20, None),
        _run(30, 0.0),
        _run(5, 9.0, RunStatus.FAILED),
        _run(5, None, RunStatus.ABORTED),
        _run(None, None, RunStatus.RUNNING),
    ]
    assert take_samples(runs) == Samples(
        durations_s=[10.0, 20.0, 30.0], costs_usd=[0.5, 0.0], unknown_costs=1, unsuccessful=2
    )


def test_a_steady_task_is_forecast_exactly():
    """Ten at once, of which eight fit into memory: 100 Runs of 20 s, at 25 cents."""
    found = forecast(STEADY, _account(), EFFORT)
    assert (found.runs, found.slots, found.samples, found.cost_samples) == (100, 8, 40, 40)
    assert found.elapsed_s == Estimate(p50=250 + 7 / 8 * 20, p90=250 + 7 / 8 * 20)
    assert found.cost_usd == Estimate(p50=25.0, p90=25.0)
    assert found.run_s == Estimate(p50=20.0, p90=20.0)
    assert found.unknown == [
        "whether Runs of these inputs are like the recent ones; the forecast leaves out waits and retries"
    ]


def test_memory_that_others_take_is_not_ours():
    """The forecast uses the memory that is free, and at least one Run."""
    assert forecast(STEADY, _account(used_memory_mb=4096), EFFORT).slots == 4
    assert forecast(STEADY, _account(used_memory_mb=9000), EFFORT).slots == 1


def test_without_samples_nothing_is_claimed():
    """Without a recent Run that succeeded, or that can be read, the forecast has no numbers."""
    nothing = Samples(durations_s=[], costs_usd=[], unknown_costs=0, unsuccessful=3)
    for samples, why in ((nothing, "no recent Run of the task has succeeded"), (None, "cannot be read")):
        found = forecast(samples, _account(), EFFORT)
        assert (found.elapsed_s, found.cost_usd, found.run_s, found.run_cost_usd) == (None, None, None, None)
        assert any(why in each for each in found.unknown)


def test_each_unknown_is_reported():
    """Unknown costs, failures, few samples, and unknown limits of the account."""
    samples = Samples(durations_s=[1.0] * 3, costs_usd=[], unknown_costs=3, unsuccessful=2)
    account = _account(max_concurrent_runs=None, max_total_memory_mb=None)
    effort = Effort(runs=5, slots=2, run_memory_mb=None, start_rate_per_s=1.0)
    found = forecast(samples, account, effort)
    assert found.cost_usd is None
    assert found.unknown[1:] == [
        "the cost of 3 of the recent Runs",
        "whether 3 recent Runs are enough for a forecast",
        "how many Runs will fail, and at what cost: 2 of the last 5 did not succeed",
        "how many Runs the account may have at once",
        "how much memory the account has",
    ]
    assert forecast(STEADY, _account(), Effort(runs=5, slots=2, run_memory_mb=None, start_rate_per_s=1.0)).unknown[
        1:
    ] == ["how much memory a Run takes"]


def test_without_runs_nothing_is_unknown():
    """The forecast of a finished batch reports no unknowns."""
    effort = Effort(runs=0, slots=10, run_memory_mb=None, start_rate_per_s=1.0)
    assert forecast(None, _account(), effort).unknown == []
