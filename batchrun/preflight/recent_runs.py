"""How long a batch would take and what it would cost, going by the task's recent Runs; and what that leaves open."""

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from batchrun.account.connect import PATIENCE_S, Task
from batchrun.account.limits_watch import FIRST_SLOTS
from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import Account
from batchrun.errors import ApiError
from batchrun.model import Run, RunStatus
from batchrun.policy.forecast import Estimate, elapsed, memory_slots, one_run, total

#: Recent Runs that are looked at: one request, and not so many that they tell of last year.
RECENT_RUNS = 200
#: With fewer samples, a forecast is called rough.
FEW_SAMPLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What the task's recent Runs took."""

    #: Seconds and US dollars of those that succeeded; a cost that was not told is left out, never 0.
    durations_s: list[float]
    costs_usd: list[float]
    #: Runs that succeeded and whose cost was not told.
    unknown_costs: int
    #: Runs that ended in another way.
    unsuccessful: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A batch's time and money: p50 is as likely too much as too little, p90 too little once in ten times."""

    runs: int
    #: Runs live at once, as far as slots and memory allow.
    slots: int
    #: Of the whole batch; None where nothing is known.
    elapsed_s: Estimate | None
    cost_usd: Estimate | None
    #: Of a single Run.
    run_s: Estimate | None
    run_cost_usd: Estimate | None
    #: Recent Runs that succeeded; those of them whose cost is known; those that ended in another way.
    samples: int
    cost_samples: int
    unsuccessful: int
    #: What the forecast does not know.
    unknown: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What is to be done, and with how much at once."""

    runs: int
    slots: int
    #: Memory of a Run, the mean where jobs differ; None where it is not known.
    run_memory_mb: float | None
    start_rate_per_s: float


async def read_forecast(client: ApifyClient, account: Account, task: Task, effort: Effort) -> Forecast:
    """Read the task's recent Runs and reckon with them; where they cannot be read, that is said."""
    if not task.exists:
        return forecast(Samples(durations_s=[], costs_usd=[], unknown_costs=0, unsuccessful=0), account, effort)
    recent: list[Run] | None = None
    with anyio.move_on_after(PATIENCE_S):
        try:
            recent = await client.list_task_runs(task.id, limit=RECENT_RUNS)
        except ApiError:
            recent = None
    return forecast(None if recent is None else take_samples(recent), account, effort)


def take_samples(runs: Sequence[Run]) -> Samples:
    """Return what Runs took, of those that have ended."""
    succeeded = [run for run in runs if run.status is RunStatus.SUCCEEDED and run.finished_at is not None]
    costs = [run.cost_usd for run in succeeded if run.cost_usd is not None]
    return Samples(
        durations_s=[
            max(0.0, (run.finished_at - run.started_at).total_seconds()) for run in succeeded if run.finished_at
        ],
        costs_usd=costs,
        unknown_costs=len(succeeded) - len(costs),
        unsuccessful=sum(run.status.is_terminal and run.status is not RunStatus.SUCCEEDED for run in runs),
    )


def forecast(samples: Samples | None, account: Account, effort: Effort) -> Forecast:
    """Reckon with what is known; `samples` is None where the recent Runs cannot be read."""
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


def _slots(account: Account, effort: Effort) -> int:
    if account.limits.max_total_memory_mb is None or effort.run_memory_mb is None:
        return effort.slots
    free_mb = account.limits.max_total_memory_mb - (account.limits.used_memory_mb or 0)
    return min(effort.slots, memory_slots(free_mb, effort.run_memory_mb))


def _unknown_samples(samples: Samples | None) -> list[str]:
    if samples is None:
        return ["time and money: the task's recent Runs cannot be read"]
    if not samples.durations_s:
        return ["time and money: no recent Run of the task has succeeded"]
    unknown = ["whether Runs of these inputs are like the recent ones; waits and retries are not in it"]
    if samples.unknown_costs:
        unknown.append(f"the cost of {samples.unknown_costs:,} of the recent Runs")
    if len(samples.durations_s) < FEW_SAMPLES:
        unknown.append(f"much: {len(samples.durations_s)} recent Runs make a rough forecast")
    if samples.unsuccessful:
        unknown.append(
            f"how many Runs fail, and what they cost: {samples.unsuccessful:,} of the last"
            f" {samples.unsuccessful + len(samples.durations_s):,} did not succeed"
        )
    return unknown


def _unknown_slots(account: Account, effort: Effort) -> list[str]:
    unknown = []
    if account.limits.max_concurrent_runs is None and effort.slots == FIRST_SLOTS:
        unknown.append("how many Runs the account may have at once")
    if account.limits.max_total_memory_mb is None:
        unknown.append("how much memory the account has")
    elif effort.run_memory_mb is None:
        unknown.append("how much memory a Run takes")
    return unknown
