"""What three workers of a fleet hold together, counted at the server, while one after the other is killed."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from batchrun.worker.fleet.fleet_limits import Resource
from tests.support.crash import Api, open_api, wait_until
from tests.support.fleets import FleetProcesses, assert_every_batch_right
from tests.support.tcp_proxy import proxy_to

LEASE_S = 2.0
#: Of all requests per second; a worker that is not on the page asks with 2 % of it.
REQUEST_RATE = 80.0
#: What a start reserves: a compute unit's price, for the hour that a Run of 128 MB may take.
UNIT_USD, START_USD = 0.3, 0.3 / 8
HELD_RUNS = 6
BUDGET_USD = (HELD_RUNS + 0.5) * START_USD


def most_money_usd(runs: Sequence[dict[str, Any]]) -> float:
    """Return the most that ended Runs had cost, and live ones could cost, at the start of any Run."""
    most = 0.0
    for run in runs:
        begun = [each for each in runs if each["startedAt"] <= run["startedAt"]]
        ended = [each["usageTotalUsd"] for each in begun if (each["finishedAt"] or "9") <= run["startedAt"]]
        most = max(most, sum(ended) + START_USD * (len(begun) - len(ended)))
    return most


def kill_an_owner(fleet: FleetProcesses) -> None:
    """Kill a worker that carries out a batch, wait until the others have replaced it, and begin another process."""
    members = {(worker.data_dir / "member").read_text().strip(): worker for worker in fleet.workers}
    owner = next(each for each, member in fleet.page().members.items() if member.batches)
    members[owner].kill()
    wait_until(lambda: owner not in fleet.page().members)
    members[owner].start()


def wait_for_page_changes(fleet: FleetProcesses, count: int) -> None:
    """Wait until the page was changed so often."""
    beats = sum(member.beat for member in fleet.page().members.values())
    wait_until(lambda: sum(member.beat for member in fleet.page().members.values()) >= beats + count)


def counted_runs(fleet: FleetProcesses) -> int:
    """Return the live Runs that workers count in batches that they have opened."""
    return sum(carried.counts.live_runs for each in fleet.page().members.values() for carried in each.batches.values())


@contextmanager
def three_workers(directory: Path, api: Api, limits: str) -> Iterator[FleetProcesses]:
    """Run three workers that are all on the page, and show them all batches."""
    url = f"file://{directory}/store"
    (directory / "store").mkdir()
    config = f'[worker]\nfleet = "{url}"\nlease_s = {LEASE_S}\n[limits]\nmax_concurrent_runs = 20\n{limits}\n'
    with FleetProcesses(directory, api, url, 3, config) as fleet:
        yield fleet


def test_a_dead_workers_runs_and_money_count_until_they_are_over(tmp_path):
    """While all money is reserved nothing is started, not even when a worker dies and another one has its batches.

    Then Runs and money stay within the limits of all, and every batch is right.
    """
    ends = tmp_path / "ends"
    with (
        open_api(tmp_path / "api") as api,
        three_workers(tmp_path, api, f"budget_usd = {BUDGET_USD}") as fleet,
    ):
        for name in "abc":
            jobs = [{"n": n, "until": str(ends)} for n in range(6)]
            fleet.submit(name, jobs, limits__start_horizon_s=LEASE_S + 1, limits__compute_unit_usd=UNIT_USD)
        wait_until(lambda: counted_runs(fleet) == HELD_RUNS)
        kill_an_owner(fleet)
        wait_until(lambda: counted_runs(fleet) == HELD_RUNS)
        wait_for_page_changes(fleet, 10)
        assert len(api.runs()) == HELD_RUNS, fleet.said()
        ends.touch()
        wait_until(lambda: set(fleet.states().values()) == {"finished"})
        assert most_money_usd(api.runs()) <= BUDGET_USD
        assert_every_batch_right(fleet, api)


@pytest.mark.parametrize(
    ("order", "rests_as", "ended_as"), [("cancel", "cancelled", "ABORTED"), ("pause", "paused", "SUCCEEDED")]
)
def test_an_order_for_a_batch_whose_worker_has_died_is_for_its_runs_too(tmp_path, order, rests_as, ended_as):
    """They are known by the batch's log alone, which its next worker has not read yet when it is told of the order."""
    ends = tmp_path / "ends"
    with open_api(tmp_path / "api") as api, three_workers(tmp_path, api, "") as fleet:
        fleet.submit("a", [{"n": n, "until": str(ends)} for n in range(25)], limits__start_horizon_s=LEASE_S + 1)
        wait_until(lambda: counted_runs(fleet) == 20)
        members = {(worker.data_dir / "member").read_text().strip(): worker for worker in fleet.workers}
        owner = next(each for each, member in fleet.page().members.items() if member.batches)
        members.pop(owner).kill()
        next(iter(members.values())).order("a", order)
        if order == "pause":
            wait_until(lambda: owner not in fleet.page().members and counted_runs(fleet) == 20)
            ends.touch()
        wait_until(lambda: fleet.states() == {"a": rests_as})
        assert [run["status"] for run in api.runs()] == [ended_as] * 20, fleet.said()


@pytest.mark.long  # `test_fleet_member.py` has the same in virtual time
def test_a_batch_that_its_new_worker_cannot_open_goes_on_to_another_one(tmp_path):
    """Its state does not change, and its live Runs count, until a worker that can open it follows them."""
    ends = tmp_path / "ends"
    with open_api(tmp_path / "api") as api, three_workers(tmp_path, api, "") as fleet:
        first, unable, third = fleet.workers
        for worker in (unable, third):
            assert worker.stop() == 0
        jobs = [{"n": n, "until": str(ends)} for n in range(30)]
        fleet.submit("a", jobs, limits__start_horizon_s=LEASE_S + 1)
        wait_until(lambda: counted_runs(fleet) == 20)
        unable.configure((unable.data_dir / "worker.toml").read_text().replace(f"= {LEASE_S}", f"= {LEASE_S + 2}"))
        unable.start()
        wait_until(lambda: len(fleet.page().members) == 2)
        first.kill()
        wait_until(lambda: "batch_given_back" in unable.said())
        wait_until(lambda: any(each.has_left and each.batches for each in fleet.page().members.values()))
        wait_for_page_changes(fleet, 3)
        assert fleet.page().held(Resource.RUNS) >= len(api.runs()) == 20
        assert fleet.states() == {"a": "active"}
        third.start()
        ends.touch()
        wait_until(lambda: fleet.states() == {"a": "finished"})
        assert_every_batch_right(fleet, api)


def test_requests_of_all_workers_keep_one_rate(tmp_path):
    """No more than a burst, and the rate times the time since then, while one is killed and replaced, and comes back.

    A token for each worker, and what was under way before, come on top.
    """
    with open_api(tmp_path / "api") as api, proxy_to(urlsplit(api.base_url).port or 0) as proxy:
        through = Api(f"http://127.0.0.1:{proxy.port}", api.process)
        with three_workers(tmp_path, through, f"request_rate = {REQUEST_RATE}") as fleet:
            before, begun_at = len(proxy.requests), time.monotonic()
            for name in "abc":
                jobs = [{"n": n, "ms": 20} for n in range(26)]
                fleet.submit(name, jobs, limits__start_horizon_s=LEASE_S + 1)
            wait_until(lambda: len(proxy.requests) > before + 100)
            kill_an_owner(fleet)
            wait_until(lambda: set(fleet.states().values()) == {"finished"})
            sent = [at - begun_at for at in proxy.requests[before:]]
            allowed = [REQUEST_RATE * (1.06 * after_s + 0.05) + 3 + 10 for after_s in sent]
            assert all(n <= most for n, most in enumerate(allowed, 1)), fleet.said()
            assert_every_batch_right(fleet, api)
