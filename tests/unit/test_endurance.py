"""Everything at once: kills, groups, mixed memory, ladders, lost answers, refusals and a budget, on virtual time."""

import random
from dataclasses import replace
from typing import Any

import anyio
import pytest

from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.work import Work
from batchrun.errors import TransportError
from batchrun.model import AttemptState, Cause, Job, JobKey, Outcome, RunOptions, RunStatus
from batchrun.policy.breaker import BreakerLimits
from batchrun.policy.budget import Budget
from batchrun.policy.deadlines import Deadlines
from batchrun.policy.retry import Escalation, RetryPolicy
from batchrun.policy.run_cost import Prices
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job, numbered
from tests.support.scripted_api import Engine, Plan, ScriptedApi, api_error, lost_answer, output_plan, retries

SIZES_MB = [128, 256, 1024, 4096]
PRICES = Prices(compute_unit_usd=0.4)


def plans(chance: random.Random) -> Any:
    """Return a platform's mood: most starts are taken, some answers are lost, some Runs fail or want more memory."""

    def plan(_: int) -> Plan:
        refusals = [lost_answer(), api_error(429), api_error(402, "actor-memory-limit-exceeded")]
        error = chance.choice(refusals) if chance.random() < 0.05 else None
        return Plan(
            run_s=chance.uniform(0.1, 40),
            status=chance.choice([RunStatus.SUCCEEDED, RunStatus.FAILED]),
            exit_code=chance.choice([1, 137]),
            cost_usd=None,
            final_cost_usd=chance.uniform(0, 128 / 1024 * 60 / 3600 * 0.4),
            error=error,
            effects=chance.choice([0, 1]) if isinstance(error, TransportError) else 0,
        )

    return plan


def ladder_policy(ceiling_mb: int = 8192) -> RetryPolicy:
    """Return retries of what failed, with more memory where that was short."""
    policy = retries(3, on=[Outcome.FAILED], escalation=Escalation(memory_factor=2, memory_ceiling_mb=ceiling_mb))
    return RetryPolicy(
        rules={**policy.rules, Cause.OUT_OF_MEMORY: policy.rules[Cause.FAILED]}, escalation=policy.escalation
    )


def taken_up(ledger: WatchedLedger, jobs: dict[JobKey, Job]) -> list[Work]:
    """Return the open jobs as an earlier process left them, those with a live Run first."""
    works = []
    for noted in ledger.jobs.values():
        if noted.id not in ledger.settled:
            mine = tuple(each for (job_id, _), each in sorted(ledger.attempts.items()) if job_id == noted.id)
            works.append(Work(job=jobs[noted.key], open=replace(noted, attempts=mine), attempts=mine))
    return sorted(works, key=lambda work: work.needs_start)


def first_known(pairs: list[tuple[float | None, float | None]]) -> float:
    """Add up the first of each pair that is known."""
    return sum(next((usd for usd in pair if usd is not None), 0.0) for pair in pairs)


def money_left(ledger: WatchedLedger, limit_usd: float | None) -> CostReservations:
    """Return what an earlier process left of a budget."""
    paid = [each for each in ledger.attempts.values() if each.run_id or each.state is not AttemptState.ENDED]
    final = [(each.cost_usd, each.reserved_usd) for each in paid if each.cost_is_final]
    live = [(each.reserved_usd, each.cost_usd) for each in paid if not each.cost_is_final]
    budget = Budget(limit_usd, spent_usd=first_known(final), reserved_usd=first_known(live))
    return CostReservations(budget, PRICES, task_options=RunOptions(), is_strict=True)


@pytest.mark.parametrize("seed", [*range(2), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 12))])
async def test_whatever_comes_together_the_batch_ends_and_the_promise_holds(seed: int) -> None:
    """Killed three times: no hang, no Run twice, none unknown, and no more spent than the budget."""
    chance = random.Random(seed)
    options = [RunOptions(memory_mb=size_mb, timeout_s=60) for size_mb in SIZES_MB]
    jobs = [
        make_job(line, group=chance.choice([None, "a", "b", "c"]), options=chance.choice(options))
        for line in range(1, 201)
    ]
    limit_usd = chance.choice([None, 0.5, 2.0])
    ledger = WatchedLedger(sync_s=0.01)
    api = ScriptedApi(plans(chance), fresh_404_s=chance.choice([0, 2]), list_lag_s=1)
    by_key = {job.key: job for job in jobs}
    has_ended = False
    for kill in range(4):
        rest = ListSource([job for job in jobs if job.key not in ledger.jobs])
        resumed = taken_up(ledger, by_key)
        # The budget may come and go between processes.
        usd = chance.choice([None, limit_usd]) if kill == 1 and limit_usd is None else limit_usd
        engine = Engine(
            api, ledger, rest, slots=chance.choice([3, 20, 60]), reservations=money_left(ledger, usd),
            retry=ladder_policy(), memory_mb=8192, group_limits={"a": 4}, weights={"b": 2.0},
            limits=BreakerLimits(max_failed=0.95, window=50),
            terms={"max_memory_mb": 8192, "deadlines": Deadlines(max_job_s=200)},
        )  # fmt: skip
        with anyio.move_on_after(chance.uniform(5, 60) if kill < 3 else 1e5) as scope:
            await engine.run(resumed)
        has_ended = not scope.cancelled_caught
        if has_ended:
            break
    assert has_ended
    await anyio.sleep(100)
    run_ids = [each.run_id for each in ledger.attempts.values() if each.run_id is not None]
    assert len(run_ids) == len(set(run_ids))
    assert set(run_ids) == set(api.run_ids)
    if limit_usd is not None:
        assert sum(api.run(run_id).cost_usd or 0.0 for run_id in api.run_ids) <= limit_usd + 1e-9


async def test_a_deadline_before_a_retry_gives_no_money_back_twice() -> None:
    """Jobs whose own time runs out while they wait for their retry: the budget holds."""
    plan = lambda n: Plan(run_s=1, status=RunStatus.FAILED, cost_usd=0.01) if n <= 40 else Plan(run_s=200, cost_usd=0.1)  # noqa: E731
    options = RunOptions(max_total_charge_usd=0.1)
    jobs = numbered(399, options=options)
    prices = Prices(model="PAY_PER_EVENT")
    reservations = CostReservations(Budget(8.0), prices, task_options=RunOptions(), is_strict=True)
    api = ScriptedApi(plan)
    terms = {"deadlines": Deadlines(max_job_s=190)}
    await Engine(
        api, WatchedLedger(), jobs, slots=40, reservations=reservations, retry=retries(2, first_s=40), terms=terms
    ).run()
    await anyio.sleep(100)
    assert sum(api.run(run_id).cost_usd or 0.0 for run_id in api.run_ids) <= 8.0
    assert reservations.budget.reserved_usd == pytest.approx(0.0)


async def test_an_escalation_above_all_memory_settles_the_job_by_its_last_run() -> None:
    """What was paid for is collected, and the outcome is the Run's."""
    api = ScriptedApi(Plan(run_s=1, status=RunStatus.FAILED, exit_code=137, items=[{"a": 1}]))
    source = ListSource([make_job(options=RunOptions(memory_mb=4096))])
    terms = {"max_memory_mb": 4096}
    engine = Engine(api, WatchedLedger(), source, retry=ladder_policy(), terms=terms, output=output_plan("file"))
    (record,) = await engine.run()
    assert (record.outcome, record.items and record.items.count, len(api.posts)) == (Outcome.FAILED, 1, 1)


async def test_small_jobs_that_come_due_again_do_not_lock_out_a_large_one() -> None:
    """After a while all others wait for the large job, and it starts."""
    sizes = [128] * 69 + [8192] + [128] * 100
    jobs = [make_job(line, options=RunOptions(memory_mb=size_mb)) for line, size_mb in enumerate(sizes, 1)]
    api = ScriptedApi(lambda n: Plan(run_s=60 if n <= 100 else 5, status=RunStatus.FAILED))
    engine = Engine(api, WatchedLedger(), ListSource(jobs), slots=200, memory_mb=128 * 70, retry=retries(2, first_s=1))
    with anyio.fail_after(50_000):
        assert len(await engine.run()) == 170


async def test_a_budget_set_later_counts_what_is_live() -> None:
    """Runs of a process without a budget get money set aside when the next one has some."""
    options = RunOptions(max_total_charge_usd=0.1)
    jobs = [make_job(line, options=options) for line in range(1, 101)]
    api, ledger = ScriptedApi(Plan(run_s=100, cost_usd=0.1)), WatchedLedger()
    with anyio.move_on_after(50):
        await Engine(api, ledger, ListSource(jobs), slots=10).run()
    assert len(api.run_ids) == 10
    reservations = CostReservations(
        Budget(1.5), Prices(model="PAY_PER_EVENT"), task_options=RunOptions(), is_strict=True
    )
    rest = ListSource([job for job in jobs if job.key not in ledger.jobs])
    await Engine(api, ledger, rest, slots=10, reservations=reservations).run(
        taken_up(ledger, {job.key: job for job in jobs})
    )
    await anyio.sleep(100)
    assert len(api.run_ids) == 15


async def test_a_job_above_the_budget_is_left_open_and_the_others_go_on() -> None:
    """One line capped at fifty dollars stops no other job."""
    caps = [50.0] + [0.01] * 99
    jobs = [make_job(line, options=RunOptions(max_total_charge_usd=cap)) for line, cap in enumerate(caps, 1)]
    reservations = CostReservations(
        Budget(20.0), Prices(model="PAY_PER_EVENT"), task_options=RunOptions(), is_strict=True
    )
    engine = Engine(
        ScriptedApi(Plan(run_s=1, cost_usd=0.01)), WatchedLedger(), ListSource(jobs), reservations=reservations
    )
    records = await engine.run()
    assert (len(records), engine.progress.left_open, engine.scheduler.is_out_of_budget) == (99, 1, True)
