"""Which processes outside of a Run's group count as its own."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from batchrun.server.runs.process_groups import Meter, RunMark, end_runs, may_be_alive, own_identity

RUN = RunMark.of("LiveRun", "batchrun_run_LiveRun_signed.rest")
NOBODY = 65534
NO_GROUP = (1 << 31) - 1

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, processes outside of the group escape")


@pytest.mark.parametrize(
    ("named", "user", "is_meant"),
    [
        ({"APIFY_TOKEN": "batchrun_run_LiveRun_signed.rest"}, None, True),
        ({"APIFY_TOKEN": "apify_api_of_its_own"}, None, True),
        ({}, None, True),
        ({"APIFY_TOKEN": "batchrun_run_LiveRun_of_a_copy.rest"}, None, False),
        ({"ACTOR_RUN_ID": "Another"}, None, False),
        ({}, NOBODY, False),
        ({"APIFY_TOKEN": "batchrun_run_LiveRun_signed.rest"}, NOBODY, False),
    ],
)
def test_a_process_counts_for_the_run_that_it_is_of(named: dict[str, str], user: int | None, is_meant: bool) -> None:
    """Not for one that it only names: a copy's server has Runs of the same ids. Another user's counts for none.

    He can make who reads its environment wait for ever.
    """
    if user is not None and os.geteuid() != 0:
        pytest.skip("needs root, to start another user's process")
    environment = {"ACTOR_RUN_ID": RUN.run_id, **named}
    with subprocess.Popen(["/bin/sleep", "600"], env=environment, user=user, start_new_session=True) as process:
        try:
            usage = Meter().measure({NO_GROUP: RUN})[NO_GROUP]
            assert (usage.resident_bytes > 0) is is_meant
            end_runs([RUN])
            assert (process.poll() is None) is not is_meant or process.wait(60) == -signal.SIGKILL
        finally:
            process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to start another user's process")
def test_a_process_that_hides_itself_is_not_of_this_user_for_that(tmp_path: Path) -> None:
    """Its files in /proc are root's: so root's server would take anybody's process for that of a Run."""
    program = tmp_path / "sleep"
    shutil.copyfile("/bin/sleep", program)
    program.chmod(0o711)
    with program.open("rb") as opened:
        number = opened.fileno()
        argv, environment = [f"/proc/self/fd/{number}", "600"], {"ACTOR_RUN_ID": RUN.run_id}
        with subprocess.Popen(argv, env=environment, user=NOBODY, pass_fds=[number]) as process:
            try:
                assert Path(f"/proc/{process.pid}/environ").stat().st_uid == 0
                assert Meter().measure({NO_GROUP: RUN})[NO_GROUP].resident_bytes == 0
            finally:
                process.kill()


def test_a_server_in_another_container_may_live() -> None:
    """Its pid is another process here, or none."""
    own = own_identity()
    pid, started, namespace = own.split(" ")
    assert may_be_alive(own)
    assert may_be_alive(f"{pid} {started}")  # as an earlier version has noted it
    assert may_be_alive(f"{pid} 1 {namespace}1")
    assert not may_be_alive(f"{pid} 1 {namespace}")
    assert not may_be_alive("")
