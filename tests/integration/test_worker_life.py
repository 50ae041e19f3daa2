"""A worker's life: batches side by side, paused, cancelled, broken, resumed; counted at the server."""

import errno
import os
import shutil
import tracemalloc
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from batchrun.batch.running_batch import Batch
from batchrun.config.text_bounds import read_bounded
from batchrun.errors import ConfigError, OutputError
from batchrun.jobs.raw_streams import open_bytes
from batchrun.runtime.logs import logging_to, silence
from batchrun.runtime.private_files import make_private_directory, private_opener, read_private
from batchrun.worker import batch_deletion, batch_orders, batch_runner
from batchrun.worker import spool as spool_module
from batchrun.worker.account_use import AccountUse, read_account_use
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.spool import Spool
from batchrun.worker.spool_summary import write_summary_file
from batchrun.worker.spool_taken_files import beginning_of
from batchrun.worker.submission import BatchCounts, BatchState, Submission
from batchrun.worker.submission_store import SubmissionStore, WrongState
from tests.support.crash import open_api, some_jobs
from tests.support.json_lines import read_lines, to_lines
from tests.support.money import assert_costs_are_the_servers
from tests.support.worker_life import (
    SubmittedBatch,
    assert_all_jobs_done,
    assert_every_run_recorded,
    batch_file,
    most_at_once,
    put,
    submit_batch,
    until,
    working,
)

#: What one Run may cost: 128 MB for a minute.
ONE_RUN_USD = 0.25 * 128 / 1024 * 60 / 3600


@pytest.fixture
def api(tmp_path):
    with open_api(tmp_path / "api") as api:
        yield api


def jobs_of(count: int, ms: int = 100, **others: Any) -> list[dict[str, Any]]:
    return [{"n": n, "ms": ms, **others} for n in range(count)]


async def test_five_batches_never_exceed_max_concurrent_runs(tmp_path, api):
    """Counted at the server: the maximum is reached and never exceeded."""
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=6) as worker:
        batches = [await submit_batch(worker, some_jobs(16, seed), task=f"task-{seed % 2}") for seed in range(5)]
        for batch in batches:
            await batch.until(BatchState.FINISHED)
    assert most_at_once(api.runs()) == 6
    for batch in batches:
        assert_all_jobs_done(batch)
    assert_every_run_recorded(batches, api)


async def test_a_paused_batch_starts_nothing_until_it_is_resumed(tmp_path, api):
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=4) as worker:
        batch = await submit_batch(worker, jobs_of(40))
        await batch.until_live(4)
        assert (await batch_orders.pause(worker, batch.id)).state is BatchState.PAUSING
        noted = await batch.until(BatchState.PAUSED)
        runs = api.runs()
        assert noted.counts.settled == len(batch.records()) == len(runs) < 40
        assert {run["status"] for run in runs} == {"SUCCEEDED"}
        assert (await batch_orders.pause(worker, batch.id)).state is BatchState.PAUSED
        await batch_orders.resume(worker, batch.id)
        await batch.until(BatchState.FINISHED)
        assert_all_jobs_done(batch)
        assert_every_run_recorded([batch], api)


async def test_a_batch_that_is_resumed_while_pausing_keeps_its_permits(tmp_path, api):
    """Its Runs continue, and the other batch gets none of their permits, eight times in a row."""
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=4) as worker:
        batches = [await submit_batch(worker, jobs_of(30, 150), task=f"task-{n}") for n in range(2)]
        for _ in range(8):
            await batches[0].until_live()
            await batch_orders.pause(worker, batches[0].id)
            await batch_orders.resume(worker, batches[0].id)
            await batches[0].until(BatchState.ACTIVE, BatchState.FINISHED)
        for batch in batches:
            await batch.until(BatchState.FINISHED)
            assert_all_jobs_done(batch)
        assert_every_run_recorded(batches, api)
        assert worker.account is not None
        assert (worker.account.shared.pool.used, worker.account.live_runs) == (0, 0)
    assert most_at_once(api.runs()) == 4


async def test_a_cancelled_batch_has_a_record_of_every_run(tmp_path, api):
    """Its live Runs are aborted; the other batch is not affected."""
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=6) as worker:
        cancelled = await submit_batch(worker, jobs_of(40, 60_000), task="long")
        other = await submit_batch(worker, jobs_of(20), task="short")
        await cancelled.until_live(3)
        await batch_orders.cancel(worker, cancelled.id)
        await cancelled.until(BatchState.CANCELLED)
        await other.until(BatchState.FINISHED)
        assert (await batch_orders.cancel(worker, cancelled.id)).state is BatchState.CANCELLED
    assert {record["outcome"] for record in cancelled.records()} == {"aborted"}
    assert_all_jobs_done(other)
    assert_every_run_recorded([cancelled, other], api)


async def test_a_paused_batch_is_cancelled_at_once(tmp_path, api):
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=2) as worker:
        batch = await submit_batch(worker, jobs_of(20))
        await batch.until_live()
        await batch_orders.pause(worker, batch.id)
        await batch.until(BatchState.PAUSED)
        await batch_orders.cancel(worker, batch.id)
        await batch.until(BatchState.CANCELLED)
    assert_every_run_recorded([batch], api)


@pytest.mark.parametrize("order", [batch_orders.pause, batch_orders.cancel])
async def test_an_order_is_obeyed_at_any_moment(tmp_path, api, order):
    """A batch that is being opened or closed, or has just begun, rests as ordered, or is finished."""
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=4) as worker:
        batches = [await submit_batch(worker, jobs_of(3, 10), task=f"task-{n % 3}") for n in range(12)]
        async with anyio.create_task_group() as children:
            for n, batch in enumerate(batches):
                children.start_soon(order_later, worker, order, batch, n * 0.03)
        wanted = BatchState.PAUSED if order is batch_orders.pause else BatchState.CANCELLED
        for batch in batches:
            await batch.until(wanted, BatchState.FINISHED)
        assert_every_run_recorded(batches, api)


async def order_later(worker, order, batch, after_s):
    await anyio.sleep(after_s)
    with suppress(WrongState):  # it was over already
        await order(worker, batch.id)


async def test_a_broken_batch_affects_no_other(tmp_path, api):
    """A truncated job file, an unknown task, an impossible output directory: each batch ends alone."""
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=6) as worker:
        good = await submit_batch(worker, some_jobs(15), task="good")
        unknown = await submit_batch(worker, jobs_of(5), task="unknown")
        (worker.directory.of(unknown.id) / "batch.toml").write_text(
            '[task]\nid = "no-such-task"\n[jobs]\nfile="jobs.jsonl"'
        )
        no_disk = await submit_batch(worker, jobs_of(5), task="no-disk")
        (worker.directory.of(no_disk.id) / "out").write_text("a file where a directory should be")
        late = await submit_batch(worker, [*jobs_of(120, 1), {"n": "x" * 10}], task="late", jobs__on_bad_line="record")
        jobs_file = worker.directory.of(late.id) / "jobs.jsonl"
        jobs_file.write_bytes(jobs_file.read_bytes()[:-4])
        assert (await unknown.until(BatchState.STOPPED)).reason.startswith("the platform knows no task")
        assert "out" in (await no_disk.until(BatchState.STOPPED, BatchState.FAILED)).reason
        await late.until(BatchState.FINISHED)
        await good.until(BatchState.FINISHED)
        assert [record["outcome"] for record in late.records()].count("invalid") == 1
        assert_all_jobs_done(good)


async def test_a_damaged_ledger_affects_no_other_batch(tmp_path, api):
    """The ledger of one is overwritten; the other ends, and the worker lives."""
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=4) as worker:
        good = await submit_batch(worker, jobs_of(30), task="good")
        bad = await submit_batch(worker, jobs_of(30), task="bad")
        await bad.until_live()
        for name in ("ledger.sqlite3", "ledger.sqlite3-wal"):
            (bad.out / name).write_bytes(b"no ledger" * 100_000)
        noted = await bad.until(BatchState.STOPPED, BatchState.FAILED)
        assert "ledger" in noted.reason
        await good.until(BatchState.FINISHED)
        assert_all_jobs_done(good)
        again = await submit_batch(worker, jobs_of(5), task="again")
        await again.until(BatchState.FINISHED)


async def test_a_profile_may_be_a_symbolic_link_in_a_fleet_too(tmp_path, api):
    """It is the operator's: a worker alone reads it where it is, and a fleet copies its content."""
    text = batch_file("linked", "jobs.jsonl")
    (tmp_path / "shop.toml").write_text(text)
    async with working(tmp_path / "data", api) as worker:
        (worker.directory.profiles / "shop.toml").symlink_to(tmp_path / "shop.toml")
        profiled = Submission(
            id="own", name="own", created_at=datetime.now(UTC), profile="shop", jobs_file="jobs.jsonl"
        )
        worker.directory.of("own").mkdir()
        (worker.directory.of("own") / "jobs.jsonl").write_text("{}")
        own = await anyio.to_thread.run_sync(worker.intake.with_own_file, profiled)
        assert (own.profile, (worker.directory.of("own") / "batch.toml").read_text()) == (None, text)


async def test_a_state_that_cannot_be_saved_is_saved_later(tmp_path, api):
    """The batch runs although its state cannot be written; the state is written when that works again."""
    async with working(tmp_path / "data", api) as worker:
        batch = await submit_batch(worker, jobs_of(10))
        file = worker.directory.of(batch.id) / "batch.json"
        file.unlink()
        file.mkdir()  # which no file replaces
        await batch.until(BatchState.FINISHED)
        file.rmdir()
        await until(lambda: file.exists() and orjson.loads(file.read_bytes())["state"] == "finished", "the saved end")


async def test_an_outage_is_logged_once_and_all_batches_continue(tmp_path):
    log = tmp_path / "worker.log"
    with ExitStack() as logging:
        logging.enter_context(logging_to(log))
        with open_api(tmp_path / "api") as api:
            port = int(api.base_url.rsplit(":", 1)[1])
            stack = working(tmp_path / "data", api, limits__max_concurrent_runs=6)
            worker = await stack.__aenter__()
            batches = [await submit_batch(worker, jobs_of(30, 300), task=f"task-{n}") for n in range(3)]
            for batch in batches:
                await batch.until_live()
        await until(lambda: worker.outage, "an outage that is noticed")
        assert not worker.is_ready
        batches.append(await submit_batch(worker, jobs_of(5), task="late"))
        with open_api(tmp_path / "api", port=port) as api:
            for batch in batches:
                await batch.until(BatchState.FINISHED)
                assert_all_jobs_done(batch)
            assert_every_run_recorded(batches, api)
            await until(lambda: worker.is_ready, "a worker that is ready again")
            await stack.__aexit__(None, None, None)
        await anyio.to_thread.run_sync(logging.close)
    silence()
    events = [line["event"] for line in read_lines(log)]
    assert [each for each in events if "reachable" in each] == ["api_unreachable", "api_reachable"]


async def test_a_restart_resumes_all_batches_within_the_limit(tmp_path, api):
    """Three restarts amid five batches; live Runs keep their permits, whichever batch is opened first."""
    data = tmp_path / "data"
    async with working(data, api, limits__max_concurrent_runs=5) as worker:
        batches = [await submit_batch(worker, jobs_of(12, 300), task=f"task-{n % 2}") for n in range(5)]
        await until(lambda: worker.live_runs == 5, "five live Runs")
    for count in (10, 25):
        async with working(data, api, limits__max_concurrent_runs=5):
            await until(lambda: sum(len(batch.records()) for batch in batches) >= count, "more records")  # noqa: B023
    async with working(data, api, limits__max_concurrent_runs=5) as worker:
        for batch in batches:
            batch.worker = worker
            await batch.until(BatchState.FINISHED)
            assert_all_jobs_done(batch)
    assert_every_run_recorded(batches, api)
    assert most_at_once(api.runs()) == 5


async def test_limits_change_while_batches_run(tmp_path, api):
    """Lower and higher limits of the worker, limits and rate of one batch: each applies at once."""
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=8) as worker:
        one = await submit_batch(worker, jobs_of(100, 100), task="one")
        two = await submit_batch(worker, jobs_of(100, 100), task="two", limits__start_rate=0.05)
        await one.until_live(6)
        settings = {**one.submission.settings, "limits.max_concurrent_runs": 2}
        await batch_orders.change(worker, one.id, settings=settings)
        await until(lambda: worker.runners[one.id].counts().live_runs <= 2, "two live Runs")
        await batch_orders.change(worker, two.id, settings={**two.submission.settings, "limits.start_rate": 100})
        await two.until_live(6)
        limits = worker.config.limits.model_copy(update={"max_concurrent_runs": 1})
        await worker.change_limits(limits)
        await until(lambda: worker.live_runs <= 1, "one live Run")
        before, settled = {run["id"] for run in api.runs()}, len(one.records() + two.records())
        await until(lambda: len(one.records() + two.records()) > settled + 10, "ten more records")
        after = [run for run in api.runs() if run["id"] not in before]
        assert most_at_once(after) == 1
        await worker.change_limits(limits.model_copy(update={"max_concurrent_runs": 40}))
        await batch_orders.change(worker, one.id, settings={**settings, "limits.max_concurrent_runs": 40})
        await one.until(BatchState.FINISHED)
        await two.until(BatchState.FINISHED)
        assert_all_jobs_done(one)
        assert_all_jobs_done(two)
    assert_every_run_recorded([one, two], api)


async def test_an_invalid_change_changes_nothing(tmp_path, api):
    async with working(tmp_path / "data", api) as worker:
        batch = await submit_batch(worker, jobs_of(5))
        with pytest.raises(ConfigError):
            await batch_orders.change(worker, batch.id, settings={"limits.start_rate": -1})
        with pytest.raises(ConfigError):
            await batch_orders.change(worker, batch.id, weight=0)
        await batch.until(BatchState.FINISHED)


async def test_two_batches_stay_within_the_shared_budget(tmp_path, api, soon_final_costs):
    """Money for four Runs at a time: a waiting batch starts once the other's final costs release reservations."""
    budget_usd = 4 * ONE_RUN_USD
    flags = {"limits__max_concurrent_runs": 6, "limits__budget_usd": budget_usd}
    settings: dict[str, Any] = {"limits__compute_unit_usd": 0.25, "run__timeout_s": 60}
    async with working(tmp_path / "data", api, **flags) as worker:
        batches = [await submit_batch(worker, jobs_of(3, 5), task=f"task-{n}", **settings) for n in range(2)]
        for batch in batches:
            await batch.until(BatchState.FINISHED)
        spent = worker.budget
        cost_usd = sum(run["usageTotalUsd"] or 0 for run in api.runs())
        assert cost_usd <= budget_usd
        assert spent.spent_usd + spent.reserved_usd <= budget_usd + 1e-8
        assert spent.spent_usd + spent.reserved_usd >= cost_usd - 1e-8
    for batch in batches:
        runs = [run for run in api.runs() if run["actorTaskId"] == batch.records()[0]["run"]["actorTaskId"]]
        await anyio.to_thread.run_sync(assert_costs_are_the_servers, batch.out, runs)
    assert_every_run_recorded(batches, api)


async def test_a_deleted_batch_no_longer_counts_in_the_budget(tmp_path, api, soon_final_costs):
    """The budget counts the costs of the remaining batches, the same before and after a restart."""
    flags = {"limits__budget_usd": 1000.0}
    settings: dict[str, Any] = {"limits__compute_unit_usd": 0.25, "run__timeout_s": 60}
    async with working(tmp_path / "data", api, **flags) as worker:
        kept, deleted = [await submit_batch(worker, jobs_of(3, 5), task=f"task-{n}", **settings) for n in range(2)]
        for batch in (kept, deleted):
            await batch.until(BatchState.FINISHED)
        await until(lambda: not worker.runners, "a worker at rest")
        before_usd = worker.budget.spent_usd
        await batch_deletion.delete(worker, deleted.id)
        after_usd = worker.budget.spent_usd
        assert 0 < after_usd < before_usd
    async with working(tmp_path / "data", api, **flags) as worker:
        assert worker.budget.spent_usd == pytest.approx(after_usd)


async def test_a_budget_that_is_set_later_is_kept_and_rejects_no_job(tmp_path, api, soon_final_costs):
    """Open batches without one are reopened, and money is reserved for their live Runs."""
    settings: dict[str, Any] = {"limits__compute_unit_usd": 0.25, "run__timeout_s": 60}
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=4) as worker:
        batch = await submit_batch(worker, jobs_of(12, 300), **settings)
        await batch.until_live(4)
        await worker.change_limits(worker.config.limits.model_copy(update={"budget_usd": 1000.0}))
        await until(lambda: worker.budget.reserved_usd > 0, "reserved money")
        await batch.until(BatchState.FINISHED)
        assert {record["outcome"] for record in batch.records()} == {"succeeded"}
        assert worker.budget.reserved_usd == pytest.approx(0)
    assert_all_jobs_done(batch)
    assert_every_run_recorded([batch], api)
    assert most_at_once(api.runs()) == 4


async def test_the_spool_takes_complete_files_and_reports_their_end(tmp_path, api):
    data = tmp_path / "data"
    async with working(data, api) as worker:
        spool = data / "spool"
        (data / "profiles" / "shop.toml").write_text(batch_file("shop", "-").replace('file = "-"', ""))
        (spool / "shop").mkdir()
        (spool / "half.toml.part").write_text("not yet")
        (spool / ".hidden.toml").write_text("not at all")
        (spool / "loop.toml").symlink_to("loop.toml")
        (spool / "\udcff.toml").write_text("no text")
        put(spool / "first.jsonl", to_lines(jobs_of(10, 1)))
        put(spool / "first.toml", batch_file("first", "first.jsonl"))
        put(spool / "shop" / "second.jsonl", to_lines(jobs_of(7, 1)))
        put(spool / "wrong.toml", "[task]\nidd = 7\n")
        put(spool / "nobody" / "third.csv", "n\n1\n")
        done = [spool / "first.summary.json", spool / "shop" / "second.summary.json"]
        bad = [spool / "failed" / "wrong.toml.txt", spool / "failed" / "nobody" / "third.csv.txt"]
        await until(lambda: all(file.exists() for file in [*done, *bad]), "the end of all four")
        summaries = [orjson.loads(file.read_bytes()) for file in done]
        assert [each["state"] for each in summaries] == ["finished", "finished"]
        assert [each["counts"]["outcomes"] for each in summaries] == [{"succeeded": 10}, {"succeeded": 7}]
        assert "task.idd" in bad[0].read_text()
        assert "no profile 'nobody'" in bad[1].read_text()
        await until(lambda: not (spool / "wrong.toml").exists(), "the bad file moved away")
        assert len(read_lines(spool / "shop" / "second.out" / "records.jsonl")) == 7
        assert {each.name for each in worker.store} == {"first", "second", "wrong", "third"}
        assert (spool / "half.toml.part").exists()


def test_only_what_a_worker_has_made_is_removed_as_incomplete(tmp_path):
    """`batches` is a name that people use, and `--data .` is enough to name theirs.

    What has a ledger has results: the batch's file may be restored later, or was moved aside.
    """
    directory = DataDirectory(tmp_path)
    directory.make()
    of_worker, of_part = SubmissionStore.new_id(), f"{SubmissionStore.new_id()}-12"
    restored, deleted = SubmissionStore.new_id(), SubmissionStore.new_id()
    for name in (of_worker, of_part, restored, deleted, "2025-q1", "20250101", "20250101-customers"):
        put(directory.batches / name / "jobs.csv", "n\n")
    for name in (restored, deleted):
        put(directory.batches / name / "out" / "ledger.sqlite3", "")
    put(directory.batches / deleted / "batch.json.deleted", "")
    SubmissionStore(directory).load()
    left = {each.name for each in directory.batches.iterdir()}
    assert left == {restored, "2025-q1", "20250101", "20250101-customers"}


async def test_a_deletion_that_was_interrupted_is_completed_at_the_next_start(tmp_path, monkeypatch, blockbuster):
    """Wherever it was; results may take gigabytes, and are in no list any more."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path)
    directory.make()
    store = SubmissionStore(directory)
    submission = Submission(id=store.new_id(), name="shop", created_at=datetime.now(UTC))
    await store.add(submission)
    put(directory.out_dir(submission) / "ledger.sqlite3", "")

    def interrupted(path: Path) -> None:
        for file in path.iterdir():
            if not file.is_dir() and file.name != "ledger.sqlite3":
                file.unlink()
        raise OSError("killed")

    with monkeypatch.context() as until_killed:
        until_killed.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(OutputError, match="killed"):
            store.delete(submission)
    assert directory.of(submission.id).exists()
    SubmissionStore(directory).load()
    assert not directory.of(submission.id).exists()


async def test_a_file_beside_no_batch_file_is_reported_once(tmp_path, blockbuster):
    """Nothing takes it. One that a batch file names is not reported."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path)
    directory.make()
    put(directory.spool / "lone.CSV", "n\n1\n")
    put(directory.spool / "named.jsonl", "{}\n")
    put(directory.spool / "a.TOML", batch_file("a", "named.jsonl"))

    async def submit(submission: Submission) -> Submission:
        return submission

    spool = Spool(directory, SubmissionStore(directory), submit)
    await spool.look()
    assert [file.name for file in spool._reported] == ["lone.CSV"]
    put(directory.spool / "later.xlsx", "")
    await spool.look()
    assert [file.name for file in spool._reported] == ["lone.CSV", "later.xlsx"]
    assert "no batch file here names it; move it into the directory" in spool._reported[directory.spool / "lone.CSV"]


async def test_batch_files_are_looked_through_one_at_a_time(tmp_path, blockbuster, monkeypatch):
    """For a file that none of them may name; all of them together may be gigabytes, and are not read then."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path)
    directory.make()
    for number in range(40):
        with (directory.spool / f"{number}.toml").open("wb") as file:
            file.truncate(1 << 20)
    put(directory.spool / "lone.csv", "n\n1\n")

    async def submit(submission: Submission) -> Submission:
        return submission

    spool = Spool(directory, SubmissionStore(directory), submit)
    monkeypatch.setattr(spool_module, "_MAX_SEARCHED_BYTES", 39 << 20)
    await spool.look()
    assert spool._reported == {}
    monkeypatch.undo()
    tracemalloc.start()
    await spool.look()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [each.name for each in spool._reported] == ["lone.csv"]
    assert peak_bytes < 8 << 20


async def test_no_link_in_the_spool_takes_a_file_elsewhere(tmp_path, blockbuster):
    """Who may only write to the spool chooses no file outside of it: none is moved, replaced or looked into."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    put(tmp_path / "home" / "data.csv", "of the user")
    (directory.spool / "home").symlink_to(tmp_path / "home")
    (directory.spool / "shop").mkdir()
    put(directory.spool / "shop" / "a.csv", "n\n1\n")
    put(directory.spool / "worker.toml", "of a stranger")

    async def refuse(submission: Submission) -> Submission:
        raise ConfigError("cannot run")

    store = SubmissionStore(directory)
    for aim, name in ((directory.path, "failed"), (directory.profiles, "failed/shop")):
        (directory.spool / name).symlink_to(aim)
        spool = Spool(directory, store, refuse)
        for _ in range(2):
            await spool.look()
        left = sorted(str(each.relative_to(directory.spool)) for each in spool._reported)
        assert left == {"failed": ["home", "shop/a.csv", "worker.toml"], "failed/shop": ["home", "shop/a.csv"]}[name]
        assert "symbolic link" in spool._reported[directory.spool / "home"]
        if name == "failed":
            (directory.spool / name).unlink()
            (directory.spool / name).mkdir()
    assert [each.name for each in (tmp_path / "home").iterdir()] == ["data.csv"]
    assert {each.name for each in directory.path.iterdir()} == {"batches", "spool", "profiles", ".gitignore"}
    assert not [*directory.profiles.iterdir()]
    assert (directory.spool / "failed" / "worker.toml.txt").read_text() == "cannot run\n"


async def test_a_cancelled_batch_of_the_spool_goes_on_only_when_it_is_resumed(tmp_path, blockbuster):
    """A copy of the data directory, or a touch, makes its file another one; that spends nothing."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    file = directory.spool / "shop.toml"
    put(file, "")
    store, taken = SubmissionStore(directory), list[Submission]()

    async def submit(submission: Submission) -> Submission:
        taken.append(submission)
        return await store.add(submission)

    spool = Spool(directory, store, submit)
    await spool.look()
    await store.update(taken[0].id, lambda _: {"state": BatchState.CANCELLED})
    os.utime(file, (1, 1))
    await spool.look()
    assert len(taken) == 1
    assert "was cancelled; `batchrun worker resume shop` goes on with it" in spool._reported[file]
    await store.update(taken[0].id, lambda _: {"state": BatchState.FINISHED})
    await spool.look()
    assert len(taken) == 2


@pytest.mark.parametrize("has_run", [True, False])
async def test_a_cancelled_batch_of_the_spool_stays_so_once_it_is_deleted(tmp_path, blockbuster, has_run):
    """Its file may be touched, or come with a restored directory: what somebody has stopped spends nothing by itself.

    Another file of its name is another batch, if it would not go on with that one.
    """
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    file = directory.spool / "shop.toml"
    put(file, "# one")
    store, taken = SubmissionStore(directory), list[Submission]()

    async def submit(submission: Submission) -> Submission:
        taken.append(submission)
        return await store.add(submission)

    await Spool(directory, store, submit).look()
    if has_run:
        (directory.spool / "shop.out").mkdir()
        (directory.spool / "shop.out/ledger.sqlite3").touch()
    changes = {"state": BatchState.CANCELLED, "counts": BatchCounts(live_runs=int(has_run))}
    cancelled = await store.update(taken[0].id, lambda _: changes)
    store.delete(cancelled)
    os.utime(file, (1, 1))
    spool = Spool(directory, store, submit)
    await spool.look()
    assert len(taken) == 1
    assert "was cancelled and deleted; give the file another name" in spool._reported[file]
    (tmp_path / "other").write_text("# another one")
    (tmp_path / "other").rename(file)
    await spool.look()
    assert len(taken) == (1 if has_run else 2)


async def test_the_file_of_a_killed_batch_is_not_taken_again_once_that_is_deleted(tmp_path, blockbuster):
    """Its worker was killed before it counted a Run: that the batch has begun says that there may be some."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    put(directory.spool / "shop.toml", "")
    store, taken = SubmissionStore(directory), list[Submission]()

    async def submit(submission: Submission) -> Submission:
        taken.append(submission)
        return await store.add(submission)

    await Spool(directory, store, submit).look()
    changes = {"state": BatchState.STOPPED, "begun_at": datetime.now(UTC)}
    store.delete(await store.update(taken[0].id, lambda _: changes))
    await Spool(directory, store, submit).look()
    assert len(taken) == 1


async def test_what_cannot_be_followed_in_the_spool_holds_up_no_other_file(tmp_path, blockbuster):
    """A link to a file in a home that is closed to the worker, or to a name that is too long: each is reported."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    for name in ("lone.csv", "home", "refused.out", "z.summary.json"):
        (directory.spool / name).symlink_to("a" * 300)
    for name in ("broken", "refused", "z"):
        put(directory.spool / f"{name}.toml", "")
    taken: list[str] = []

    async def submit(submission: Submission) -> Submission:
        taken.append(submission.name)
        if submission.name == "broken":
            raise RuntimeError("a bug")
        if submission.name == "refused":
            raise ConfigError("cannot run")
        return submission

    store = SubmissionStore(directory)
    spool = Spool(directory, store, submit)
    await spool.look()
    assert taken == ["broken", "refused", "z"]
    reported = {each.name: reason for each, reason in spool._reported.items()}
    assert sorted(reported) == ["broken.toml", "home", "lone.csv", "refused.out"]
    assert "File name too long" in reported["home"]
    (refused,) = store
    assert read_account_use(refused, directory, has_budget=True) == AccountUse()


@pytest.mark.parametrize("ledger", [None, b"", b"no ledger"])
async def test_money_stays_spent_whatever_becomes_of_the_results(tmp_path, blockbuster, ledger):
    """Else the budget of all batches would begin again once a person has archived them, at the next start."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    store = SubmissionStore(directory)
    counts = BatchCounts(cost_usd=0.5, used_usd=0.75)
    batch = await store.add(Submission(id=store.new_id(), name="shop", created_at=datetime.now(UTC), counts=counts))
    if ledger is not None:
        directory.out_dir(batch).mkdir()
        (directory.out_dir(batch) / "ledger.sqlite3").write_bytes(ledger)
    assert read_account_use(batch, directory, has_budget=True) == AccountUse(spent_usd=0.75)


async def test_the_money_of_archived_results_stays_spent_when_a_new_file_has_their_name(tmp_path, blockbuster):
    """As of a daily export: else each restart of the worker would forget all days before."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    file = directory.spool / "daily.toml"
    counts = BatchCounts(cost_usd=0.5, used_usd=0.75)
    done = {"state": BatchState.FINISHED, "begun_at": datetime.now(UTC), "counts": counts}
    store = SubmissionStore(directory)
    spool = Spool(directory, store, store.add)
    spent_usd = []
    for day in range(3):
        put(file, f"# {day}")
        await spool.look()
        (batch,) = store
        spent_usd.append(read_account_use(batch, directory, has_budget=True).spent_usd)
        await store.update(batch.id, lambda _: done)
    assert spent_usd == [0, 0.75, 1.5]


@pytest.mark.parametrize("is_deleted", [False, True])
@pytest.mark.parametrize("is_new_inode", [False, True])
@pytest.mark.parametrize(
    ("later", "is_taken"),
    [
        ("monday and more", False),
        ("monday", False),
        ("tuesday and more", True),
        ("monda", True),
    ],
    ids=["grown", "touched", "another", "cut"],
)
@pytest.mark.parametrize("before", ["", "# customers of all days\n" * 50_000], ids=["small", "large"])
async def test_a_file_whose_results_were_moved_is_known_by_its_content(
    tmp_path, blockbuster, is_deleted, is_new_inode, later, is_taken, before
):
    """Not by its inode: ext4 gives that of a removed file to the next one, and some editors give a file another one."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    file = directory.spool / "daily.toml"
    store, taken = SubmissionStore(directory), list[str]()

    async def submit(submission: Submission) -> Submission:
        taken.append(file.read_text())
        return await store.add(submission)

    put(file, f"{before}# monday")
    spool = Spool(directory, store, submit)
    await spool.look()
    (batch,) = store
    ended = await store.update(batch.id, lambda _: {"state": BatchState.FINISHED, "begun_at": datetime.now(UTC)})
    if is_deleted:
        store.delete(ended)
    if is_new_inode:
        put(file, f"{before}# {later}")
    else:
        file.write_text(f"{before}# {later}")
    os.utime(file, ns=(0, 0))
    for _ in range(2):
        await spool.look()
        assert len(taken) == (2 if is_taken else 1)
    if is_taken:
        return
    if not is_deleted:
        assert "results were moved" in store[batch.id].reason
        assert "results were moved" in (directory.spool / "daily.summary.json").read_text()
    put(directory.spool / "daily.out" / "ledger.sqlite3", "")
    await spool.look()
    assert len(taken) == 2, "its results were put back, and it goes on"


async def test_a_worker_opens_no_file_outside_of_the_spool_by_a_path_in_it(tmp_path, api, blockbuster):
    """A path that was checked may be a link by the time at which it is opened."""
    blockbuster.deactivate()
    secret = tmp_path / "secret.csv"
    secret.write_text("of the user\n")
    async with working(tmp_path / "data", api):
        spool = tmp_path / "data" / "spool"
        (spool / "real.csv").write_text("n\n")
        (spool / "near.csv").symlink_to("real.csv")
        (spool / "far.csv").symlink_to(secret)
        (spool / "home").symlink_to(tmp_path)
        (tmp_path / "other-way").symlink_to(spool)

        def read(path: Path) -> bytes:
            with open_bytes(path, "none", 0) as stream:
                return stream.read()

        assert {read(path) for path in (spool / "near.csv", tmp_path / "other-way" / "real.csv")} == {b"n\n"}
        assert read(secret) == b"of the user\n"
        for way in ("far.csv", "home/secret.csv", "../spool/far.csv", "home/data/../secret.csv"):
            for path in (spool / way, tmp_path / "other-way" / way):
                for opens in (read, read_bounded, read_private):
                    with pytest.raises(OSError, match="symbolic link"):
                        opens(path)
        with pytest.raises(OSError, match="symbolic link"):
            private_opener(str(spool / "home" / "secret.csv"), os.O_WRONLY | os.O_TRUNC)
        with pytest.raises(OSError, match="symbolic link"):
            private_opener(str(spool / "home" / "new"), os.O_WRONLY | os.O_CREAT)
        assert (secret.read_text(), (tmp_path / "new").exists()) == ("of the user\n", False)
        before = tmp_path.stat().st_mode
        with pytest.raises(OSError, match="symbolic link"):
            make_private_directory(spool / "home")
        assert tmp_path.stat().st_mode == before
        os.mkfifo(spool / "pipe.csv")
        for opens in (read, read_bounded):
            with pytest.raises(OSError, match="no regular file"):
                opens(spool / "pipe.csv")


async def test_a_batch_file_that_cannot_be_read_disturbs_no_other(tmp_path, blockbuster):
    """A disk fails, or a file goes while it is looked for: the others are taken; what it may name is not reported."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path)
    directory.make()
    put(directory.spool / "perhaps-named.jsonl", "{}\n")
    put(directory.spool / "whole.toml", batch_file("a", "other.jsonl"))
    (directory.spool / "unreadable.toml").symlink_to("/proc/self/mem")
    taken = []

    async def submit(submission: Submission) -> Submission:
        taken.append(submission.name)
        return submission

    spool = Spool(directory, SubmissionStore(directory), submit)
    await spool.look()
    assert sorted(taken) == ["unreadable", "whole"]
    assert spool._reported == {}


@pytest.mark.parametrize(("today", "is_taken"), [("n\n1\n2\n", False), ("n\n3\n2\n", True), (None, False)])
async def test_a_batch_file_is_another_one_with_another_job_file(tmp_path, blockbuster, today, is_taken):
    """The same one may come each day, with the jobs of the day, once the results of yesterday were moved."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    jobs, file = directory.spool / "daily.csv", directory.spool / "daily.toml"
    store, taken = SubmissionStore(directory), list[Submission]()

    async def submit(submission: Submission) -> Submission:
        taken.append(submission)
        return await store.add(submission)

    put(jobs, "n\n1\n")
    put(file, batch_file("daily", "daily.csv"))
    spool = Spool(directory, store, submit)
    await spool.look()
    await store.update(taken[0].id, lambda _: {"state": BatchState.FINISHED, "begun_at": datetime.now(UTC)})
    jobs.unlink()
    if today is not None:
        put(jobs, today)
    put(file, batch_file("daily", "daily.csv"))
    await spool.look()
    assert len(taken) == (2 if is_taken else 1)


def test_of_a_giant_file_in_the_spool_some_pieces_are_read(tmp_path):
    """All other files wait meanwhile. It is known again by them and its end, whatever was appended."""
    file = tmp_path / "giant.jsonl"
    with file.open("wb") as opened:
        opened.truncate(1 << 40)
        opened.seek((1 << 40) - 1)
        opened.write(b"x")
    before = beginning_of(file)
    assert before is not None
    with file.open("ab") as opened:
        opened.write(b"y")
    assert beginning_of(file, before) == before != beginning_of(file)


async def test_a_refused_file_replaces_no_earlier_one_of_its_name(tmp_path, blockbuster):
    """Each may be the only copy of what was handed in; its reason stands beside it."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    (directory.spool / "shop").mkdir()

    async def refuse(_: Submission) -> Submission:
        raise ConfigError(f"cannot run {file.read_text()}")

    spool = Spool(directory, SubmissionStore(directory), refuse)
    for day in ("monday", "tuesday", "wednesday"):
        file = directory.spool / "shop" / "day.csv.gz"
        put(file, day)
        await spool.look()
    failed = {each.name: each.read_text().strip() for each in (directory.spool / "failed" / "shop").iterdir()}
    names = {"day.csv.gz": "monday", "day-2.csv.gz": "tuesday", "day-3.csv.gz": "wednesday"}
    assert failed == names | {f"{name}.txt": f"cannot run {day}" for name, day in names.items()}


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_a_refused_file_leaves_no_summary_of_an_earlier_one_of_its_name(tmp_path, blockbuster, is_deleted):
    """A program that waits for the summary would take yesterday's for today's. Put back, the refused one is taken."""
    blockbuster.deactivate()
    directory = DataDirectory(tmp_path / "data")
    directory.make()
    (directory.spool / "shop").mkdir()
    file, store = directory.spool / "shop" / "day.csv", SubmissionStore(directory)

    async def submit(submission: Submission) -> Submission:
        if "today" in file.read_text():
            raise ConfigError("there is no profile")
        return await store.add(submission)

    spool = Spool(directory, store, submit)

    async def batch_of(text: str) -> Submission:
        put(file, text)
        await spool.look()
        (batch,) = store
        return batch

    yesterday = await batch_of("yesterday")
    done = {"state": BatchState.FINISHED, "begun_at": datetime.now(UTC)}
    write_summary_file(directory, await store.update(yesterday.id, lambda _: done), store)
    if is_deleted:
        store.delete(store[yesterday.id])
    today = await batch_of("today")
    assert (directory.spool / "failed" / "shop" / "day.csv").exists()
    summary = orjson.loads(directory.summary_file(today).read_bytes())
    assert (summary["id"], summary["state"], summary["reason"]) == (today.id, "failed", "there is no profile")
    store.delete(today)
    (directory.spool / "failed" / "shop" / "day.csv").replace(file)
    await spool.look()
    assert len(store) == 1


async def test_two_files_of_one_name_never_share_results(tmp_path, api):
    """The second is refused at once with the first one's name; the first one's results and summary are untouched."""
    data = tmp_path / "data"
    async with working(data, api) as worker:
        spool = data / "spool"
        (data / "profiles" / "shop.toml").write_text(batch_file("shop", "-").replace('file = "-"', ""))
        (spool / "shop").mkdir()
        put(spool / "shop" / "a.jsonl", to_lines(jobs_of(3, 1)))
        await until((spool / "shop" / "a.summary.json").exists, "a summary")
        before = (spool / "shop" / "a.out" / "records.jsonl").read_bytes()
        summary = (spool / "shop" / "a.summary.json").read_bytes()
        put(spool / "shop" / "a.csv", "n\n7\n")
        reason = spool / "failed" / "shop" / "a.csv.txt"
        await until(reason.exists, "the second file moved away")
        assert "a.out holds the results of shop/a.jsonl" in reason.read_text()
        await until(lambda: not (spool / "shop" / "a.csv").exists(), "the second file moved away")
        assert (spool / "shop" / "a.out" / "records.jsonl").read_bytes() == before
        assert {each.state for each in worker.store} == {BatchState.FINISHED, BatchState.FAILED}
        for each in worker.store:  # as the next start does
            await worker.sync_summary(each.id)
        assert (spool / "shop" / "a.summary.json").read_bytes() == summary
        with (spool / "shop" / "a.jsonl").open("ab") as lines:
            lines.write(to_lines(jobs_of(1, 2)))
        await until(lambda: len(read_lines(spool / "shop" / "a.out" / "records.jsonl")) == 4, "the appended line", 20)


async def test_another_file_of_a_finished_ones_name_moves_away(tmp_path, api):
    """Monday's results stay, and the reason says what to do; a file that has only grown goes on."""
    data = tmp_path / "data"
    async with working(data, api):
        spool = data / "spool"
        (data / "profiles" / "shop.toml").write_text(batch_file("shop", "-").replace('file = "-"', ""))
        (spool / "shop").mkdir()
        put(spool / "shop" / "day.CSV", "n\n1\n")
        records = spool / "shop" / "day.out" / "records.jsonl"
        await until((spool / "shop" / "day.summary.json").exists, "a summary")
        put(spool / "shop" / "day.CSV", "n\n1\n2\n")
        await until(lambda: len(read_lines(records)) == 2, "the appended line's record")
        await until((spool / "shop" / "day.summary.json").exists, "the end")
        put(spool / "shop" / "day.CSV", "n\n7\n8\n")
        reason = spool / "failed" / "shop" / "day.CSV.txt"
        await until(reason.exists, "the other file moved away")
        assert "day.out holds the results of an earlier file of this name; give this one another" in reason.read_text()
        assert (spool / "failed" / "shop" / "day.CSV").read_text() == "n\n7\n8\n"
        assert len(read_lines(records)) == 2


async def test_a_file_that_found_the_results_of_another_batch_runs_once_they_are_gone(tmp_path, api):
    """It is refused with that reason, and nothing of it was started: it is not one whose results were moved."""
    spool, failed = tmp_path / "data" / "spool", tmp_path / "data" / "spool" / "failed"
    async with working(tmp_path / "data", api) as worker:
        for profile in ("first", "second"):
            text = batch_file(profile, "-").replace('file = "-"', "")
            (tmp_path / "data" / "profiles" / f"{profile}.toml").write_text(text)
            (spool / profile).mkdir()
        put(spool / "first" / "a.jsonl", to_lines(jobs_of(1, 1)))
        await until((spool / "first" / "a.summary.json").exists, "a summary", 20)
        shutil.copytree(spool / "first" / "a.out", spool / "second" / "b.out")
        put(spool / "second" / "b.jsonl", to_lines(jobs_of(2, 1)))
        await until((failed / "second" / "b.jsonl.txt").exists, "the file moved away", 20)
        assert "holds another batch" in (failed / "second" / "b.jsonl.txt").read_text()
        shutil.rmtree(spool / "second" / "b.out")
        os.utime(failed / "second" / "b.jsonl")
        (failed / "second" / "b.jsonl").rename(spool / "second" / "b.jsonl")
        (batch,) = (each for each in worker.store if each.name == "b")
        await SubmittedBatch(worker, batch.id, []).until(BatchState.FINISHED, limit_s=20)
        assert len(api.runs()) == 3


async def test_the_file_of_a_deleted_batch_is_taken_again_only_if_it_changes(tmp_path, api):
    data = tmp_path / "data"
    async with working(data, api) as worker:
        put(data / "spool" / "once.jsonl", to_lines(jobs_of(3, 1)))
        put(data / "spool" / "once.toml", batch_file("once", "once.jsonl"))
        summary = data / "spool" / "once.summary.json"
        await until(summary.exists, "a summary", 20)
        (submission,) = worker.store
        await until(lambda: not worker.runners, "a worker at rest")
        await batch_deletion.delete(worker, submission.id)
        put(data / "spool" / "next.jsonl", to_lines(jobs_of(3, 1)))
        put(data / "spool" / "next.toml", batch_file("next", "next.jsonl"))
        await until((data / "spool" / "next.summary.json").exists, "the next one's summary")
        assert {each.name for each in worker.store} == {"next"}
        put(data / "spool" / "once.jsonl", to_lines(jobs_of(5, 1)))
        put(data / "spool" / "once.toml", batch_file("once", "once.jsonl"))
        records = data / "spool" / "once.out" / "records.jsonl"
        await until(lambda: len(read_lines(records)) == 5, "records of the lines that are new")
        assert len(api.runs()) == 8


async def test_results_that_were_moved_make_nothing_of_the_spool_run_again(tmp_path, api):
    """Neither while the batch is known nor once it is deleted; another file of that name is another batch."""
    data = tmp_path / "data"
    spool = data / "spool"

    async def another(name: str) -> None:  # the worker has looked at all files by its end
        put(spool / f"{name}.jsonl", to_lines(jobs_of(1, 1)))
        put(spool / f"{name}.toml", batch_file(name, f"{name}.jsonl"))
        await until((spool / f"{name}.summary.json").exists, f"the summary of {name}", 10)

    async with working(data, api) as worker:
        put(spool / "once.jsonl", to_lines(jobs_of(3, 1)))
        put(spool / "once.toml", batch_file("once", "once.jsonl"))
        await until((spool / "once.summary.json").exists, "a summary")
        await until(lambda: not worker.runners, "a worker at rest")
        (submission,) = worker.store
        (spool / "once.out").rename(tmp_path / "collected.out")
        (spool / "once.summary.json").unlink()
        os.utime(spool / "once.toml")
        await another("next-a")
        assert "once.toml has run, and its results were moved" in worker.store[submission.id].reason
        await batch_deletion.delete(worker, submission.id)
        await another("next-b")
    async with working(data, api) as worker:
        os.utime(spool / "once.toml")
        await another("next-c")
        shutil.copy2(spool / "once.toml", tmp_path / "copy")
        (tmp_path / "copy").rename(spool / "once.toml")
        await another("next-d")
        put(spool / "once.toml", batch_file("once", "once.jsonl") + "# one that has grown")
        await another("next-e")
        assert len(api.runs()) == 3 + 5
        assert {each.name for each in worker.store} == {f"next-{each}" for each in "abcde"}
        put(spool / "once.toml", "# another one\n" + batch_file("once", "once.jsonl"))
        await until((spool / "once.out" / "records.jsonl").exists, "another batch")


@pytest.mark.parametrize("is_deleted", [False, True])
async def test_results_that_are_moved_while_an_appended_line_waits_are_missed(tmp_path, api, is_deleted, monkeypatch):
    """The file runs no line again, also if its batch was deleted; its summary is gone as soon as it waits."""
    monkeypatch.setattr(batch_runner, "MAX_MACHINE_RETRIES", 0)
    data = tmp_path / "data"
    file, out, summary = (data / "spool" / "shop" / f"b.{each}" for each in ("jsonl", "out", "summary.json"))
    async with working(data, api, worker__max_open_batches=1) as worker:
        (data / "profiles" / "shop.toml").write_text(batch_file("shop", "-").replace('file = "-"', ""))
        put(file, to_lines(jobs_of(3, 1)))
        await until(summary.exists, "a summary", 20)
        await until(lambda: not worker.runners, "a worker at rest", 10)
        if is_deleted:
            await batch_deletion.delete(worker, next(iter(worker.store)).id)
        long = await submit_batch(worker, jobs_of(1, 600_000), task="long")
        await long.until_live()
        with file.open("ab") as lines:
            lines.write(to_lines([{"n": 3, "ms": 1}]))
        await until(lambda: not summary.exists(), "the summary gone", 20)
        (batch,) = (each for each in worker.store if each.id != long.id)
        assert batch.state is BatchState.QUEUED
        out.rename(tmp_path / "archived")
        await batch_orders.cancel(worker, long.id)
        waiting = SubmittedBatch(worker, batch.id, [])
        assert "its results were moved" in (await waiting.until(BatchState.STOPPED, limit_s=20)).reason
        assert len(api.runs()) == 3 + 1
        (tmp_path / "archived").rename(out)
        await batch_orders.resume(worker, batch.id)
        await waiting.until(BatchState.FINISHED, limit_s=20)
        assert len(api.runs()) == 4 + 1


async def test_a_job_file_that_was_exchanged_while_its_batch_waited_runs_once(tmp_path, api):
    """What the batch has read counts, and not what was there as its batch file was taken."""
    data = tmp_path / "data"
    spool = data / "spool"
    async with working(data, api, worker__max_open_batches=1) as worker:
        before = len(api.runs())
        long = await submit_batch(worker, jobs_of(1, 600_000), task="long")
        await long.until_live()
        put(spool / "late.jsonl", to_lines(jobs_of(1, 1)))
        put(spool / "late.toml", batch_file("late", "late.jsonl"))
        await until(lambda: len(worker.store) == 2, "a batch that waits", 20)
        put(spool / "late.jsonl", to_lines([{"n": n, "ms": 1} for n in (7, 8)]))
        await batch_orders.cancel(worker, long.id)
        await until((spool / "late.summary.json").exists, "a summary", 20)
        await until(lambda: not worker.runners, "a worker at rest", 20)
        (spool / "late.out").rename(tmp_path / "archived")
        os.utime(spool / "late.toml")
        (late,) = (each.id for each in worker.store if each.id != long.id)
        await until(lambda: "results were moved" in worker.store[late].reason, "a look at the file", 20)
        assert len(api.runs()) == before + 1 + 2


async def test_a_batch_whose_ledger_was_moved_stops_and_does_not_begin_again(tmp_path, api):
    """Its Runs would be started twice; put back, the ledger lets it go on."""
    data = tmp_path / "data"
    async with working(data, api) as worker:
        batch = await submit_batch(worker, jobs_of(20), limits__max_concurrent_runs=1)
        await batch.until_live()
        await batch_orders.pause(worker, batch.id)
        await batch.until(BatchState.PAUSED)
        started, out_dir = len(api.runs()), worker.directory.out_dir(batch.submission)
        out_dir.rename(tmp_path / "moved")
        await batch_orders.resume(worker, batch.id)
        await batch.until(BatchState.STOPPED)
        assert "If its results were moved, put them back" in batch.submission.reason
        assert len(api.runs()) == started
        (tmp_path / "moved").rename(out_dir)
        await batch_orders.resume(worker, batch.id)
        await batch.until(BatchState.FINISHED)
        assert len(api.runs()) == 20


async def test_results_that_were_moved_while_a_killed_worker_was_down_are_waited_for(tmp_path, api, monkeypatch):
    """Nothing runs again, however often it starts; a cancel says what is missing, and aborts once that is back."""
    monkeypatch.setattr(batch_runner, "MAX_MACHINE_RETRIES", 0)
    data, moved = tmp_path / "data", tmp_path / "moved"

    def statuses() -> list[str]:
        return sorted(run["status"] for run in api.runs())

    async with working(data, api) as worker:
        batch = await submit_batch(worker, jobs_of(4, 600_000))
        await submit_batch(worker, jobs_of(1, 600_000), task="other")  # a worker without any other batch is not ready
        await until(lambda: len(api.runs()) == 5, "5 Runs")
        notes, out_dir = worker.directory.of(batch.id) / "batch.json", batch.out
        of_killed = notes.read_bytes()
    notes.write_bytes(of_killed)
    out_dir.rename(moved)
    for _ in range(2):
        async with working(data, api) as worker:
            await SubmittedBatch(worker, batch.id, batch.jobs).until(BatchState.STOPPED)
            with pytest.raises(WrongState, match=r"has no ledger, .* which Runs may be live\. If .* put them back"):
                await batch_orders.cancel(worker, batch.id)
            # Its start resumes what is stopped, perhaps only now.
            assert worker.store[batch.id].state in (BatchState.STOPPED, BatchState.QUEUED)
            assert statuses() == ["RUNNING"] * 5
    async with working(data, api) as worker:
        batch = SubmittedBatch(worker, batch.id, batch.jobs)
        await batch.until(BatchState.STOPPED)
        moved.rename(out_dir)
        await batch_orders.cancel(worker, batch.id)
        await batch.until(BatchState.CANCELLED)
        assert statuses() == ["ABORTED"] * 4 + ["RUNNING"]
        assert [record["outcome"] for record in batch.records()] == ["aborted"] * 4


async def test_a_missing_summary_is_written_by_the_next_process(tmp_path, api):
    data = tmp_path / "data"
    async with working(data, api) as worker:
        batch = await submit_batch(worker, jobs_of(3, 1))
        await batch.until(BatchState.FINISHED)
        file = worker.directory.summary_file(batch.submission)
        await until(file.exists, "a summary")
    file.unlink()
    async with working(data, api):
        await until(file.exists, "a summary again")


async def test_a_damaged_batch_json_affects_no_other_batch(tmp_path, api):
    data = tmp_path / "data"
    async with working(data, api, limits__max_concurrent_runs=2) as worker:
        damaged = await submit_batch(worker, jobs_of(30), task="damaged")
        good = await submit_batch(worker, jobs_of(30), task="good")
        await good.until_live()
    (data / "batches" / damaged.id / "batch.json").write_text("{")
    async with working(data, api, limits__max_concurrent_runs=2) as worker:
        good.worker = worker
        await good.until(BatchState.FINISHED)
        assert_all_jobs_done(good)
    assert (data / "batches" / damaged.id / "out" / "ledger.sqlite3").exists()


REFUSALS = [
    (401, "user-or-token-not-found", ["all"]),
    (402, "not-enough-usage-to-run-paid-actor", ["starts"]),
    (403, "insufficient-permissions", ["starts"]),
    (403, "", ["starts"]),  # a captive portal's page
]


@pytest.mark.parametrize(("status", "error_type", "routes"), REFUSALS)
async def test_batches_go_on_by_themselves_once_the_account_is_accepted_again(tmp_path, status, error_type, routes):
    """Meanwhile the worker is not ready, and each batch says for what it waits. No job is lost or started twice."""
    faults = tmp_path / "faults.toml"
    rule = f'kind = "error_before"\nstatus = {status}\ntype = "{error_type}"\nroutes = {routes}\nafter = 20\ncount = 6'
    faults.write_text(f"[[fault]]\n{rule}\n".replace("'", '"'))
    with open_api(tmp_path / "api", faults=faults) as api:
        async with working(tmp_path / "data", api, limits__max_concurrent_runs=3) as worker:
            batches = [await submit_batch(worker, jobs_of(15, 50), task=f"task-{n}") for n in range(2)]
            for batch in batches:
                await batch.until(BatchState.FINISHED, limit_s=60)
                assert_all_jobs_done(batch)
            await until(lambda: worker.is_ready, "a worker that is ready again")
        assert_every_run_recorded(batches, api)


async def test_a_worker_is_not_ready_when_nothing_can_go_on(tmp_path, api, monkeypatch):
    """All batches are stopped, or its disk is full; it says which, and what resumes them."""
    monkeypatch.setattr("batchrun.worker.disk_probe.INTERVAL_S", 0.05)
    async with working(tmp_path / "data", api) as worker:
        unknown = await submit_batch(worker, jobs_of(5), task="unknown")
        (worker.directory.of(unknown.id) / "batch.toml").write_text(
            '[task]\nid = "no-such-task"\n[jobs]\nfile="jobs.jsonl"'
        )
        stopped = await unknown.until(BatchState.STOPPED)
        assert f"`batchrun worker resume {unknown.id}`" in stopped.reason
        assert worker.why_not_ready.startswith("all batches are stopped; unknown: the platform knows no task")
        await batch_orders.cancel(worker, unknown.id)
        await until(lambda: worker.is_ready, "a worker that is ready")

        def full(_directory):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("batchrun.worker.disk_probe._write", full)
        await until(lambda: not worker.is_ready, "a worker that is not ready")
        assert worker.why_not_ready == "its directory cannot be written: No space left on device"


async def test_a_batch_that_ended_without_file_descriptors_is_finished(tmp_path, api, monkeypatch):
    """Its ending could not be read; it is opened again, and finds nothing left to do."""
    failures = iter([OutputError("ledger.sqlite3: Too many open files")])

    async def summary(batch):
        for error in failures:
            raise error
        return await read(batch)

    read = Batch.summary
    monkeypatch.setattr(Batch, "summary", summary)
    async with working(tmp_path / "data", api) as worker:
        batch = await submit_batch(worker, jobs_of(5))
        await batch.until(BatchState.FINISHED)
        assert_all_jobs_done(batch)
    assert_every_run_recorded([batch], api)
