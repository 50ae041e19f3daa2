"""A batch in shards on two workers: one batch for people, each job in one of them."""

from collections.abc import Iterator

import orjson
import pytest

from batchrun.worker.views import BatchPage
from tests.integration.test_fleet import ask, live, two_workers
from tests.support.crash import Api, open_api, wait_until
from tests.support.fleets import FleetProcesses, assert_every_batch_right

SETTINGS = {"limits__start_horizon_s": 700}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server process for all tests here."""
    with open_api(tmp_path_factory.mktemp("api")) as opened:
        yield opened


def states(fleet: FleetProcesses) -> set[str]:
    """Return the different states of all parts."""
    return set(fleet.states().values())


def batches(fleet: FleetProcesses, who: int) -> BatchPage:
    """Return the list of a worker."""
    return BatchPage.model_validate_json(ask(fleet, who, "list", "--json").out)


def test_two_workers_carry_out_one_batch(tmp_path, api):
    """Both start Runs of it; every worker shows one batch; orders for it reach all its parts."""
    ends = tmp_path / "ends"
    with two_workers(tmp_path, api) as fleet:
        jobs = [{"n": n, "ms": 20, "until": str(ends), "@key": f"k{n}", "fails": n == 5} for n in range(60)]
        fleet.submit("shop", jobs, task="shop", shards=4, **SETTINGS)
        wait_until(lambda: live(api) == 8)
        wait_until(lambda: all(member.batches for member in fleet.page().members.values()))
        for who in (0, 1):
            wait_until(lambda who=who: batches(fleet, who).items[0].live_runs == 8)
            page = batches(fleet, who)
            assert [(each.name, each.shards, str(each.state)) for each in page.items] == [("shop", 4, "active")]
            assert "4 of 4 shards" in (page.items[0].worker or "")
        paused = ask(fleet, 0, "pause", "shop")
        assert (paused.code, "pausing" in paused.err) == (0, True), paused
        wait_until(lambda: states(fleet) == {"pausing"})
        ends.touch()
        wait_until(lambda: states(fleet) == {"paused"})
        wait_until(lambda: str(batches(fleet, 1).items[0].state) == "paused")
        assert ask(fleet, 1, "resume", "shop").code == 0
        wait_until(lambda: states(fleet) == {"finished"})
        wait_until(lambda: '"state": "finished"' in ask(fleet, 1, "status", "shop", "--json").out)
        view = orjson.loads(ask(fleet, 1, "status", "shop", "--json").out)
        assert (view["jobs"]["settled"], view["outcomes"]) == (60, {"succeeded": 59, "failed": 1}), view
        assert_every_batch_right(fleet, api)
        part = ask(fleet, 0, "pause", "shop-2of4")
        assert (part.code, "is a part of shop" in part.err) == (2, True), part
