"""A process killed around a notification: it is delivered at least once, always with the same id."""

import signal
from pathlib import Path

import anyio
import pytest

from tests.support.crash import CrashBatch, assert_promise_kept, open_api, some_jobs
from tests.support.webhook_receiver import receiving


@pytest.mark.parametrize(("kill_at", "calls"), [("notification_stored", 1), ("notification_delivered", 2)])
async def test_a_notification_survives_a_kill(tmp_path: Path, kill_at: str, calls: int) -> None:
    """Killed once it is stored, or right after its delivery, the next process delivers it, and no other one."""
    async with receiving() as receiver:

        def run_killed() -> None:
            with open_api(tmp_path / "api") as api:
                batch = CrashBatch(tmp_path, api.base_url, some_jobs(20), environ={"BATCHRUN_NOTIFY_URL": receiver.url})
                assert batch.run(kill_at=kill_at) == -signal.SIGKILL, batch.said()
                assert batch.run() == 1, batch.said()
                assert batch.run() == 1, batch.said()
                assert_promise_kept(batch, api)

        await anyio.to_thread.run_sync(run_killed)
    first = [each for each in receiver.received if each.fields["id"] == receiver.received[0].fields["id"]]
    assert len(first) == calls
    assert len({each.fields["id"] for each in receiver.received}) == len(set(receiver.events))
    assert receiver.events.count("finished") >= 1
