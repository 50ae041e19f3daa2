import anyio
import pytest

from batchrun.engine.follow.polls import LOST_AFTER_S
from batchrun.errors import BatchRefused
from batchrun.model import Run, RunId, RunStatus
from tests.support.following import Following
from tests.support.scripted_api import Plan, ScriptedApi, api_error


@pytest.mark.parametrize("status", [status for status in RunStatus if status.is_terminal])
async def test_a_run_is_over_when_its_status_is_terminal(status: RunStatus) -> None:
    """Each terminal status ends the following, at the moment the Run ends."""
    api = ScriptedApi(Plan())
    run_id = api.add_run(Plan(run_s=1234.5, status=status))
    run = await Following(api).wait_for_finish(run_id)
    assert (run and run.status, anyio.current_time()) == (status, 1234.5)


async def test_polls_that_are_answered_early_do_not_spin() -> None:
    """A server that never waits is asked twice a second, and no more."""
    api = ScriptedApi(early_answer_s=0)
    run_id = api.add_run(Plan(run_s=100))
    await Following(api).wait_for_finish(run_id)
    assert len(api.reads) == 201


async def test_a_patient_server_is_asked_once_a_minute() -> None:
    """One poll per 60 seconds of Run."""
    api = ScriptedApi()
    run_id = api.add_run(Plan(run_s=600))
    await Following(api).wait_for_finish(run_id)
    assert len(api.reads) == 10


async def test_a_fresh_run_may_be_unknown_for_a_while() -> None:
    """404 for three seconds costs nothing."""
    api = ScriptedApi(fresh_404_s=3)
    run_id = api.add_run(Plan(run_s=20))
    run = await Following(api).wait_for_finish(run_id)
    assert (run and run.status, anyio.current_time()) == (RunStatus.SUCCEEDED, 20.0)


async def test_a_run_that_stays_unknown_is_lost() -> None:
    """After ten seconds of 404, and not before."""
    assert await Following(ScriptedApi()).wait_for_finish(RunId("gone")) is None
    assert LOST_AFTER_S < anyio.current_time() <= LOST_AFTER_S + 1


async def test_unknown_now_and_then_is_not_lost() -> None:
    """Only an unbroken while of 404 counts."""
    api = ScriptedApi(early_answer_s=0)
    run_id = api.add_run(Plan(run_s=60))
    following = Following(api)
    async with anyio.create_task_group() as children:
        runs: list[Run | None] = []

        async def follow() -> None:
            runs.append(await following.wait_for_finish(run_id))

        children.start_soon(follow)
        for _ in range(6):
            api.errors["get_run"] = [api_error(404)] * 16  # eight seconds of them
            await anyio.sleep(9)
    assert [run and run.status for run in runs] == [RunStatus.SUCCEEDED]


class _SlowToDeny(ScriptedApi):
    """A platform whose answers come late: the client asked again and again through an outage."""

    async def get_run(self, run_id: RunId, *, wait_for_finish_s: int = 0) -> Run:
        await anyio.sleep(600)
        return await super().get_run(run_id, wait_for_finish_s=wait_for_finish_s)


async def test_one_late_404_does_not_make_a_run_lost() -> None:
    """However long the answer took, ten seconds are counted from the first 404."""
    api = _SlowToDeny()
    run_id = api.add_run(Plan(run_s=20))
    api.errors["get_run"] = [api_error(404)]
    run = await Following(api).wait_for_finish(run_id)
    assert run is not None


async def test_a_platform_that_refuses_to_describe_a_run_stops_the_batch() -> None:
    """403 on a Run of ours is not the Run's end."""
    api = ScriptedApi()
    run_id = api.add_run()
    api.errors["get_run"] = [api_error(403, "insufficient-permissions")]
    with pytest.RaisesGroup(pytest.RaisesExc(BatchRefused, match="Run run-1 cannot be followed")):
        await Following(api).wait_for_finish(run_id)


async def test_no_more_polls_are_open_than_allowed() -> None:
    """The other Runs wait for a poll, and all are followed to their end."""
    api, open_polls, peak = ScriptedApi(), 0, 0

    class _Counting(ScriptedApi):
        async def get_run(self, run_id: RunId, *, wait_for_finish_s: int = 0) -> Run:
            nonlocal open_polls, peak
            open_polls += 1
            peak = max(peak, open_polls)
            try:
                return await api.get_run(run_id, wait_for_finish_s=wait_for_finish_s)
            finally:
                open_polls -= 1

    run_ids = [api.add_run(Plan(run_s=5)) for _ in range(10)]
    assert len(await Following(_Counting(), max_open_polls=3).all(run_ids)) == 10
    assert (peak, open_polls) == (3, 0)


async def test_a_cancelled_follower_releases_its_poll() -> None:
    """A cancelled follower releases its poll for the next one."""
    api = ScriptedApi()
    following = Following(api, max_open_polls=1)
    endless, short = api.add_run(Plan(run_s=1e9)), api.add_run(Plan(run_s=1))
    with anyio.move_on_after(30):
        await following.wait_for_finish(endless)
    assert await following.wait_for_finish(short) is not None
