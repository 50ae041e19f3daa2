"""A worker notifies people of all its batches, and tests on request how it reaches them."""

from pathlib import Path

import anyio
import pytest

from batchrun.config.notify_settings import NotifyConfig
from batchrun.config.worker_config import WorkerLimitsConfig
from batchrun.errors import ConfigError
from batchrun.worker import batch_orders
from batchrun.worker.status_views import notify_view
from batchrun.worker.submission import BatchState
from tests.support.crash import Api, open_api
from tests.support.webhook_receiver import receiving
from tests.support.worker_life import submit_batch, until, worker_config, working


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
            await batch_orders.cancel(worker, paused.id)
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


async def test_a_reload_changes_who_is_notified_and_loses_nothing(tmp_path: Path, api: Api) -> None:
    """What the first receiver did not take goes to the second one; a secret that is gone changes nothing at all."""
    async with receiving() as first, receiving() as second:
        first.statuses = [503] * 100
        (tmp_path / "url").write_text(first.url)
        flags = {"notify__url_file": str(tmp_path / "url"), "limits__max_concurrent_runs": 2}
        async with working(tmp_path / "data", api, **flags) as worker:
            lasting = await submit_batch(worker, [{"n": 1, "until": str(tmp_path / "stop")}], task="lasting")
            await lasting.until_live()
            done = await submit_batch(worker, [{"n": 1}], task="done")
            await first.until(1)
            (tmp_path / "url").unlink()
            with pytest.raises(ConfigError, match=r"notify\.url_file"):
                await worker.reload(worker.config.model_copy(update={"limits": WorkerLimitsConfig()}))
            assert worker.config.limits.max_concurrent_runs == 2
            assert notify_view(worker).waiting == 1
            (tmp_path / "url").write_text(second.url)
            assert await worker.reload(worker.config) == []
            await second.until(1)
            assert second.received[0].fields["batch"]["id"] == done.id
            assert second.received[0].fields["id"] == first.received[0].fields["id"]
            silent = await anyio.to_thread.run_sync(lambda: worker_config(tmp_path / "data", api))
            await until(lambda: not worker.notifier.waiting, "delivered")
            await worker.reload(silent)
            assert notify_view(worker).targets == {}
            unsaid = await submit_batch(worker, [{"n": 1}], task="unsaid")
            await unsaid.until(BatchState.FINISHED)
            await worker.reload(silent.model_copy(update={"notify": NotifyConfig(url_file=tmp_path / "url")}))
            (tmp_path / "stop").touch()  # it was open all the time
            await second.until(2)
    assert [each.fields["batch"]["name"] for each in second.received] == ["done", "lasting"]


async def test_a_full_disk_stops_starts_and_is_notified_until_it_has_room(tmp_path: Path, api: Api) -> None:
    """A live Run is followed to its record; the batch goes on by itself when there is room."""
    async with receiving() as receiver:
        (tmp_path / "url").write_text(receiver.url)
        flags = {"notify__url_file": str(tmp_path / "url"), "limits__max_concurrent_runs": 1}
        async with working(tmp_path / "data", api, **flags) as worker:
            batch = await submit_batch(worker, [{"n": n, "ms": ms} for n, ms in enumerate((2500, 0, 0))])
            await batch.until_live()
            limits = worker.config.limits
            await worker.change_limits(limits.model_copy(update={"min_free_disk_mb": 1 << 40}))
            await until(batch.records, "the record of the live Run")
            await receiver.until(1)
            assert (receiver.events, len(batch.records())) == (["disk_low"], 1)
            assert "starts nothing until the disk has room" in worker.why_not_ready
            runner = worker.runners[batch.id]
            assert runner.batch is not None
            assert runner.batch.live_runs == 0
            await until(lambda: "almost full" in " ".join(runner.notices), "a notice on the page")
            await worker.change_limits(limits)
            await batch.until(BatchState.FINISHED)
    assert len(batch.records()) == 3
    assert receiver.events == ["disk_low", "finished"]


async def test_a_token_that_the_platform_refuses_is_notified_as_an_outage(tmp_path: Path, api: Api) -> None:
    """Batches wait for a good token, so none of them ends and says so: the worker does, once for all."""
    async with receiving() as receiver:
        (tmp_path / "url").write_text(receiver.url)
        flags = {"notify__url_file": str(tmp_path / "url"), "notify__outage_s": 0.1}
        async with working(tmp_path / "data", api, **flags) as worker:
            batch = await submit_batch(worker, [{"n": 1, "ms": 600_000}])
            await batch.until_live()
            worker.runners[batch.id].refusal = "the platform does not accept the token"
            await receiver.until(1)
            await batch_orders.cancel(worker, batch.id)
            await batch.until(BatchState.CANCELLED)
    (call,) = [each.fields for each in receiver.received]
    assert (call["event"], call["batch"]) == ("outage", None)
    assert call["data"]["reason"] == "the platform does not accept the token"
