"""Clocks that disagree: the one that stamps Runs, the one in `Date` headers, and this machine's. On virtual time."""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from batchrun.apify.platform_clock import PlatformClock
from batchrun.engine.doubt.reconcile import EarlierDoubts
from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.limits.permits import Demand
from batchrun.engine.work import Work
from batchrun.model import Attempt, AttemptState, Job, JobKey, Mark, Outcome, RunOptions
from batchrun.policy.budget import Budget
from batchrun.policy.deadlines import Deadlines
from batchrun.policy.run_cost import Prices
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job, numbered, read_to
from tests.support.scripted_api import Engine, Plan, ScriptedApi, in_order, lost_answer

HOUR_S = 3600.0
#: Ends of the horizon and the lag that the engines of these tests know.
HORIZON_S, LAG_S = 60.0, 5.0
LOST_AFTER_EFFECT = Plan(run_s=500, error=lost_answer(), effects=1)


def api_of(
    plan: Any = None, *, date_ahead_s: float | None = 0.0, runs_ahead_s: float = 0.0, **settings: Any
) -> ScriptedApi:
    """Return a platform whose clocks are ahead of this machine's."""
    api = ScriptedApi(plan, **settings)
    api.date_ahead_s, api.runs_ahead_s = date_ahead_s, runs_ahead_s
    return api


def jobs(count: int) -> list[Job]:
    """Return jobs, each with a body of its own."""
    return [make_job(line) for line in range(1, count + 1)]


async def run_and_kill(api: ScriptedApi, ledger: WatchedLedger, count: int, kill_after_s: float | None) -> bool:
    """Carry jobs out in a process of its own, from where the ledger stands; return whether it came to the end."""
    api.clock = PlatformClock()
    by_key = {job.key: job for job in jobs(count)}
    noted = [each for each in ledger.open_jobs() if each.id not in ledger.settled]
    resumed = [Work(job=by_key[each.key], open=each, attempts=each.attempts) for each in noted]
    rest = ListSource(jobs(count)[len(ledger.jobs) :])
    engine = Engine(api, ledger, rest, slots=4, start_horizon_s=HORIZON_S, listing_lag_s=LAG_S)
    with anyio.move_on_after(float("inf") if kill_after_s is None else kill_after_s) as killed:
        await engine.run(resumed)
    return not killed.cancelled_caught


def runs_by_job(api: ScriptedApi) -> Counter[bytes]:
    """Return how many Runs the platform has of each job."""
    bodies = {post.mark: post.body for post in api.posts}
    return Counter(
        next(body for mark, body in bodies.items() if mark in (api.run(run_id).user_agent or ""))
        for run_id in api.run_ids
    )


@pytest.mark.parametrize("lost", [1, 5], ids=["first start", "fifth start"])
@pytest.mark.parametrize("runs_ahead_s", [-HOUR_S, 0.0, HOUR_S])
@pytest.mark.parametrize("date_ahead_s", [-HOUR_S, -40.0, 40.0, HOUR_S, None])
async def test_a_start_in_doubt_is_found_whatever_the_date_says(
    date_ahead_s: float | None, runs_ahead_s: float, lost: int
) -> None:
    """A Run is stamped by one clock and the answers by another: no job gets two Runs."""
    api = api_of(
        lambda n: LOST_AFTER_EFFECT if n == lost else Plan(), date_ahead_s=date_ahead_s, runs_ahead_s=runs_ahead_s
    )
    engine = Engine(api, WatchedLedger(), ListSource(jobs(6)), slots=1)
    records = await engine.run()
    assert {record.outcome for record in records} == {Outcome.SUCCEEDED}
    assert (len(records), set(runs_by_job(api).values())) == (6, {1})


async def test_a_date_that_jumps_moves_no_search() -> None:
    """A second gateway with another clock answers from some start on."""

    def plan(n: int) -> Plan:
        api.date_ahead_s = 0.0 if n < 4 else 900.0
        return LOST_AFTER_EFFECT if n == 7 else Plan()

    api = api_of(plan)
    assert await run_and_kill(api, WatchedLedger(), 12, None)
    assert set(runs_by_job(api).values()) == {1}


@pytest.mark.parametrize("jump_s", [-7200.0, -100.0, 7200.0])
async def test_runs_stamped_by_a_clock_that_jumps_are_found(jump_s: float) -> None:
    """The next answered start shows the jump, and the search goes back far enough."""

    def plan(n: int) -> Plan:
        api.runs_ahead_s = 0.0 if n < 6 else jump_s
        return LOST_AFTER_EFFECT if n == 6 else Plan()

    api = api_of(plan)
    assert await run_and_kill(api, WatchedLedger(), 12, None)
    assert set(runs_by_job(api).values()) == {1}


async def test_a_first_start_in_doubt_is_searched_narrowly_once_another_is_answered() -> None:
    """Without an echo, a Run of somebody else, an hour older, is no suspect then."""
    api = api_of(in_order(Plan(error=lost_answer()), then=Plan()), echoes=False)
    api.add_run(user_agent="somebody", began_at=-HOUR_S)
    assert await run_and_kill(api, WatchedLedger(), 4, None)
    assert len(api.run_ids) == 5


async def resolve_noted(api: ScriptedApi, **noted: Any) -> str | None:
    """Resolve an attempt that an earlier process has intended."""
    attempt = Attempt(attempt_no=1, mark=Mark("mine"), state=AttemptState.INTENDED, **noted)
    engine = Engine(api, WatchedLedger(), ListSource([]), doubts=EarlierDoubts(echoes=True))
    async with engine.reconciling():
        run = await engine.reconciler.resolve(attempt, JobKey("job"), engine.permits.adopt(Demand()))
    return None if run is None else run.id


@pytest.mark.parametrize("wrong_s", [-20 * HOUR_S, -100.0, 100.0, 20 * HOUR_S])
async def test_an_attempt_that_an_earlier_version_has_noted_is_found(wrong_s: float) -> None:
    """It noted a `Date`, which may be any clock's, as the time before which its Run cannot have begun."""
    api = api_of()
    ours = api.add_run(user_agent="batchrun/0 (mine)")
    wrong = datetime.now(UTC) + timedelta(seconds=wrong_s)
    assert await resolve_noted(api, intended_at=datetime.now(UTC), platform_time=wrong) == ours


async def test_an_attempt_is_found_by_the_measurement_of_an_earlier_process() -> None:
    """This process has measured nothing, and both clocks that it can read are wrong by days."""
    api = api_of(runs_ahead_s=-72 * HOUR_S)
    ours = api.add_run(user_agent="batchrun/0 (mine)")
    began_at = api.run(ours).started_at
    assert began_at is not None
    noted = began_at - timedelta(seconds=1)
    assert await resolve_noted(api, intended_at=datetime.now(UTC), not_before=noted) == ours


@pytest.mark.parametrize("seed", [*range(10), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(10, 60))])
async def test_no_job_ever_gets_two_runs(seed: int) -> None:
    """Whatever clocks show, and whenever the process is killed; the Runs' own clocks agree within half a minute."""
    chance = random.Random(seed)
    base_s = chance.choice([0.0, chance.uniform(-60, 60), chance.uniform(-12 * HOUR_S, 12 * HOUR_S)])

    def set_clocks() -> None:
        api.runs_ahead_s = base_s + chance.uniform(-12, 12) * chance.choice([0, 1])
        if chance.random() < 0.3:
            api.date_ahead_s = chance.choice([None, 0.0, chance.uniform(-90, 90), chance.uniform(-1, 1) * 12 * HOUR_S])

    def plan(_: int) -> Plan:
        set_clocks()
        run_s, back_s = chance.choice([0.1, 30, 200]), chance.choice([0, 0.1, 20])
        if chance.random() < 0.25:
            late_s = chance.choice([0, chance.uniform(0, HORIZON_S - 1)])
            effects = chance.choice([0, 1, 1])
            return Plan(run_s=run_s, error=lost_answer(), effects=effects, effect_after_s=late_s, answer_after_s=back_s)
        return Plan(run_s=run_s, answer_after_s=back_s)

    api, ledger = api_of(plan, list_lag_s=chance.uniform(0, LAG_S - 1)), WatchedLedger()
    set_clocks()
    for _ in range(3):
        if await run_and_kill(api, ledger, 20, chance.expovariate(1 / 60)):
            break
    await run_and_kill(api, ledger, 20, None)
    assert len(ledger.settled) == 20
    assert runs_by_job(api) == Counter({job.body: 1 for job in jobs(20)})


def capped(count: int) -> ListSource:
    """Return jobs whose Runs cost at most ten cents."""
    return numbered(count, options=RunOptions(max_total_charge_usd=0.10))


def reservations(budget_usd: float | None = None) -> CostReservations:
    """Return cost reservations with this much money."""
    return CostReservations(
        Budget(budget_usd), Prices(model="PAY_PER_EVENT"), task_options=RunOptions(), is_strict=True
    )


SKEWS = [(15.0, 0.0), (HOUR_S, 0.0), (-HOUR_S, 0.0), (None, 0.0), (None, HOUR_S), (None, -HOUR_S), (0.0, HOUR_S)]


@pytest.mark.parametrize(("date_ahead_s", "runs_ahead_s"), SKEWS)
async def test_a_cost_is_final_by_the_runs_clock(date_ahead_s: float | None, runs_ahead_s: float) -> None:
    """Ten seconds after the Run's end, not before, and not an hour after."""
    plan = Plan(run_s=5, cost_usd=0.01, final_cost_usd=0.02)
    api, ledger = api_of(plan, date_ahead_s=date_ahead_s, runs_ahead_s=runs_ahead_s), WatchedLedger()
    engine = Engine(api, ledger, capped(1), reservations=reservations())
    await engine.run()
    with anyio.fail_after(60):
        await engine.costs.finish()
    assert 15 <= anyio.current_time() <= 18
    assert [attempt.cost_usd for attempt in ledger.attempts.values()] == [0.02]


@pytest.mark.parametrize(("date_ahead_s", "runs_ahead_s"), SKEWS)
async def test_a_strict_budget_is_kept_by_any_clock(date_ahead_s: float | None, runs_ahead_s: float) -> None:
    """A cost that still grows is not taken for final, and the money of one that is final is not held back."""
    plan = Plan(run_s=0.2, cost_usd=0.0001, final_cost_usd=0.05)
    api = api_of(plan, date_ahead_s=date_ahead_s, runs_ahead_s=runs_ahead_s)
    engine = Engine(api, WatchedLedger(), capped(60), slots=4, reservations=reservations(0.60))
    with anyio.fail_after(300):
        await engine.run()
    await anyio.sleep(60)
    assert sum(api.run(run_id).cost_usd or 0.0 for run_id in api.run_ids) == pytest.approx(0.55)
    assert anyio.current_time() <= 180


@pytest.mark.parametrize(("date_ahead_s", "runs_ahead_s"), SKEWS)
async def test_costs_are_read_by_a_process_that_starts_nothing(date_ahead_s: float | None, runs_ahead_s: float) -> None:
    """It has not measured the Runs' clock: it waits ten seconds from when it sees that a Run has ended."""
    plan = Plan(run_s=5, cost_usd=0.01, final_cost_usd=0.02)
    api, ledger = api_of(plan, date_ahead_s=date_ahead_s, runs_ahead_s=runs_ahead_s), WatchedLedger()
    await Engine(api, ledger, capped(30), slots=30, reservations=reservations()).run()
    api.clock = PlatformClock()
    again = Engine(api, ledger, ListSource([]), reservations=reservations())
    with anyio.fail_after(60):
        await again.costs.finish()
    assert 15 <= anyio.current_time() <= 18
    assert {attempt.cost_usd for attempt in ledger.attempts.values()} == {0.02}


def limits(**deadlines: Any) -> Mapping[str, Any]:
    """Return terms with these deadlines."""
    return {"deadlines": Deadlines(**deadlines)}


@pytest.mark.parametrize("jumps_to_s", [-HOUR_S, HOUR_S, None])
@pytest.mark.parametrize("runs_ahead_s", [-HOUR_S, 0.0, HOUR_S])
async def test_no_clock_shortens_or_lengthens_a_jobs_time(jumps_to_s: float | None, runs_ahead_s: float) -> None:
    """A Run is aborted at its job's deadline, though `Date` jumps while it is live."""
    api = api_of(Plan(run_s=10_000), runs_ahead_s=runs_ahead_s)
    engine = Engine(api, WatchedLedger(), ListSource(jobs(1)), terms=limits(max_job_s=200))

    async with anyio.create_task_group() as children:

        async def jump() -> None:
            await anyio.sleep(50)
            api.date_ahead_s = jumps_to_s

        children.start_soon(jump)
        (record,) = await engine.run()
    assert record.outcome is Outcome.TIMED_OUT
    assert 200 <= anyio.current_time() <= 202


@pytest.mark.parametrize(("date_ahead_s", "runs_ahead_s"), SKEWS)
async def test_a_run_is_overdue_by_its_own_clock(date_ahead_s: float | None, runs_ahead_s: float) -> None:
    """Past its timeout and the grace, and not before."""
    api = api_of(Plan(run_s=5000), date_ahead_s=date_ahead_s, runs_ahead_s=runs_ahead_s)
    source = ListSource([make_job(options=RunOptions(timeout_s=60))])
    terms = limits(overdue_grace_s=30, aborts_overdue=True)
    (record,) = await Engine(api, WatchedLedger(), source, terms=terms).run()
    assert (record.outcome, record.error and record.error.type) == (Outcome.TIMED_OUT, "run-overdue")
    assert 90 <= anyio.current_time() <= 90 + 61


async def test_a_retry_counts_from_the_first_start_by_the_runs_clock() -> None:
    """`Date` jumps an hour ahead between two attempts: the job has its time all the same."""

    def plan(n: int) -> Plan:
        api.date_ahead_s = 0.0 if n == 1 else HOUR_S
        return Plan(run_s=10) if n == 3 else Plan(run_s=10, error=lost_answer())

    api = api_of(plan)
    (record,) = await Engine(api, WatchedLedger(), ListSource(jobs(1)), terms=limits(max_job_s=1000)).run()
    assert (record.outcome, len(api.posts)) == (Outcome.SUCCEEDED, 3)


@pytest.mark.parametrize(
    ("noted_s", "date_s", "left_s"),
    [(60.0, 60.0, 140.0), (HOUR_S, 60.0, 140.0), (60.0, HOUR_S, 140.0), (60.0, None, 140.0), (-HOUR_S, 60.0, 200.0)],
    ids=["agree", "this clock was set", "Date jumped", "no Date", "this clock was set back"],
)
async def test_a_process_that_resumes_goes_by_the_clock_that_counts_less(
    noted_s: float, date_s: float | None, left_s: float
) -> None:
    """A live Run of an earlier process: this machine's clock and `Date` say how long ago its attempt was intended."""
    api = api_of(Plan(run_s=10_000), date_ahead_s=None if date_s is None else 0.0)
    now, run_id, (job,) = datetime.now(UTC), api.add_run(Plan(run_s=10_000)), jobs(1)
    ledger = WatchedLedger()
    admission = await ledger.admit([job], read_to(1))
    ((_, noted),) = admission.jobs
    attempt = Attempt(
        attempt_no=1,
        mark=Mark("m"),
        state=AttemptState.BOUND,
        run_id=run_id,
        intended_at=now - timedelta(seconds=noted_s),
        platform_time=None if date_s is None else now - timedelta(seconds=date_s),
        started_at=api.run(run_id).started_at,
    )
    ledger.attempts[noted.id, 1] = attempt
    work = Work(job=job, open=replace(noted, attempts=(attempt,)), attempts=(attempt,))
    (record,) = await Engine(api, ledger, ListSource([]), terms=limits(max_job_s=200)).run([work])
    assert record.outcome is Outcome.TIMED_OUT
    assert anyio.current_time() == pytest.approx(left_s, abs=3)
