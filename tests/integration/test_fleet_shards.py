"""A batch in shards on two workers: one batch for people, each job in one of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from batchrun.jobs import Shard
from batchrun.worker.status_views import BatchPage
from tests.integration.test_fleet import ask, live, two_workers
from tests.support.api_process import ACTOR, TOKEN
from tests.support.command_line import batchrun
from tests.support.crash import Api, open_api, wait_until
from tests.support.fleets import FleetProcesses, assert_every_batch_right
from tests.support.json_lines import read_lines, to_lines
from tests.support.memory_ledger import make_job
from tests.support.worker_life import most_at_once

SETTINGS: dict[str, Any] = {"limits__start_horizon_s": 700}


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


def assert_read_as_one(fleet: FleetProcesses, directory: Path) -> None:
    """Assert that any worker, and any machine, has records, failures, costs and report of the whole batch."""
    records = list[dict[str, Any]]()
    for who in (0, 1):
        records = [orjson.loads(line) for line in ask(fleet, who, "records", "shop").out.splitlines()]
        assert sorted(record["key"] for record in records) == sorted(f"k{n}" for n in range(60))
        failures = orjson.loads(ask(fleet, who, "failures", "shop", "--json").out)
        assert (failures["jobs"], '"k5"' in orjson.dumps(failures).decode()) == (1, True), failures
    followed = ask(fleet, 0, "records", "shop", "--follow").out
    assert len(followed.splitlines()) == 60
    runs = sum(len(record["attempts"]) for record in records)
    cost = ask(fleet, 0, "cost", "shop", "--csv").out.splitlines()
    assert str(runs) in cost[-1].split(","), cost
    assert ask(fleet, 0, "report", "shop", "--out", str(directory / "page.html")).code == 0
    assert "k5" in (directory / "page.html").read_text()
    url = f"{fleet.url}/batch-shop"
    for _ in range(2):
        pulled = batchrun("pull", url, "pulled", cwd=directory)
        assert (pulled.code, "4 shards" in pulled.err) == (0, True), pulled
    assert len(read_lines(directory / "pulled" / "records.jsonl")) == 60
    one = batchrun("pull", f"{url}-1", "pulled", cwd=directory)
    assert (one.code, "has the results of all parts of a batch" in one.err) == (6, True), one
    another = next((directory / "pulled" / "parts").iterdir())
    before = batchrun("status", str(another), "--json", cwd=directory).out
    refused = batchrun("pull", url, str(another), cwd=directory)
    assert (refused.code, "holds another batch" in refused.err) == (6, True), refused
    assert batchrun("status", str(another), "--json", cwd=directory).out == before
    audited = batchrun("audit", url, "--api-url", fleet.api_url, cwd=directory, environ={"APIFY_TOKEN": TOKEN})
    assert (audited.code, "60 of 60" in audited.out, "no Run of the task repeats" in audited.out) == (0, True, True)
    assert batchrun("export", url, "items.csv", "--items", cwd=directory).code == 0
    status = orjson.loads(batchrun("status", url, "--json", cwd=directory).out)
    assert status["summary"]["outcomes"] == {"succeeded": 59, "failed": 1}, status
    nothing = batchrun("pull", f"file://{directory}/batch-shop", "nothing", cwd=directory)
    assert (nothing.code, "there is no such directory" in nothing.err) == (6, True), nothing
    refused = batchrun("repair", "pulled", cwd=directory)
    assert refused.code != 0, refused


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
        wait_until(lambda: states(fleet) <= {"pausing", "paused"})  # a shard without a live Run rests at once
        ends.touch()
        wait_until(lambda: states(fleet) == {"paused"})
        wait_until(lambda: str(batches(fleet, 1).items[0].state) == "paused")
        assert ask(fleet, 1, "resume", "shop").code == 0
        wait_until(lambda: states(fleet) == {"finished"})
        wait_until(lambda: '"state": "finished"' in ask(fleet, 1, "status", "shop", "--json").out)
        view = orjson.loads(ask(fleet, 1, "status", "shop", "--json").out)
        assert (view["jobs"]["settled"], view["outcomes"]) == (60, {"succeeded": 59, "failed": 1}), view
        assert_every_batch_right(fleet, api)
        assert_read_as_one(fleet, tmp_path)
        part = ask(fleet, 0, "pause", "shop-2of4")
        assert (part.code, "is a part of shop" in part.err) == (2, True), part


def test_the_budget_is_of_all_shards_together(tmp_path, api):
    """Four starts reserve all of it, so that four Runs are live at a time, whichever workers have started them.

    A budget that cannot pay for one start stops all shards; a larger one lets all of them go on.
    """
    before, ends = {run["id"] for run in api.runs()}, tmp_path / "ends"
    with two_workers(tmp_path, api) as fleet:
        # With keys: those made of the input hold a path that is new each time, and then a shard may have no job at all.
        jobs = [{"@key": f"k{n}", "n": n, "until": str(ends)} for n in range(16)]
        fleet.submit(
            "dear", jobs, task="dear", shards=4, limits__compute_unit_usd=0.3, limits__budget_usd=0.03, **SETTINGS
        )
        wait_until(lambda: states(fleet) == {"out_of_budget"})
        wait_until(lambda: str(batches(fleet, 0).items[0].state) == "out_of_budget")
        raised = ask(fleet, 1, "limits", "dear", "--set", "budget_usd=0.155")
        assert raised.code == 0, raised
        wait_until(lambda: live(api) == 4)
        wait_until(lambda: batches(fleet, 0).items[0].budget_usd == 0.155)
        wait_until(lambda: all(member.batches for member in fleet.page().members.values()))
        ends.touch()
        wait_until(lambda: states(fleet) == {"finished"})
        runs = [run for run in api.runs() if run["id"] not in before]
        assert (len(runs), most_at_once(runs)) == (16, 4), fleet.said()
        wait_until(lambda: not any(member.batches for member in fleet.page().members.values()))
        wait_until(lambda: not fleet.page().wholes)
        used_usd = sum(listed.submission.counts.used_usd for listed in fleet.listed().values())
        assert used_usd == pytest.approx(sum(run["usageTotalUsd"] for run in runs), abs=0.00001)


def test_the_breaker_counts_the_jobs_of_all_shards(tmp_path, api):
    """Three failures in each of two shards are too many, although no shard has four; it can be resumed."""
    before, ends = {run["id"] for run in api.runs()}, tmp_path / "ends"
    with two_workers(tmp_path, api) as fleet:
        keys = [f"k{n}" for n in range(60)]
        of_shard = [[key for key in keys if Shard(number, 2).has(make_job(key=key))] for number in (1, 2)]
        failing = [{"@key": key, "n": 1, "fails": True} for shard in of_shard for key in shard[:3]]
        others = [{"@key": key, "n": 1, "until": str(ends)} for shard in of_shard for key in shard[3:]]
        fleet.submit(
            "bad", [*failing, *others], task="bad", shards=2, breaker__max_failed=4, retry__max_attempts=1, **SETTINGS
        )
        wait_until(lambda: fleet.said().count('"event":"breaker_tripped"') >= 2)
        assert "jobs of all shards did not succeed" in fleet.said()
        ends.touch()
        wait_until(lambda: states(fleet) == {"tripped"})
        assert len([run for run in api.runs() if run["id"] not in before]) <= 6 + 8
        assert ask(fleet, 0, "resume", "bad").code == 0
        wait_until(lambda: states(fleet) == {"finished"})
        assert len([run for run in api.runs() if run["id"] not in before]) == 60


def test_a_batch_is_submitted_in_shards(tmp_path, api):
    """To the store, and to a worker of the fleet; jobs of any shard are retried at any worker."""
    with two_workers(tmp_path, api) as fleet:
        (tmp_path / "shop.jsonl").write_bytes(to_lines([{"n": n, "fails": n % 5 == 0} for n in range(20)]))
        (tmp_path / "shop.toml").write_text(
            f'[task]\nactor = "{ACTOR}"\nname = "shop"\noptions = {{ memory_mb = 128 }}\n[jobs]\nfile = "shop.jsonl"\n'
            "[limits]\nstart_horizon_s = 700\n[retry]\nmax_attempts = 1\n"
        )
        sizes = ("submit", "shop.toml", "--shards", "3", "--set", "limits.max_concurrent_runs=2")
        for where in (["--fleet", fleet.url], ["--data", str(fleet.workers[0].data_dir)]):
            refused = batchrun("worker", *sizes, *where, cwd=tmp_path)
            assert (refused.code, "limits.max_concurrent_runs" in refused.err) == (2, True), refused
        submitted = ask(fleet, 0, "submit", "shop.toml", "--shards", "3", "--wait")
        assert submitted.code == 1, submitted
        assert len(fleet.listed()) == 3
        shown = ask(fleet, 1, "retry", "shop", "--dry-run")
        assert "4 jobs" in shown.out, shown
        retried = ask(fleet, 1, "retry", "shop")
        assert "Retrying 4 jobs" in retried.err, retried
        wait_until(lambda: {each.submission.retried is not None for each in fleet.listed().values()} == {True})
        wait_until(lambda: states(fleet) == {"finished"})
        whole = next(iter(fleet.listed().values())).submission.part_of
        assert whole is not None
        rounds = sorted(record["round"] for record in fleet.records(whole))
        assert rounds == [1] * 20 + [2] * 4
