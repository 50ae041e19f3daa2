"""Two workers of a fleet: what each says of the other's batches, and how batches and limits change hands."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import orjson
import pytest

from batchrun.ledger.shared_log.directory_store import DirectoryStore
from batchrun.ledger.shared_log.log_store import open_part
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.fleet.fleet import Fleet
from batchrun.worker.fleet.fleet_list import LIST_LOG, FleetList
from batchrun.worker.fleet.sharded_order import OrderVerb
from batchrun.worker.fleet.shared_page import PAGE_LOG, SharedPage
from batchrun.worker.submission import Submission
from tests.support.api_process import ACTOR, TOKEN
from tests.support.busy_threads import all_threads_waiting
from tests.support.command_line import Said, batchrun
from tests.support.crash import Api, open_api, wait_until
from tests.support.fleets import FleetProcesses
from tests.support.json_lines import read_lines, to_lines
from tests.support.tcp_proxy import proxy_to
from tests.support.worker_life import most_at_once
from tests.support.worker_process import KilledWorker

#: Longer than any test: nothing here waits for a lease to end.
LEASE_S = 600.0


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server process for all tests here."""
    with open_api(tmp_path_factory.mktemp("api")) as opened:
        yield opened


@contextmanager
def two_workers(directory: Path, api: Api, limits: str = "max_concurrent_runs = 8") -> Iterator[FleetProcesses]:
    """Run two workers, which are both on the page."""
    store = directory / "store"
    store.mkdir()
    config = f'[worker]\nfleet = "file://{store}"\nlease_s = {LEASE_S}\n[limits]\n{limits}\n'
    with FleetProcesses(directory, api, f"file://{store}", 2, config) as fleet:
        yield fleet


def ask(fleet: FleetProcesses, who: int, *arguments: str) -> Said:
    """Run a command on a worker's data directory."""
    return batchrun("worker", *arguments, "--data", str(fleet.workers[who].data_dir), cwd=fleet.directory)


def dirs_of(worker: KilledWorker) -> list[str]:
    """Return the batches of which a worker has a directory."""
    return [each.name for each in (worker.data_dir / "batches").iterdir()]


def owner_of(fleet: FleetProcesses, batch: str) -> int:
    """Return which worker carries a batch out, once one does."""
    ids = [(worker.data_dir / "member").read_text().strip() for worker in fleet.workers]
    wait_until(lambda: fleet.page().carrier(batch) in ids)
    return ids.index(str(fleet.page().carrier(batch)))


def live(api: Api) -> int:
    """Return the number of live Runs, a few times a second."""
    time.sleep(0.1)
    return len(api.get("/actor-runs?limit=1000&status=RUNNING")["data"]["items"])


SETTINGS: dict[str, Any] = {"limits__start_horizon_s": 700}


def test_every_worker_knows_all_batches_and_who_has_them(tmp_path, api):
    """An order for another's batch reaches its worker; one that rests obeys any worker, and its files follow."""
    ends = tmp_path / "ends"
    with two_workers(tmp_path, api) as fleet:
        fleet.submit(
            "known", [{"n": n, "until": str(ends), "@key": f"k{n}"} for n in range(12)], task="known", **SETTINGS
        )
        owner = owner_of(fleet, "known")
        other = 1 - owner
        wait_until(lambda: live(api) == 8)
        wait_until(lambda: '"live_runs": 8' in ask(fleet, other, "status", "known", "--json").out)
        view = orjson.loads(ask(fleet, other, "status", "known", "--json").out)
        address = (fleet.workers[owner].data_dir / "address").read_text().strip()
        assert address in view["worker"]
        assert address in view["reason"]
        refused = ask(fleet, other, "records", "known")
        assert (refused.code, address in refused.err) == (2, True), refused
        assert ask(fleet, other, "pause", "known").code == 0
        wait_until(lambda: fleet.states()["known"] == "pausing")
        assert ask(fleet, other, "resume", "known").code == 0
        wait_until(lambda: fleet.states()["known"] == "active")
        assert ask(fleet, other, "pause", "known").code == 0
        wait_until(lambda: fleet.states()["known"] == "pausing")
        ends.touch()
        wait_until(lambda: fleet.states()["known"] == "paused")
        wait_until(lambda: not any("known" in member.batches for member in fleet.page().members.values()))
        pull = f"batchrun pull {fleet.url}/batch-known DIR"
        wait_until(lambda: pull in ask(fleet, other, "records", "known").err)
        resumed = ask(fleet, other, "resume", "known")
        assert resumed.code == 0, (resumed, fleet.said())
        wait_until(lambda: fleet.states()["known"] == "finished")
        wait_until(lambda: len(ask(fleet, other, "records", "known").out.splitlines()) == 12)


def test_a_worker_that_ends_hands_its_batches_over_at_once(tmp_path, api):
    """The other one follows the live Runs, which end much later than the first worker; no lease is waited for."""
    ends = tmp_path / "ends"
    with two_workers(tmp_path, api) as fleet:
        fleet.submit("handed", [{"n": n, "until": str(ends)} for n in range(8)], task="handed", **SETTINGS)
        owner = owner_of(fleet, "handed")
        wait_until(lambda: live(api) == 8)
        wait_until(lambda: ask(fleet, owner, "status", "handed").out.count("8 live"))
        assert fleet.workers[owner].stop() == 0
        assert "go on with the batches and 8 live Runs" in fleet.workers[owner].said()
        wait_until(lambda: owner_of(fleet, "handed") == 1 - owner)
        ends.touch()
        wait_until(lambda: fleet.states()["handed"] == "finished")
        assert len(fleet.records("handed")) == 8


def test_a_batch_that_has_begun_without_a_run_is_cancelled(tmp_path, api):
    """The platform refuses it now, so that it cannot be opened; no worker that is gone can have started a Run of it."""
    runs_before = len(api.runs())
    with two_workers(tmp_path, api) as fleet:
        fleet.submit("none", [{"n": 1}], begun_at=datetime.now(UTC), task__actor="nobody/nothing", **SETTINGS)
        wait_until(lambda: fleet.states() == {"none": "stopped"})
        assert fleet.listed()["none"].submission.begun_at is not None
        assert ask(fleet, 0, "cancel", "none").code == 0
        wait_until(lambda: fleet.states() == {"none": "cancelled"})
        assert len(api.runs()) == runs_before


def test_a_cancel_is_taken_while_the_platform_is_away(tmp_path, api):
    """By a worker that has not reached it yet: the batch is cancelling at once, until its Runs were aborted.

    What needs the batch itself is refused, with what is waited for.
    """
    api = api.fresh()
    (tmp_path / "store").mkdir()
    url = f"file://{tmp_path / 'store'}"
    config = f'[worker]\nfleet = "{url}"\nlease_s = {LEASE_S}\n'
    with (
        proxy_to(urlsplit(api.base_url).port or 0) as proxy,
        FleetProcesses(tmp_path, Api(f"http://127.0.0.1:{proxy.port}", api.process), url, 1, config) as fleet,
    ):
        fleet.submit("away", [{"n": n, "until": str(tmp_path / "ends")} for n in range(4)], task="away", **SETTINGS)
        wait_until(lambda: len(api.runs()) == 4)
        worker = fleet.workers[0]
        worker.kill()
        proxy.cut("both")
        worker.start()
        wait_until(lambda: ask(fleet, 0, "cancel", "away").code == 0)
        status = orjson.loads(ask(fleet, 0, "status", "away", "--json").out)
        assert status["state"] == "cancelling"
        refused = [ask(fleet, 0, *each).err for each in (("delete", "away"), ("limits", "away", "--set", "weight=2"))]
        assert ["the platform" in each for each in refused] == [True, True], refused
        assert [run["status"] for run in api.runs()] == ["RUNNING"] * 4
        proxy.heal()
        wait_until(lambda: fleet.states() == {"away": "cancelled"})
        assert [run["status"] for run in api.runs()] == ["ABORTED"] * 4


def test_what_one_worker_does_not_need_the_other_one_uses(tmp_path, api):
    """The whole limit at once for one batch; half for each of two; never more together."""
    with two_workers(tmp_path, api) as fleet:
        ends = {each: tmp_path / f"ends-{each}" for each in ("one", "two")}
        jobs: dict[str, list[dict[str, Any]]] = {each: [{"n": n, "ms": 50} for n in range(40)] for each in ends}
        held: list[dict[str, Any]] = [{"n": -n, "until": str(ends["one"])} for n in range(1, 9)]
        fleet.submit("one", held + jobs["one"], task="one", **SETTINGS)
        wait_until(lambda: live(api) == 8)
        fleet.submit("two", jobs["two"], task="two", **SETTINGS)
        assert owner_of(fleet, "one") != owner_of(fleet, "two")
        ends["one"].touch()
        wait_until(lambda: set(fleet.states().values()) == {"finished"})
        assert most_at_once(api.runs()) <= 8


def test_the_budget_is_of_all_workers_together(tmp_path, api):
    """One start reserves more than half of it, so that one Run is live at a time, whichever worker has started it."""
    before = {run["id"] for run in api.runs()}
    with two_workers(tmp_path, api, "max_concurrent_runs = 8\nbudget_usd = 0.05") as fleet:
        for name in ("cheap", "cheaper"):
            jobs = [{"n": n, "ms": 50} for n in range(2)]
            fleet.submit(name, jobs, task=name, limits__compute_unit_usd=0.3, **SETTINGS)
        wait_until(lambda: set(fleet.states().values()) == {"finished"})
        runs = [run for run in api.runs() if run["id"] not in before]
        assert (len(runs), most_at_once(runs)) == (4, 1)
        wait_until(lambda: not any(member.batches for member in fleet.page().members.values()))
        spent_usd = fleet.page().spent_micro_usd / 1_000_000
        assert spent_usd == pytest.approx(sum(run["usageTotalUsd"] for run in runs), abs=0.00001)


def test_a_batch_that_goes_on_after_a_rest_counts_once(tmp_path, api):
    """What it had spent before is not spent for good meanwhile; deleted, it has been spent all the same."""
    runs_before, ends = len(api.runs()), tmp_path / "ends"
    with two_workers(tmp_path, api, "max_concurrent_runs = 1\nbudget_usd = 1.0") as fleet:
        jobs: list[dict[str, Any]] = [{"n": 0}, {"n": 1, "until": str(ends)}, {"n": 2}]
        fleet.submit("again", jobs, task="again", limits__compute_unit_usd=0.3, **SETTINGS)
        wait_until(lambda: live(api) and len(api.runs()) == runs_before + 2)
        assert ask(fleet, 0, "pause", "again").code == 0
        wait_until(lambda: fleet.states() != {"again": "active"})
        ends.touch()
        paused = spent_at_rest(fleet, "again", "paused")
        had_it = int("again" in dirs_of(fleet.workers[1]))  # which may not know yet that it has it no more
        assert ask(fleet, had_it, "resume", "again").code == 0
        finished = spent_at_rest(fleet, "again", "finished")
        assert paused > 0
        wait_until(lambda: ask(fleet, 0, "delete", "again").code == 0)
        wait_until(lambda: not any(member.batches for member in fleet.page().members.values()))
        assert fleet.page().spent_micro_usd == finished


def spent_at_rest(fleet: FleetProcesses, batch: str, state: str) -> int:
    """Wait until a fleet's only batch rests in a state; return what the page and the list have as spent, both."""
    wait_until(lambda: fleet.states() == {batch: state})
    wait_until(lambda: not any(member.batches for member in fleet.page().members.values()))
    assert fleet.listed()[batch].spent_micro_usd == fleet.page().spent_micro_usd
    return fleet.page().spent_micro_usd


def test_a_stopped_batch_in_shards_can_be_deleted_once_it_is_cancelled(tmp_path, api):
    """Its workers keep it, and each would say to ask the other."""
    with two_workers(tmp_path, api) as fleet:
        fleet.submit("lost", [{"n": n} for n in range(8)], shards=2, task__actor="nobody/none", **SETTINGS)
        wait_until(lambda: fleet.states() == {"lost-1": "stopped", "lost-2": "stopped"})
        wait_until(lambda: all("cancel it first" in ask(fleet, n, "delete", "lost").err for n in (0, 1)))
        assert ask(fleet, 0, "cancel", "lost").code == 0
        wait_until(lambda: ask(fleet, 0, "delete", "lost").code == 0)


def test_a_deleted_batch_is_gone_from_every_worker(tmp_path, api):
    """Not while it is under way; then from the list and both directories, by order or by its age; its log stays."""
    with two_workers(tmp_path, api) as fleet:
        ends = tmp_path / "ends"
        for name, shards in (("gone", None), ("parted", 2), ("old", None)):
            jobs = [{"n": n, "until": str(ends)} for n in range(4)]
            fleet.submit(name, jobs, task=name, shards=shards, **SETTINGS)
        owner = owner_of(fleet, "gone")
        # It may not have read the list yet.
        wait_until(lambda: "cancel or pause it first" in ask(fleet, 1 - owner, "delete", "gone").err)
        ends.touch()
        wait_until(lambda: set(fleet.states().values()) == {"finished"})
        part = ask(fleet, 1 - owner, "delete", "parted-1")
        assert (part.code, "is a part of parted" in part.err) == (2, True), part
        for name in ("gone", "parted"):  # it may not have read yet that they rest
            wait_until(lambda name=name: ask(fleet, 1 - owner, "delete", name).code == 0)
        for worker in fleet.workers:
            wait_until(lambda worker=worker: {"old"}.issuperset(dirs_of(worker)))
        assert fleet.states() == {"old": "finished"}
        wait_until(lambda: not any(member.batches for member in fleet.page().members.values()))
        for who in (0, 1):  # the last worker of a batch decides how long it is kept, if it is there
            config = fleet.workers[who].data_dir / "worker.toml"
            config.write_text(config.read_text().replace("[worker]", "[worker]\nkeep_finished_days = 0"))
            assert fleet.workers[who].stop() == 0
            fleet.workers[who].start()
        wait_until(lambda: fleet.states() == {})
        wait_until(lambda: "old" not in ask(fleet, owner, "list").out)
        assert "gone" not in ask(fleet, owner, "list").out
        assert len(fleet.records("gone")) == 4


def test_a_batch_from_before_the_fleet_is_kept_and_says_why_it_waits(tmp_path, api):
    """No order destroys its ledger or claims to be obeyed; started as before, the worker follows its Runs.

    One that is over can be read and deleted; other orders for it are refused with the same words.
    """
    (tmp_path / "store").mkdir()
    worker = KilledWorker(tmp_path / "worker", api.base_url)
    alone, in_fleet = worker.data_dir / "worker.toml", f'[worker]\nfleet = "file://{tmp_path / "store"}"\n'
    config = alone.read_text()

    def ask_it(*arguments: str) -> Said:
        return batchrun("worker", *arguments, "--data", str(worker.data_dir), cwd=tmp_path)

    try:
        worker.start()
        worker.put_batch("over", [{}])
        worker.wait_for_end("over")
        worker.put_batch("early", [{"until": str(tmp_path / "ends")}], task="early")
        wait_until(lambda: '"live_runs": 1' in ask_it("status", "early", "--json").out)
        worker.kill()
        alone.write_text(config + in_fleet)
        worker.start()
        wait_until(lambda: "not on the list of this fleet" in ask_it("status", "early").out)
        orders = [(order, "early") for order in ("cancel", "pause", "resume", "delete")]
        orders += [(order, "over") for order in ("cancel", "resume", "repair", "retry")]
        for order in orders:
            refused = ask_it(*order)
            assert (refused.code, "not on the list of this fleet" in refused.err) == (2, True), refused
        assert len(ask_it("records", "over").out.splitlines()) == 1
        assert ask_it("delete", "over").code == 0
        worker.kill()
        alone.write_text(config)
        worker.start()
        (tmp_path / "ends").touch()
        wait_until(lambda: '"finished"' in ask_it("status", "early", "--json").out)
        assert len(read_lines(worker.records_file("early"))) == 1
    finally:
        worker.end()


def test_batches_whose_files_are_lost_fail_and_leave_their_places(tmp_path, api):
    """They obey orders too; the store may have lost an object, or somebody has listed what it never had."""
    with two_workers(tmp_path, api) as fleet:
        for worker in fleet.workers:
            config = worker.data_dir / "worker.toml"
            config.write_text(config.read_text().replace("[worker]", "[worker]\nmax_open_batches = 1"))
            assert worker.stop() == 0
        lost = [f"lost-{n}" for n in range(3)]
        for name in lost:
            fleet.submit(name, [{"n": 1, "of": name}], task=name, **SETTINGS)
        for each in (tmp_path / "store" / LIST_LOG / "objects").iterdir():
            each.unlink()
        fleet.submit("whole", [{"n": 1}], task="whole", **SETTINGS)
        for worker in fleet.workers:
            worker.start()
        wait_until(lambda: fleet.states() == {**dict.fromkeys(lost, "failed"), "whole": "finished"})
        assert (
            "its files cannot be had: the fleet's store lacks the object" in fleet.listed()["lost-0"].submission.reason
        )
        wait_until(lambda: ask(fleet, 0, "delete", "lost-0").code == 0)
        wait_until(lambda: "lost-0" not in fleet.states())


def test_a_batch_is_followed_whichever_worker_has_it(tmp_path, api):
    """From a worker that does not have it, and from the store alone: the exit code is that of `batchrun run`."""
    with two_workers(tmp_path, api) as fleet:
        fleet.submit("busy", [{"n": 1, "until": str(tmp_path / "ends")}], task="busy", **SETTINGS)
        owner = owner_of(fleet, "busy")
        (tmp_path / "shop.jsonl").write_bytes(to_lines([{"n": n, "fails": n == 1} for n in range(3)]))
        (tmp_path / "shop.toml").write_text(
            f'[task]\nactor = "{ACTOR}"\nname = "shop"\n[jobs]\nfile = "shop.jsonl"\n'
            "[limits]\nstart_horizon_s = 700\n[retry]\nmax_attempts = 1\n"
        )
        followed = ask(fleet, owner, "submit", "shop.toml", "--wait")
        assert (followed.code, "2 of about 3 done" in followed.err or "3 of about 3 done" in followed.err) == (1, True)
        shown = [ask(fleet, n, "retry", "shop", "--dry-run") for n in range(2)]
        assert sorted(each.code for each in shown) == [0, 2], shown
        without = [each.code for each in shown].index(2)
        assert ask(fleet, without, "retry", "shop") == shown[without], "a dry run is refused as the retry is"
        known = batchrun("worker", "submit", "shop.toml", "--fleet", fleet.url, cwd=tmp_path)
        assert (known.code, known.out) == (0, followed.out), known
        again = batchrun(
            "worker", "submit", "shop.toml", "--again", "--wait", "--fleet", fleet.url,
            cwd=tmp_path, environ={"APIFY_TOKEN": TOKEN},
        )  # fmt: skip
        assert (again.code, "finished · 3 of 3 jobs done, 1 did not succeed" in again.err) == (1, True), again
        refused = batchrun("worker", "submit", "shop.toml", "--plan", "--fleet", fleet.url, cwd=tmp_path)
        assert (refused.code, "--plan asks a worker" in refused.err) == (2, True), refused
        (tmp_path / "ends").touch()
        wait_until(lambda: set(fleet.states().values()) == {"finished"})


def test_the_spool_of_a_fleets_worker_is_refused_in_words(tmp_path, api):
    """The file goes to `failed`, with what to do; the batch that shows it can be deleted."""
    with two_workers(tmp_path, api) as fleet:
        worker = fleet.workers[0]
        worker.put_batch("lone", [{"n": 1}])
        reason = worker.data_dir / "spool" / "failed" / "lone.toml.txt"
        wait_until(reason.exists)
        wait_until(lambda: "submit it with `batchrun worker submit`" in reason.read_text())
        assert ask(fleet, 0, "delete", "lone").code == 0
        assert "lone" not in ask(fleet, 0, "list").out


def test_a_store_that_is_gone_stops_starts_and_nothing_else(tmp_path, api):
    """Live Runs are followed, the worker says what it waits for, and goes on by itself.

    An entry of the list that cannot be read is skipped; one of the page stops starts for 1.5 leases.
    """
    with two_workers(tmp_path, api) as fleet:
        with open_part(fleet.url, LIST_LOG) as batches:
            batches.append(0, b"garbage")
        before, ends = len(api.runs()), tmp_path / "ends"
        fleet.submit("lost", [{"n": n, "until": str(ends)} for n in range(40)], task="lost", **SETTINGS)
        owner = owner_of(fleet, "lost")
        wait_until(lambda: live(api) == 8)
        (tmp_path / "store").rename(tmp_path / "away")
        ends.touch()  # from now on there are free slots
        wait_until(lambda: "waits for the fleet's store" in ask(fleet, owner, "status").out)
        wait_until(lambda: not live(api))
        assert len(api.runs()) == before + 8
        (tmp_path / "away").rename(tmp_path / "store")
        wait_until(lambda: set(fleet.states().values()) == {"finished"})
        assert len(fleet.records("lost")) == 40
        assert fleet.workers[owner].said().count("fleet_unreachable") == 1
        assert fleet.workers[owner].said().count("fleet_entry_skipped") == 1
        with open_part(fleet.url, PAGE_LOG) as store:
            pages = SharedPage(store)
            wait_until(lambda: pages.replace(pages.read()) and store.append(pages.number + 1, b"garbage"))
        wait_until(lambda: "the page of the fleet cannot be read" in fleet.workers[owner].said())
        assert fleet.workers[owner].stop() == 0


def test_a_batch_is_submitted_to_the_store_without_a_worker(tmp_path):
    """Twice with one key, it is on the list once; with other content, the key is refused as by a worker."""
    store = tmp_path / "store"
    store.mkdir()
    (tmp_path / "shop.jsonl").write_bytes(to_lines([{"n": 1}]))
    (tmp_path / "shop.toml").write_text(f'[task]\nactor = "{ACTOR}"\nname = "shop"\n[jobs]\nfile = "shop.jsonl"\n')

    def submit(priority: int) -> Said:
        once = ("--fleet", f"file://{store}", "--key", "once", "--priority", str(priority))
        return batchrun("worker", "submit", "shop.toml", *once, cwd=tmp_path, environ={"APIFY_TOKEN": TOKEN})

    said = [submit(priority) for priority in (3, 4)]
    assert [each.code for each in said] == [0, 0], said
    assert said[0].out == said[1].out
    (tmp_path / "shop.jsonl").write_bytes(to_lines([{"n": 2}]))
    other = submit(3)
    refusal = f"--key: has submitted batch {said[0].out.strip()}, with other content; give another one"
    assert (other.code, refusal in other.err) == (2, True), other
    shutil.rmtree(store)
    gone = batchrun("worker", "submit", "shop.toml", "--fleet", f"file://{store}", cwd=tmp_path)
    assert (gone.code, "there is no such directory" in gone.err) == (6, True), gone


class BusyStore(DirectoryStore):
    """A store that takes its time for an object."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.began, self.goes_on = threading.Event(), threading.Event()

    def put_object(self, name: str, content: bytes) -> None:
        """Store an object once the test says so."""
        self.began.set()
        assert self.goes_on.wait(60)
        super().put_object(name, content)


def fleet_in_this_process(tmp_path: Path, store: DirectoryStore) -> Fleet:
    """Return a fleet as one worker sees it."""
    store.prepare()
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    return Fleet(f"file://{tmp_path / 'store'}", LEASE_S, SharedPage(store), FleetList(store), directory)


async def test_a_worker_looks_at_the_page_while_a_large_file_is_stored(tmp_path):
    """It takes longer than a lease: otherwise the others would take all its batches."""
    (tmp_path / "store").mkdir()
    store = BusyStore(tmp_path / "store")
    fleet = await anyio.to_thread.run_sync(fleet_in_this_process, tmp_path, store)
    submission = Submission(
        id="large", name="large", created_at=datetime.now(UTC), batch_file="batch.toml", jobs_file="jobs.jsonl"
    )
    directory = tmp_path / "data" / "batches" / "large"
    directory.mkdir(parents=True)
    for name in ("batch.toml", "jobs.jsonl"):
        (directory / name).write_text("{}")
    async with anyio.create_task_group() as children:
        children.start_soon(fleet.submit, submission)
        await anyio.to_thread.run_sync(store.began.wait, 60)
        with anyio.fail_after(60):
            await fleet.read()
        assert not fleet.listed
        store.goes_on.set()
    assert list(fleet.listed) == ["large"]


async def test_a_worker_looks_at_the_page_while_all_threads_wait(tmp_path):
    """As many batches as there are threads may wait for a slow store, each with one."""
    (tmp_path / "store").mkdir()
    store = DirectoryStore(tmp_path / "store")
    fleet = await anyio.to_thread.run_sync(fleet_in_this_process, tmp_path, store)
    async with all_threads_waiting():
        with anyio.fail_after(60):
            await fleet.read()


async def test_an_order_for_a_batch_that_was_just_deleted_does_nothing(tmp_path):
    """Another worker has taken it from the list, which this one has not read since."""
    (tmp_path / "store").mkdir()
    store = DirectoryStore(tmp_path / "store")
    fleet = await anyio.to_thread.run_sync(fleet_in_this_process, tmp_path, store)
    await fleet.order("gone", OrderVerb.CANCEL, {})
    assert fleet.listed == {}
