"""A worker notifies people of all its batches, and tests on request how it reaches them."""

from pathlib import Path

import pytest

from batchrun.worker.submission import BatchState
from batchrun.worker.views import notify_view
from tests.support.crash import Api, open_api
from tests.support.webhook_receiver import receiving
from tests.support.worker_life import submit_batch, until, working


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    """A server process."""
    with open_api(tmp_path_factory.mktemp("api")) as opened:
        yield opened


async def test_batches_that_finish_trip_or_stop_are_notified_by_name_and_id(tmp_path: Path, api: Api) -> None:
    """One receiver for all batches; a batch that is paused by a person is not notified."""
    async with receiving() as receiver:
        (tmp_path / "url").write_text(receiver.url)
        async with working(tmp_path / "data", api, notify__url_file=str(tmp_path / "url")) as worker:
            done = await submit_batch(worker, [{"n": 1}], task="done")
            await done.until(BatchState.FINISHED)
            paused = await submit_batch(worker, [{"n": 1, "ms": 600_000}], task="paused")
            await paused.until_live()
            await worker.cancel(paused.id)
            await paused.until(BatchState.CANCELLED)
            failing = [{"n": n, "fails": 9} for n in range(6)]
            few = {"breaker__max_failed": 2, "limits__max_concurrent_runs": 1, "retry__max_attempts": 1}
            tripped = await submit_batch(worker, failing, task="tripped", **few)
            await tripped.until(BatchState.TRIPPED)
            stopped = await submit_batch(worker, [{"n": 1}], task="stopped", task__actor="no/such")
            await stopped.until(BatchState.STOPPED)
            assert await worker.notifier.test() == {"webhook": ""}
            await until(lambda: not worker.notifier.waiting, "all delivered")
            assert notify_view(worker).targets == {"webhook": "127.0.0.1"}
            assert notify_view(worker).trouble == ""
    calls = [each.fields for each in receiver.received]
    named = {(call["event"], call["batch"] and call["batch"]["name"]) for call in calls}
    assert named == {("finished", "done"), ("tripped", "tripped"), ("stopped", "stopped"), ("test", None)}
    assert len(calls) == 4
    assert calls[0]["batch"] == {"name": "done", "id": done.id, "dir": str(done.out)}
