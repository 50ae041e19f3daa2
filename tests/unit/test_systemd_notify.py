import os
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from batchrun.worker.systemd_notify import STATUS_INTERVAL_S, SystemdNotifier


@pytest.fixture
def told(tmp_path: Path) -> Iterator[socket.socket]:
    """Listen as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def said(listening: socket.socket) -> list[str]:
    """Return the lines of the next message."""
    return listening.recv(4096).decode().split("\n")


def test_readiness_reloading_and_the_end_are_told(told: socket.socket) -> None:
    """One message each, in the words of sd_notify(3)."""
    notifier = SystemdNotifier({"NOTIFY_SOCKET": told.getsockname()})
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    assert said(told) == ["READY=1"]
    reloading, at = said(told)
    assert (reloading, at.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    assert int(at.partition("=")[2]) > 0
    assert said(told) == ["STOPPING=1"]


def test_an_abstract_address_is_understood() -> None:
    """As containers get it: with an @ in place of the zero byte."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"batchrun-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        listening.setblocking(False)
        SystemdNotifier({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert said(listening) == ["READY=1"]


async def test_the_loop_feeds_the_watchdog(told: socket.socket) -> None:
    """Three times in the time that it waits, with one line about how it stands, whatever is in that."""
    pid = str(os.getpid())
    notifier = SystemdNotifier(
        {"NOTIFY_SOCKET": told.getsockname(), "WATCHDOG_USEC": "15000000", "WATCHDOG_PID": pid},
    )
    async with anyio.create_task_group() as children:
        children.start_soon(notifier.send_status, lambda: "2 batches\nREADY=0")
        await anyio.sleep(14.9)
        children.cancel_scope.cancel()
    for _ in range(3):
        assert said(told) == ["WATCHDOG=1", "STATUS=2 batches READY=0"]
    with pytest.raises(BlockingIOError):
        told.recv(1)


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_PID": "1"}])
def test_a_watchdog_that_is_not_ours_does_not_hurry_us(environ: dict[str, str]) -> None:
    """Another process's, or none."""
    assert SystemdNotifier({"WATCHDOG_USEC": "3000000"} | environ).interval_s == (
        1.0 if environ == {} else STATUS_INTERVAL_S
    )


async def test_without_a_notifier_nothing_is_told(tmp_path: Path) -> None:
    """Nor is anything wrong when it has gone away."""
    await SystemdNotifier({}).send_status(lambda: "well")
    SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
