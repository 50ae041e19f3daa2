"""The process that ends the groups of Runs once their server is gone."""

import subprocess
import sys

import anyio
import pytest

from batchrun.server.runs.process_group_guard import GroupGuard

#: Guards groups of which it is told on stdin, until it is killed.
GUARDING = """
import sys, anyio
from batchrun.cli.event_loop import run_async
from batchrun.server.runs.process_group_guard import GroupGuard

async def main():
    guard = GroupGuard()
    for line in sys.stdin:
        with anyio.CancelScope() as scope:
            if "cancelled" in line:
                scope.cancel()
            sign, group = line.split()[:2]
            await (guard.add if sign == "+" else guard.remove)(int(group))
        print(line, end="", flush=True)

run_async(main)
"""


@pytest.mark.parametrize("cancelled", ["", " cancelled"])
def test_the_groups_that_are_left_end_with_a_server_that_is_killed(cancelled: str) -> None:
    """What was taken back lives on: its number may be another's by then. So it is if a Run was aborted meanwhile."""
    command = [sys.executable, "-c", GUARDING]
    sleepers = [subprocess.Popen(["/bin/sleep", "600"], start_new_session=True) for _ in range(4)]
    try:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            groups = [each.pid for each in sleepers]
            for order in [
                f"+ {groups[0]}",
                *(f"+ {each}{cancelled}" for each in groups[1:]),
                f"- {groups[2]}{cancelled}",
            ]:
                server.stdin.write(f"{order}\n")
                server.stdin.flush()
                assert server.stdout.readline().strip() == order
            server.kill()
        for ended in (0, 1, 3):
            assert sleepers[ended].wait(60) == -9
        assert sleepers[2].poll() is None
    finally:
        for each in sleepers:
            each.kill()
            each.wait()


def test_a_guard_that_has_died_is_replaced() -> None:
    """With all groups."""

    async def guard_one_more() -> None:
        guard = GroupGuard()
        await guard.add(sleepers[0].pid)
        assert guard._process is not None
        guard._process.kill()
        await guard._process.wait()
        await guard.add(sleepers[1].pid)
        await guard.close()
        await guard.add(sleepers[1].pid)
        assert guard._process is None, "a server that ends begins no other one"

    sleepers = [subprocess.Popen(["/bin/sleep", "600"], start_new_session=True) for _ in range(2)]
    try:
        anyio.run(guard_one_more, backend_options={"use_uvloop": sys.platform != "win32"})
        assert [each.wait(60) for each in sleepers] == [-9, -9]
    finally:
        for each in sleepers:
            each.kill()
            each.wait()
