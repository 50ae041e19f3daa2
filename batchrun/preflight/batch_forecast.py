"""The forecast of a batch's time and cost from the task's recent Runs, and what it cannot know."""

from collections.abc import Sequence

import anyio

from batchrun.account.connect import PATIENCE_S
from batchrun.account.task import Task
from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import AccountInfo
from batchrun.engine.limits.account_capacity import FIRST_SLOTS
from batchrun.errors import ApiError
from batchrun.model import Run, RunStatus
from batchrun.policy.forecast import Estimate, elapsed, memory_slots, one_run, total
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.words.number_words import counted

#: Recent Runs that are read, in one request; more would reach back too far.
RECENT_RUNS = 200
#: With fewer samples, the forecast says how few.
FEW_SAMPLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Times and costs of the task's recent Runs."""

    #: Seconds and US dollars of Runs that succeeded; unknown costs are left out.
    durations_s: list[float]
    costs_usd: list[float]
    #: Runs that succeeded and whose cost is unknown.
    unknown_costs: int
    #: Runs that failed, timed out or were aborted.
    unsuccessful: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A batch's time and cost, each as the median and the 90th percentile."""

    runs: int
    #: Runs live at once, limited by slots and memory.
    slots: int
    #: Of the whole batch; None: unknown.
    elapsed_s: Estimate | None
    cost_usd: Estimate | None
    #: Of a single Run.
    run_s: Estimate | None
    run_cost_usd: Estimate | None
    #: Recent Runs that succeeded; those of them whose cost is known; those that did not succeed.
    samples: int
    cost_samples: int
    unsuccessful: int
    #: What the forecast does not know.
    unknown: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """The Runs that a forecast is made for, and their limits."""

    runs: int
    slots: int
    #: Mean memory of a Run, in megabytes; None: unknown.
    run_memory_mb: float | None
    start_rate_per_s: float


async def read_forecast(client: ApifyClient, account: AccountInfo, task: Task, effort: Effort) -> Forecast:
    """Forecast from the task's recent Runs; if they cannot be read, the forecast says so."""
    if not task.exists:
        return forecast(Samples(durations_s=[], costs_usd=[], unknown_costs=0, unsuccessful=0), account, effort)
    recent: list[Run] | None = None
    with anyio.move_on_after(PATIENCE_S):
        try:
            recent = [*(await client.list_task_runs(task.id, limit=RECENT_RUNS)).runs.values()]
        except ApiError:
            recent = None
    return forecast(None if recent is None else take_samples(recent), account, effort)


def take_samples(runs: Sequence[Run]) -> Samples:
    """Return the times and costs of Runs that have ended."""
    succeeded = [run for run in runs if run.status is RunStatus.SUCCEEDED and run.finished_at is not None]
    costs = [run.cost_usd for run in succeeded if run.cost_usd is not None]
    return Samples(
        durations_s=[
            max(0.0, (run.finished_at - run.started_at).total_seconds())
            for run in succeeded
            if run.finished_at and run.started_at
        ],
        costs_usd=costs,
        unknown_costs=len(succeeded) - len(costs),
        unsuccessful=sum(run.status.is_terminal and run.status is not RunStatus.SUCCEEDED for run in runs),
    )


def forecast(samples: Samples | None, account: AccountInfo, effort: Effort) -> Forecast:
    """Forecast from samples; None: the recent Runs cannot be read."""
    slots = _slots(account, effort)
    durations, costs = (samples.durations_s, samples.costs_usd) if samples is not None else ([], [])
    return Forecast(
        runs=effort.runs,
        slots=slots,
        elapsed_s=elapsed(effort.runs, durations, slots=slots, start_rate_per_s=effort.start_rate_per_s)
        if durations
        else None,
        cost_usd=total(effort.runs, costs) if costs else None,
        run_s=one_run(durations) if durations else None,
        run_cost_usd=one_run(costs) if costs else None,
        samples=len(durations),
        cost_samples=len(costs),
        unsuccessful=0 if samples is None else samples.unsuccessful,
        unknown=[*_unknown_samples(samples), *_unknown_slots(account, effort)] if effort.runs else [],
    )


def _slots(account: AccountInfo, effort: Effort) -> int:
    if account.limits.max_total_memory_mb is None or effort.run_memory_mb is None:
        return effort.slots
    free_mb = account.limits.max_total_memory_mb - (account.limits.used_memory_mb or 0)
    return min(effort.slots, memory_slots(free_mb, effort.run_memory_mb))


def _unknown_samples(samples: Samples | None) -> list[str]:
    if samples is None:
        return ["time and cost: the task's recent Runs cannot be read"]
    if not samples.durations_s:
        return ["time and cost: no recent Run of the task has succeeded"]
    unknown = ["whether Runs of these inputs are like the recent ones; the forecast leaves out waits and retries"]
    if samples.unknown_costs:
        unknown.append(f"the cost of {samples.unknown_costs:,} of the recent Runs")
    if len(samples.durations_s) < FEW_SAMPLES:
        verb = "is" if len(samples.durations_s) == 1 else "are"
        unknown.append(f"whether {counted(len(samples.durations_s), 'recent Run')} {verb} enough for a forecast")
    if samples.unsuccessful:
        unknown.append(
            f"how many Runs will fail, and at what cost: {samples.unsuccessful:,} of the last"
            f" {samples.unsuccessful + len(samples.durations_s):,} did not succeed"
        )
    return unknown


def _unknown_slots(account: AccountInfo, effort: Effort) -> list[str]:
    unknown = []
    if account.limits.max_concurrent_runs is None and effort.slots == FIRST_SLOTS:
        unknown.append("how many Runs the account may have at once")
    if account.limits.max_total_memory_mb is None:
        unknown.append("how much memory the account has")
    elif effort.run_memory_mb is None:
        unknown.append("how much memory a Run takes")
    return unknown
