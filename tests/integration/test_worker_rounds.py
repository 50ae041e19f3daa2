"""Retries in a worker: rounds of the same batch, counted at the server."""

from collections import Counter
from typing import Any

import pytest

from batchrun.errors import ConfigError
from batchrun.maintenance.retry_selection import WantedJobs
from batchrun.worker import batch_orders
from batchrun.worker.retry_orders import order_retry, show_retry
from batchrun.worker.submission import BatchState
from batchrun.worker.submission_store import WrongState
from tests.support.crash import open_api
from tests.support.worker_life import SubmittedBatch, submit_batch, until, working

#: Retries that come from nowhere would show as second attempts.
ONCE = {"retry__max_attempts": 1}


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """One platform; each test counts the Runs of its own task."""
    with open_api(tmp_path_factory.mktemp("api")) as api:
        yield api


def jobs_of(failing: int, others: int, **more: Any) -> list[dict[str, Any]]:
    jobs = [{"@key": f"bad{n}", "n": n, "fails": True, **more} for n in range(failing)]
    return [*jobs, *({"@key": f"good{n}", "n": n} for n in range(others))]


def rounds(batch: SubmittedBatch) -> Counter[int]:
    return Counter(record["round"] for record in batch.records())


async def test_a_finished_batch_is_retried_as_another_round_of_it(tmp_path, api):
    """Only the selected jobs get a Run; the same order given twice is carried out once; the counts are the batch's."""
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=4) as worker:
        before = len(api.runs())
        batch = await submit_batch(worker, jobs_of(3, 4), task="finished", **ONCE)
        await batch.until(BatchState.FINISHED)
        assert (await show_retry(worker, batch.submission, WantedJobs(keys=["bad1"]))).jobs == 1
        for _ in range(2):
            await order_retry(worker, batch.id, WantedJobs(keys=["bad1", "good0"]), "first")
        await batch.until(BatchState.FINISHED)
        assert await order_retry(worker, batch.id, WantedJobs(keys=["bad1"]), "first") is None
        found = await order_retry(worker, batch.id, WantedJobs(), "second")
        assert found == 3
        await batch.until(BatchState.FINISHED)
        assert rounds(batch) == {1: 7, 2: 3, 3: 1}
        assert len(api.runs()) - before == 11 == sum(len(record["attempts"]) for record in batch.records())
        counts = batch.submission.counts
        assert (counts.settled, counts.outcomes) == (7, {"failed": 3, "succeeded": 4})
        assert batch.submission.retry is None


async def test_a_retry_of_nothing_changes_nothing(tmp_path, api):
    """What no job has is named; a batch without failures stays as it is; one that has not begun has no jobs."""
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=4) as worker:
        batch = await submit_batch(worker, jobs_of(0, 2), task="nothing", **ONCE)
        await batch.until(BatchState.FINISHED)
        found = await order_retry(worker, batch.id, WantedJobs(), "nothing")
        assert (found, batch.submission.state) == (0, BatchState.FINISHED)
        with pytest.raises(ConfigError, match="--key nope: no job of this batch has it"):
            await order_retry(worker, batch.id, WantedJobs(keys=["nope"]), "nope")
        assert rounds(batch) == {1: 2}


async def test_a_retry_that_fails_is_not_carried_out_by_a_later_resume(tmp_path, api):
    """The job file was edited: the batch fails and says so; once it is put back, only another order retries."""
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=4) as worker:
        batch = await submit_batch(worker, jobs_of(2, 1), task="edited", **ONCE)
        await batch.until(BatchState.FINISHED)
        file = batch.out.parent / "jobs.jsonl"
        content = file.read_bytes()
        file.write_bytes(content.replace(b"bad0", b"odd0"))
        assert await order_retry(worker, batch.id, WantedJobs(), "first") == 2
        assert (await batch.until(BatchState.FAILED)).retry is None
        file.write_bytes(content)
        await batch_orders.resume(worker, batch.id)
        await batch.until(BatchState.FINISHED)
        assert rounds(batch) == {1: 3}
        assert await order_retry(worker, batch.id, WantedJobs(), "second") == 2
        await batch.until(BatchState.FINISHED)
        assert rounds(batch) == {1: 3, 2: 2}


async def test_jobs_of_a_batch_that_is_under_way_are_retried_beside_its_live_runs(tmp_path, api):
    """No live Run is started twice; a second order waits until the first is taken up."""
    stop = tmp_path / "stop"
    jobs = [*jobs_of(2, 0), *({"@key": f"slow{n}", "n": n, "until": str(stop)} for n in range(3))]
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=4) as worker:
        before = len(api.runs())
        batch = await submit_batch(worker, jobs, task="active", **ONCE)
        await until(lambda: worker.runners[batch.id].counts().settled == 2, "two failures")
        await batch.until_live(3)
        await order_retry(worker, batch.id, WantedJobs(), "first")
        with pytest.raises(WrongState, match="another retry of it is being taken up"):
            await order_retry(worker, batch.id, WantedJobs(keys=["bad0"]), "second")
        await until(lambda: len(batch.records()) == 4, "two failures again")
        stop.touch()
        await batch.until(BatchState.FINISHED)
        assert rounds(batch) == {1: 5, 2: 2}
        assert len(api.runs()) - before == 7 == sum(len(record["attempts"]) for record in batch.records())


async def test_the_summary_of_a_batch_is_there_while_it_rests(tmp_path, api):
    """A program that waits for it does not take that of the first round for that of the second."""
    stop = tmp_path / "stop"
    stop.touch()
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=4) as worker:
        batch = await submit_batch(worker, jobs_of(1, 0, until=str(stop)), task="summary", **ONCE)
        await batch.until(BatchState.FINISHED)
        summary = worker.directory.summary_file(batch.submission)
        assert summary.exists()
        stop.unlink()
        await order_retry(worker, batch.id, WantedJobs(), "again")
        await batch.until_live(1)
        assert not summary.exists()
        stop.touch()
        await batch.until(BatchState.FINISHED)
        assert summary.exists()


async def test_a_retry_whose_job_file_was_edited_reopens_nothing(tmp_path, api):
    """The batch fails with the line; mended, it is retried by a new order."""
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=4) as worker:
        batch = await submit_batch(worker, jobs_of(2, 1), task="edited", **ONCE)
        await batch.until(BatchState.FINISHED)
        file = worker.directory.of(batch.id) / "jobs.jsonl"
        whole = file.read_bytes()
        file.write_bytes(whole.replace(b'"n":1,', b'"n":7,'))
        await order_retry(worker, batch.id, WantedJobs(), "first")
        assert "since this batch was begun" in (await batch.until(BatchState.FAILED)).reason
        assert rounds(batch) == {1: 3}
        file.write_bytes(whole)
        await order_retry(worker, batch.id, WantedJobs(), "second")
        await batch.until(BatchState.FINISHED)
        assert rounds(batch) == {1: 3, 2: 2}


async def test_a_retry_beside_a_huge_batch_gets_the_first_released_permit(tmp_path, api):
    """And keeps its share to the end of its round: of the huge batch one Run has ended by then."""
    stop = tmp_path / "stop"
    first, *others = [{"@key": f"job{n}", "n": n, "until": str(stop)} for n in range(40)]
    first["until"] = str(tmp_path / "first")
    async with working(tmp_path / "data", api, limits__max_concurrent_runs=2) as worker:
        small = await submit_batch(worker, jobs_of(3, 0), task="small", **ONCE)
        await small.until(BatchState.FINISHED)
        huge = await submit_batch(worker, [first, *others], task="huge", **ONCE)
        await huge.until_live(2)
        assert worker.account is not None
        members = worker.account.shared.pool._members
        of_huge = [*members]
        await order_retry(worker, small.id, WantedJobs(), "first")
        await until(lambda: any(each.wants_permit for each in members if each not in of_huge), "the retry waits")
        (tmp_path / "first").touch()
        await until(lambda: rounds(small) == {1: 3, 2: 3}, "the retries of all three")
        assert len(huge.records()) == 1
        stop.touch()
        await huge.until(BatchState.FINISHED)
