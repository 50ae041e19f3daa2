"""Money in the engine: the budget is never exceeded, and costs are read once they are final."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice

import anyio
import orjson
import pytest

from batchrun.engine.background import final_costs
from batchrun.engine.background.final_costs import PATIENCE_S
from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.notices import BudgetExhausted, CostsUnbounded, RunSuspect, StartsWaitForBudget
from batchrun.engine.work import Work
from batchrun.errors import BatchRefused, OutputLost
from batchrun.model import (
    Attempt,
    AttemptState,
    CostSource,
    Ending,
    Intent,
    Job,
    JobId,
    Outcome,
    Run,
    RunId,
    RunOptions,
    RunStatus,
)
from batchrun.policy.budget import Budget, ExcessCosts
from batchrun.policy.run_cost import ObservedCosts, Prices
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job, numbered
from tests.support.scripted_api import Engine, Plan, ScriptedApi, api_error, in_order, lost_answer, output_plan, retries

PER_EVENT = Prices(model="PAY_PER_EVENT")
CAP_USD = 0.10
#: We pay for all that a Run uses, and its options bound what it computes: at most a hundredth of a cent.
BY_USAGE = Prices(compute_unit_usd=0.288)
CHEAP_USD = 0.0001


def reservations(
    budget_usd: float | None,
    prices: Prices = PER_EVENT,
    *,
    is_strict: bool = True,
    spent_usd: float = 0.0,
    reserved_usd: float = 0.0,
    excess: ExcessCosts | None = None,
) -> CostReservations:
    """Return cost reservations with this much money."""
    budget = Budget(budget_usd, spent_usd=spent_usd, reserved_usd=reserved_usd)
    return CostReservations(budget, prices, task_options=RunOptions(), is_strict=is_strict, excess=excess)


def capped(count: int) -> Iterator[Job]:
    """Yield jobs whose Runs cost at most ten cents."""
    return (make_job(line, options=RunOptions(max_total_charge_usd=CAP_USD)) for line in range(1, count + 1))


def cheap(count: int) -> ListSource:
    """Return jobs whose Runs compute for at most CHEAP_USD."""
    options = RunOptions(memory_mb=128, timeout_s=10)
    return numbered(count, options=options)


def spent_at(api: ScriptedApi) -> float:
    """Return the final cost of all Runs, by the platform."""
    return sum(run.cost_usd or 0.0 for run in (api.run(run_id) for run_id in api.run_ids))


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(6, 100))])
async def test_a_budget_is_never_exceeded(seed: int) -> None:
    """Jobs have random costs up to their cap, random lengths, and lost answers."""
    chance = random.Random(seed)

    def plan(_: int) -> Plan:
        final_usd = chance.uniform(0, CAP_USD)
        told_usd = chance.choice([None, final_usd, final_usd * chance.random()])
        error, effects = (lost_answer(), chance.choice([0, 1])) if chance.random() < 0.02 else (None, 0)
        status = chance.choice([RunStatus.SUCCEEDED, RunStatus.FAILED])
        return Plan(run_s=chance.uniform(0.1, 30), status=status, cost_usd=told_usd, final_cost_usd=final_usd,
                    error=error, effects=effects)  # fmt: skip

    api, budget_usd = ScriptedApi(plan), chance.uniform(0.5, 8)
    engine = Engine(
        api,
        WatchedLedger(),
        ListSource(capped(1000)),
        slots=50,
        reservations=reservations(budget_usd),
        retry=retries(2),
    )
    await engine.run()
    await anyio.sleep(60)
    assert spent_at(api) <= budget_usd
    assert engine.scheduler.stopped_for is Ending.OUT_OF_BUDGET
    # Nothing lies idle either: what is left would not pay for another Run.
    await engine.costs.finish()
    assert engine.reservations.budget.spent_usd == pytest.approx(spent_at(api))


async def test_a_kill_changes_nothing_about_a_budget() -> None:
    """The money that an earlier process has spent and reserved is missing from the next one's budget."""
    ledger, api = WatchedLedger(), ScriptedApi(Plan(run_s=5, cost_usd=0.04, final_cost_usd=0.08))
    first = Engine(api, ledger, ListSource(capped(100)), slots=5, reservations=reservations(2.0))
    with anyio.move_on_after(32):
        await first.run()
    attempts = [each for each in ledger.attempts.values() if each.run_id or each.state is not AttemptState.ENDED]
    final = sum(each.cost_usd or 0.0 for each in attempts if each.cost_is_final)
    open_usd = sum(each.reserved_usd or 0.0 for each in attempts if not each.cost_is_final)
    assert 0 < final < 2.0
    by_key = {job.key: job for job in capped(100)}
    resumed = []
    for noted in ledger.jobs.values():
        if noted.id not in ledger.settled:
            mine = tuple(each for (job_id, _), each in sorted(ledger.attempts.items()) if job_id == noted.id)
            job = by_key[noted.key]
            resumed.append(Work(job=job, open=replace(noted, attempts=mine), attempts=mine))
    rest = ListSource(islice(capped(100), len(ledger.jobs), None))
    second = Engine(api, ledger, rest, slots=5, reservations=reservations(2.0, spent_usd=final, reserved_usd=open_usd))
    await second.run(resumed)
    await anyio.sleep(60)
    assert spent_at(api) <= 2.0
    assert len(api.run_ids) == int((2.0 - CAP_USD) / 0.08) + 1


@pytest.mark.parametrize("seed", [*range(6), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(6, 50))])
async def test_usage_without_a_limit_exceeds_a_strict_budget_by_a_few_runs_at_most(seed: int) -> None:
    """Storages and transfer cost a hundred times what the options bound, and most of it is known ten seconds late."""
    chance = random.Random(seed)
    most_usd, run_s = 100 * CHEAP_USD, chance.choice([0.3, 2, 20])

    def plan(_: int) -> Plan:
        final_usd = chance.choice([most_usd, chance.uniform(0, most_usd)])
        return Plan(run_s=run_s, cost_usd=chance.random() * CHEAP_USD, final_cost_usd=final_usd)

    api, budget_usd = ScriptedApi(plan), chance.uniform(0.5, 30) * most_usd
    engine = Engine(api, WatchedLedger(), cheap(1500), slots=200, reservations=reservations(budget_usd, BY_USAGE))
    await engine.run()
    await engine.costs.finish()
    assert engine.scheduler.stopped_for is Ending.OUT_OF_BUDGET
    assert spent_at(api) <= budget_usd + ExcessCosts.OPEN_BEFORE_ANY * most_usd
    assert engine.reservations.budget.spent_usd == pytest.approx(spent_at(api))
    assert (engine.reservations.budget.expected_usd, engine.reservations.budget.reserved_usd) == pytest.approx(
        (0.0, 0.0)
    )


async def test_a_budget_that_pays_for_all_usage_holds_nothing_up_for_long() -> None:
    """The first costs are waited for; after that, more and more Runs are live at once."""
    api = ScriptedApi(Plan(run_s=2, cost_usd=0.0, final_cost_usd=50 * CHEAP_USD))
    engine = Engine(api, WatchedLedger(), cheap(400), slots=60, reservations=reservations(1e6, BY_USAGE))
    records = await engine.run()
    assert (len(records), api.peak) == (400, 60)
    assert anyio.current_time() < 90


@pytest.mark.parametrize("max_open_polls", [1000, 1], ids=["polls", "sweep"])
async def test_what_live_runs_use_stops_new_starts(max_open_polls: int) -> None:
    """Three long Runs use up the budget while they are live: nothing more is started, and they are left running."""
    plans = in_order(*[Plan(run_s=7200, usd_per_s=0.004)] * 3, then=Plan(run_s=1, cost_usd=0.0))
    api, money = ScriptedApi(plans), reservations(2.0, BY_USAGE, excess=ExcessCosts(known=50, most_usd=0.01))
    engine = Engine(api, WatchedLedger(), cheap(1_000), slots=4, reservations=money, max_open_polls=max_open_polls)
    with anyio.move_on_after(900):
        await engine.run()
    assert 100 < max(api.begun_at) < 250, "live Runs are known to cost 2 dollars after 170 seconds"
    assert (api.live, api.aborted) == (3, [])
    kinds = [type(notice) for notice in engine.progress.notices.take()]
    assert [kind for kind in kinds if kind is not RunSuspect] == [StartsWaitForBudget, BudgetExhausted]


async def test_second_runs_of_a_start_are_paid_for_and_nothing_is_expected_of_them() -> None:
    """Something on the way has repeated every fourth start; the reservations come out even."""
    api = ScriptedApi(lambda n: Plan(run_s=5, cost_usd=50 * CHEAP_USD, repeats=int(n % 4 == 0)))
    engine = Engine(api, WatchedLedger(), cheap(40), slots=10, reservations=reservations(1.0, BY_USAGE))
    await engine.run()
    await engine.costs.finish()
    excess, budget = engine.reservations.excess, engine.reservations.budget
    assert excess is not None
    assert len(api.run_ids) == 50
    assert (excess.open_runs, excess.known) == (0, 40)
    assert excess.most_usd == pytest.approx(50 * CHEAP_USD, rel=0.05)
    assert (budget.spent_usd, budget.reserved_usd) == pytest.approx((spent_at(api), 0.0))


async def test_usage_so_far_costs_no_request_of_its_own() -> None:
    """A batch with a budget sends as many requests as one without: not one more for each Run."""
    requests = []
    for budget_usd in (1e6, None):
        api = ScriptedApi(Plan(run_s=600, usd_per_s=0.001))
        money = reservations(budget_usd, BY_USAGE, excess=ExcessCosts(known=50))
        await Engine(api, WatchedLedger(), cheap(40), slots=40, reservations=money, max_open_polls=20).run()
        requests.append(len(api.posts) + len(api.reads) + len(api.live_listings) + len(api.listings))
    assert requests[0] < requests[1] + 20


async def test_a_run_of_unbounded_cost_is_not_started() -> None:
    """With a strict budget, jobs of bounded cost are started and the others are not."""
    source = ListSource([make_job(1), *islice(capped(3), 1, None)])
    api = ScriptedApi(Plan(run_s=1, cost_usd=0.01))
    records = {
        record.line: record
        for record in await Engine(api, WatchedLedger(), source, reservations=reservations(5.0)).run()
    }
    assert [records[line].outcome for line in (1, 2, 3)] == [
        Outcome.REJECTED, Outcome.SUCCEEDED, Outcome.SUCCEEDED,
    ]  # fmt: skip
    assert records[1].error is not None
    assert records[1].error.type == "cost-not-bounded"


async def test_best_effort_reserves_what_runs_have_cost_so_far() -> None:
    """The budget may be exceeded, by at most the Runs that were live when the first costs came."""
    source = numbered(1000)
    api = ScriptedApi(Plan(run_s=5, cost_usd=0.1))
    engine = Engine(api, WatchedLedger(), source, slots=10, reservations=reservations(5.0, is_strict=False))
    await engine.run()
    assert engine.scheduler.stopped_for is Ending.OUT_OF_BUDGET
    assert 4.0 <= spent_at(api) <= 7.0


async def test_best_effort_reserves_no_less_than_most_runs_have_cost() -> None:
    """Also where the options bound what a Run computes, and by Runs of before."""
    observed = ObservedCosts()
    money = CostReservations(
        Budget(1.0), BY_USAGE, task_options=RunOptions(memory_mb=128, timeout_s=10), is_strict=False, observed=observed
    )
    assert money.quote(RunOptions()) == pytest.approx(CHEAP_USD)
    for _ in range(20):
        observed.note(0.25)
    assert money.quote(RunOptions()) == pytest.approx(0.25, rel=0.2)
    assert money.quote(RunOptions(timeout_s=360_000)) == pytest.approx(36_000 * CHEAP_USD)


async def test_unknown_costs_end_a_best_effort_budget() -> None:
    """An unknown cost is not 0: after MAX_UNKNOWN of them, nothing more is started."""
    source = numbered(1000)
    api = ScriptedApi(Plan(run_s=5, cost_usd=None))
    engine = Engine(api, WatchedLedger(), source, slots=10, reservations=reservations(5.0, is_strict=False))
    await engine.run()
    assert engine.scheduler.is_out_of_budget
    assert 50 <= len(api.run_ids) <= 100
    assert engine.progress.notices.take()[-1] == CostsUnbounded()


async def test_an_exhausted_shared_budget_is_reported_to_a_batch_without_one() -> None:
    """The batch stops for the budget of all batches, and its notice names no limit of the batch."""
    budget = Budget(None, shared=Budget(0.01))
    money_for_all = CostReservations(
        budget, PER_EVENT, task_options=RunOptions(max_total_charge_usd=0.5), is_strict=True
    )
    source = numbered(10)
    engine = Engine(ScriptedApi(Plan(run_s=5)), WatchedLedger(), source, slots=1, reservations=money_for_all)
    await engine.run()
    assert engine.scheduler.is_out_of_budget
    [notice] = engine.progress.notices.take()
    assert isinstance(notice, BudgetExhausted)
    assert notice.limit_usd is None


async def test_without_a_budget_nothing_is_reserved() -> None:
    """Every job runs, and no attempt reserves money."""
    ledger = WatchedLedger()
    records = await Engine(
        ScriptedApi(Plan(run_s=1)), ledger, ListSource(capped(20)), reservations=reservations(None)
    ).run()
    assert len(records) == 20
    assert {attempt.reserved_usd for attempt in ledger.attempts.values()} == {None}


async def test_a_start_without_a_run_releases_its_money() -> None:
    """A refused start and a lost start without a Run release what they reserved."""
    plans = in_order(Plan(error=lost_answer()), then=Plan(run_s=1, cost_usd=0.1, final_cost_usd=0.1))
    engine = Engine(ScriptedApi(plans), WatchedLedger(), ListSource(capped(1)), reservations=reservations(0.15))
    (record,) = await engine.run()
    await engine.costs.finish()
    assert record.outcome is Outcome.SUCCEEDED
    assert (engine.reservations.budget.reserved_usd, engine.reservations.budget.spent_usd) == pytest.approx((0.0, 0.1))


@pytest.mark.parametrize("fault", ["refused", "not noted"])
async def test_a_start_that_ends_the_batch_releases_its_money(fault: str) -> None:
    """The other batches of a shared budget can spend it, also before this one is closed."""

    class FullDisk(WatchedLedger):
        async def intend(self, _job_id: JobId, _intent: Intent) -> Attempt:
            raise OutputLost("the disk is full")

    shared = Budget(0.15)
    money = CostReservations(Budget(None, shared=shared), PER_EVENT, task_options=RunOptions(), is_strict=True)
    api = ScriptedApi(Plan(error=api_error(403)))
    engine = Engine(
        api, WatchedLedger() if fault == "refused" else FullDisk(), ListSource(capped(1)), reservations=money
    )
    with pytest.raises(BatchRefused if fault == "refused" else OutputLost):
        await engine.run()
    assert (shared.reserved_usd, shared.has(CAP_USD)) == (0.0, True)


async def test_an_unknown_cost_lets_no_further_runs_be_live() -> None:
    """Each known cost allows three more; a Run whose cost stays unknown shows nothing about the next ones."""
    money = reservations(1.0, BY_USAGE)
    for cost_usd, max_open_runs in ((None, 3), (CHEAP_USD, 6), (None, 6)):
        money.reserve(CHEAP_USD)
        money.settle(CHEAP_USD, cost_usd)
        assert money.excess is not None
        assert (money.excess.open_runs, money.excess.max_open_runs) == (0, max_open_runs)


async def test_final_costs_are_read_many_at_a_time() -> None:
    """The costs of two hundred Runs are read in a few listings, and no Run is read alone after its end."""
    api = ScriptedApi(Plan(run_s=5, cost_usd=None, final_cost_usd=0.02))
    ledger = WatchedLedger()
    engine = Engine(api, ledger, ListSource(capped(200)), slots=100, reservations=reservations(None))
    await engine.run()
    reads = len(api.reads)
    await engine.costs.finish()
    assert len(api.reads) <= reads + 2  # what the last listing left over
    assert len(api.listings) <= 6
    attempts = ledger.attempts.values()
    assert {(each.cost_usd, each.cost_source, each.cost_is_final) for each in attempts} == {
        (0.02, CostSource.PLATFORM, True)
    }


async def test_costs_keep_up_with_a_fast_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """More Runs end than one search for costs returns: at the end, only the costs of the last seconds are open."""
    monkeypatch.setattr(final_costs, "MAX_AT_ONCE", 5)
    api, ledger = ScriptedApi(Plan(run_s=1, cost_usd=0.01)), WatchedLedger()
    await Engine(api, ledger, ListSource(capped(500)), slots=50, start_rate=20, reservations=reservations(None)).run()
    assert sum(not each.cost_is_final for each in ledger.attempts.values()) < 15 * 20


async def test_a_cost_is_final_after_ten_seconds() -> None:
    """A cost is final ten seconds after the Run's end by the platform's clock, and not before."""
    api, ledger = ScriptedApi(Plan(run_s=5, cost_usd=0.01, final_cost_usd=0.02)), WatchedLedger()
    engine = Engine(api, ledger, ListSource(capped(1)), reservations=reservations(None))
    (record,) = await engine.run()
    line = orjson.loads(record.as_line())
    assert (line["cost_usd"], line["cost_is_final"]) == (0.01, False)
    assert anyio.current_time() == pytest.approx(5, abs=0.1)
    await engine.costs.finish()
    assert 15 <= anyio.current_time() <= 18
    assert engine.costs.waited_s == pytest.approx(anyio.current_time() - 5, abs=0.1)  # what the batch took ends before
    (attempt,) = ledger.attempts.values()
    assert (attempt.cost_usd, attempt.cost_is_final) == (0.02, True)


async def test_a_cost_that_the_platform_never_shows_stays_unknown() -> None:
    """An unknown cost becomes final, too, so that it is not read again and again."""
    ledger = WatchedLedger()
    engine = Engine(
        ScriptedApi(Plan(run_s=5, cost_usd=None)), ledger, ListSource(capped(3)), reservations=reservations(None)
    )
    await engine.run()
    await engine.costs.finish()
    assert {(each.cost_usd, each.cost_source) for each in ledger.attempts.values()} == {(None, CostSource.UNKNOWN)}
    assert await ledger.open_costs(datetime.max.replace(tzinfo=UTC), 10) == []


async def test_a_cost_that_cannot_be_read_stays_open_and_the_wait_for_it_ends() -> None:
    """The last known cost is not taken for the final one, and the next process reads it."""
    api, ledger = ScriptedApi(Plan(run_s=5, cost_usd=0.01, final_cost_usd=0.02)), WatchedLedger()
    engine = Engine(api, ledger, ListSource(capped(1)), reservations=reservations(None))
    await engine.run()
    api.errors["get_run"] = [api_error(403)] * 1000
    await engine.costs.finish()
    assert anyio.current_time() == pytest.approx(5 + PATIENCE_S, abs=1)
    (attempt,) = ledger.attempts.values()
    assert (attempt.cost_usd, attempt.cost_is_final) == (0.01, False)
    api.errors.clear()
    await Engine(api, ledger, ListSource(capped(1)), reservations=reservations(None)).costs.finish()
    (attempt,) = ledger.attempts.values()
    assert (attempt.cost_usd, attempt.cost_is_final) == (0.02, True)


@pytest.mark.parametrize(("misses", "final_usd"), [(3, 0.02), (1000, 0.01)], ids=["lag", "gone"])
async def test_a_run_that_is_not_found_at_first_is_read_again(misses: int, final_usd: float) -> None:
    """Only one that is gone for good keeps the cost that was known at its end."""
    api, ledger = ScriptedApi(Plan(run_s=5, cost_usd=0.01, final_cost_usd=0.02)), WatchedLedger()
    engine = Engine(api, ledger, ListSource(capped(1)), reservations=reservations(None))
    await engine.run()
    api.errors["get_run"] = [api_error(404, "record-not-found")] * misses
    await engine.costs.finish()
    (attempt,) = ledger.attempts.values()
    assert (attempt.cost_usd, attempt.cost_is_final) == (final_usd, True)


async def test_costs_that_cannot_be_read_hold_no_start_up_for_ever() -> None:
    """What is known of them counts as spent, and the batch goes on."""

    class Secretive(ScriptedApi):
        async def get_run(self, run_id: RunId, *, wait_for_finish_s: int = 0, gives_up: bool = False) -> Run:
            if not wait_for_finish_s:
                raise api_error(403)
            return await super().get_run(run_id, wait_for_finish_s=wait_for_finish_s, gives_up=gives_up)

    api = Secretive(Plan(run_s=1, cost_usd=0.5 * CHEAP_USD))
    api.errors["list_runs"] = [api_error(403)] * 100_000
    engine = Engine(api, WatchedLedger(), cheap(12), slots=4, reservations=reservations(1.0, BY_USAGE))
    with anyio.fail_after(600):
        records = await engine.run()
    assert len(records) == 12
    assert engine.reservations.budget.spent_usd == pytest.approx(6 * CHEAP_USD, rel=0.9)


async def test_the_progress_follows_final_costs() -> None:
    """What the platform adds after a Run's end is counted while the batch goes on."""
    api = ScriptedApi(Plan(run_s=5, cost_usd=0.01, final_cost_usd=0.03))
    engine = Engine(api, WatchedLedger(), ListSource(capped(40)), slots=4, reservations=reservations(None))
    await engine.run()
    assert 0.4 < engine.progress.cost_usd < 1.2
    await engine.costs.finish()
    assert engine.progress.cost_usd == pytest.approx(1.2)


async def test_a_pay_per_result_cost_is_derived_from_the_items() -> None:
    """A cost that the platform does not show is derived, and the record says so."""
    prices = Prices(model="PRICE_PER_DATASET_ITEM", per_item_usd=0.5)
    plan = Plan(run_s=1, cost_usd=None, items=[{"a": 1}] * 3)
    engine = Engine(
        ScriptedApi(plan),
        WatchedLedger(),
        ListSource(capped(1)),
        reservations=reservations(None, prices),
        output=output_plan("file"),
    )
    (record,) = await engine.run()
    line = orjson.loads(record.as_line())
    assert (line["cost_usd"], line["cost_source"]) == (1.5, CostSource.DERIVED)


async def test_a_budget_of_all_that_comes_while_a_batch_is_opened_refuses_none_of_its_jobs() -> None:
    """Prices were read without one in mind, so that nothing seems to bound a cost; it is opened again for them."""
    api = ScriptedApi(Plan(run_s=5, cost_usd=0.1))
    budget, no_prices = Budget(None, shared=Budget(5.0)), Prices(model="FREE")
    unpriced = CostReservations(budget, no_prices, task_options=RunOptions(), is_strict=True, is_priced=False)
    await Engine(api, WatchedLedger(), numbered(5), slots=2, reservations=unpriced).run()
    assert len(api.run_ids) == 5
