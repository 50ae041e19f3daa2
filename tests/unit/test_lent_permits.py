"""Starts that get no answer: their permits serve other starts while no Run is seen, and the platform is spared."""

from datetime import timedelta
from itertools import pairwise

import anyio
import pytest

from batchrun.engine.doubt.reconcile import MAX_GAP_S
from batchrun.engine.limits.permits import Demand
from batchrun.model import Outcome
from batchrun.policy.full_account import MAX_WITHOUT_EFFECT, Capacity
from tests.support.memory_ledger import ListSource, WatchedLedger, make_job, numbered
from tests.support.scripted_api import Engine, Plan, ScriptedApi, api_error, foreign_page, in_order, lost_answer
from tests.support.start_gates import gate_of, permits_over

LAG_S, HORIZON_S = 5.0, 60.0


def batch(api: ScriptedApi, jobs: int, slots: int) -> Engine:
    """Return an engine over some jobs."""
    return Engine(api, WatchedLedger(), numbered(jobs), slots=slots)


def storm(n: int) -> Plan:
    """Answer 5 % of the starts with an error and no Run, and lose the answers to 15 %, whose Runs exist."""
    if n % 20 == 7:
        return Plan(error=foreign_page(502))
    return Plan(run_s=0.5, error=lost_answer(), effects=1) if n % 20 in (3, 11, 17) else Plan(run_s=0.5)


async def test_a_storm_of_lost_answers_takes_little_longer_than_calm() -> None:
    """300 short jobs: all but those of unanswered starts are done after the time that they need, and some seconds."""
    api = ScriptedApi(storm)
    engine = batch(api, 300, slots=10)
    await engine.run()
    done_at = [api.run(run_id).finished_at or api.zero for run_id in api.run_ids]
    done_after_s = sorted((at - api.zero).total_seconds() for at in done_at)
    assert api.peak <= 10
    assert {record.outcome for record in engine.records} == {Outcome.SUCCEEDED}
    assert done_after_s[270] <= 30
    assert done_after_s[-1] <= 30 + 2 * (HORIZON_S + LAG_S)


async def test_jobs_go_on_soon_after_an_outage_of_starts() -> None:
    """Twenty seconds of 500s: few starts are tried meanwhile, one at a time, and all places are filled after it."""
    api = ScriptedApi()
    api._plan = lambda _: Plan(error=api_error(500)) if 2 <= anyio.current_time() < 22 else Plan(run_s=0.3)
    engine = batch(api, 600, slots=20)
    await engine.run()
    during = [post.at for post in api.posts if 2 <= post.at < 22]
    after = [post.at for post in api.posts if 22 <= post.at < 60]
    assert len(during) <= 20 + 6
    assert min(b - a for a, b in pairwise(during[20:])) >= 0.5
    assert (api.peak <= 20, len(api.run_ids)) == (True, 600)
    assert after[0] <= 22 + 10
    assert after[-1] <= 22 + 10 + 12
    assert max(post.at for post in api.posts) <= 22 + HORIZON_S + LAG_S + 10


async def test_a_place_is_kept_until_a_list_must_show_its_run() -> None:
    """Then another job starts in it. The job itself is started again after the horizon, as before."""
    api = ScriptedApi(in_order(Plan(error=foreign_page(502)), then=Plan(run_s=100)))
    await batch(api, 2, slots=1).run()
    first, other, again = (post.at for post in api.posts)
    assert LAG_S <= other - first <= LAG_S + 1
    assert again - first >= HORIZON_S + LAG_S
    assert api.peak == 1


@pytest.mark.parametrize("effect_after_s", [0.0, 1.0, 4.0])
async def test_a_run_that_begins_before_its_place_is_lent_is_never_one_too_many(effect_after_s: float) -> None:
    """By the server's count; lists that lag included."""
    late = Plan(run_s=30, error=lost_answer(), effects=1, effect_after_s=effect_after_s)
    api = ScriptedApi(in_order(late, late, then=Plan(run_s=30)), list_lag_s=LAG_S - effect_after_s)
    await batch(api, 8, slots=2).run()
    assert (api.peak, len(api.run_ids)) == (2, 8)


async def test_a_run_that_shows_up_later_holds_a_place_before_further_starts() -> None:
    """One Run too many is live for a moment; from its discovery on, starts wait until fewer are live than may be."""
    late = Plan(run_s=40, error=foreign_page(504), effects=1, effect_after_s=20)
    api = ScriptedApi(in_order(late, then=Plan(run_s=7)))
    engine = batch(api, 20, slots=2)
    await engine.run()
    # The Runs that were live at the server when each start arrived.
    live_at = {post.at: live(api, post.at) for post in api.posts}
    assert max(count for at, count in live_at.items() if at < 20) <= 1
    assert max(count for at, count in live_at.items() if at >= 20 + MAX_GAP_S) <= 1
    assert (max(live_at.values()) <= 2, len(api.run_ids), len(engine.records)) == (True, 20, 20)


def live(api: ScriptedApi, at: float) -> int:
    """Count the Runs that were live at the server just before a moment."""
    moment = api.zero + timedelta(seconds=at)
    runs = [api.run(run_id) for run_id in api.run_ids]
    return sum(
        run.started_at is not None and run.started_at < moment and run.finished_at is not None
        and run.finished_at > moment
        for run in runs
    )  # fmt: skip


async def test_a_place_is_kept_while_a_run_without_a_name_may_be_its_own() -> None:
    """On a platform that shows no User-Agent, the list holds a Run that no attempt has."""
    api = ScriptedApi(in_order(Plan(error=lost_answer(), effects=1, run_s=500), then=Plan(run_s=1)), echoes=False)
    engine = batch(api, 3, slots=1)
    with anyio.move_on_after(100):
        await engine.run()
    assert len(api.posts) == 1


async def test_a_blocked_job_costs_other_jobs_no_time() -> None:
    """With one place, the others are done after their own time and one lag; the blocked one ends after its attempts."""
    jobs = [make_job(n) for n in range(1, 31)]
    api = ScriptedApi(
        lambda n: Plan(error=foreign_page(403)) if api.posts[n - 1].body == jobs[4].body else Plan(run_s=1)
    )
    engine = Engine(api, WatchedLedger(), ListSource(jobs), slots=1)
    await engine.run()
    assert engine.records[-1].line == 5
    assert engine.records[-1].error is not None
    assert engine.records[-1].error.message.startswith("line 5: 3 start requests in a row had no effect")
    assert (engine.records[-1].outcome, len(api.run_ids)) == (Outcome.FAILED, 29)
    others = [post.at for post in api.posts if post.body != jobs[4].body]
    assert max(others) <= 29 + LAG_S + 1
    assert len(api.posts) - len(others) == 3


async def test_a_lent_permit_counts_again_when_it_is_taken_back_and_is_released_once() -> None:
    """Whatever the order; with a group, memory and the account."""
    permits = permits_over(gate := gate_of(), 1)
    permit = permits.adopt(Demand(512, "g"))
    permit.lend()
    permit.lend()
    assert (permits.used, permits.reserved, permits.reserved_mb, gate.live) == (0, 0, 0, 0)
    other = await permits.acquire()
    assert other is not None
    permit.take_back()
    permit.take_back()
    assert (permits.used, permits.reserved, permits.reserved_mb, gate.live) == (2, 1, 512, 1)
    other.release()
    with anyio.move_on_after(1) as waiting:
        await permits.acquire()
    assert waiting.cancelled_caught
    permit.release()
    permit.release()
    assert (permits.used, permits.reserved, permits.reserved_mb, gate.live) == (0, 0, 0, 0)
    lent = permits.adopt(Demand())
    lent.lend()
    lent.release()
    assert (permits.used, permits.reserved, gate.live) == (0, 0, 0)


def test_starts_are_tried_one_at_a_time_while_none_has_an_effect() -> None:
    """After 1, 2, 4 … at most 10 seconds; one that has an effect ends it, and no limit of the account is learned."""
    capacity, waits, now = Capacity(), [], 0.0
    capacity.reached(100)
    for _ in range(MAX_WITHOUT_EFFECT):
        assert capacity.next_start_at(now, 3) == now
        capacity.had_no_effect()
    for _ in range(5):
        at = capacity.next_start_at(now, 3)
        assert at is not None
        waits.append(at - now)
        now = at
        assert capacity.starting(3)
        assert capacity.next_start_at(now, 3) is None
        capacity.unanswered(now, is_probe=True, uniform=0.0)
    assert waits == [0.0, 1.0, 2.0, 4.0, 5.0]
    now += 10
    assert capacity.starting(3)
    capacity.started(4, is_probe=True)
    assert (capacity.next_start_at(now, 99), capacity.known_limit) == (now, float("inf"))
