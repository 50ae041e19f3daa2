import os
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from batchrun.worker.systemd_notify import STATUS_INTERVAL_S, SystemdNotifier


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    """Listen as systemd does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def said(listening: socket.socket) -> list[str]:
    """Return the lines of the next message."""
    return listening.recv(4096).decode().split("\n")


def test_readiness_reloading_and_stop_are_sent(listening: socket.socket) -> None:
    """One message each, in the words of sd_notify(3)."""
    notifier = SystemdNotifier({"NOTIFY_SOCKET": listening.getsockname()})
    notifier.ready()
    notifier.reloading()
    notifier.stopping()
    assert said(listening) == ["READY=1"]
    reloading, at = said(listening)
    assert (reloading, at.partition("=")[0]) == ("RELOADING=1", "MONOTONIC_USEC")
    assert int(at.partition("=")[2]) > 0
    assert said(listening) == ["STOPPING=1"]


def test_an_abstract_socket_is_supported() -> None:
    """As in containers: with an @ instead of the zero byte."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"batchrun-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        listening.setblocking(False)
        SystemdNotifier({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert said(listening) == ["READY=1"]


async def test_the_loop_sends_watchdog_messages(listening: socket.socket) -> None:
    """Three within the watchdog's timeout, with the status on one line."""
    pid = str(os.getpid())
    notifier = SystemdNotifier(
        {"NOTIFY_SOCKET": listening.getsockname(), "WATCHDOG_USEC": "15000000", "WATCHDOG_PID": pid},
    )
    async with anyio.create_task_group() as children:
        children.start_soon(notifier.send_status, lambda: "2 batches\nREADY=0")
        await anyio.sleep(14.9)
        children.cancel_scope.cancel()
    for _ in range(3):
        assert said(listening) == ["WATCHDOG=1", "STATUS=2 batches READY=0"]
    with pytest.raises(BlockingIOError):
        listening.recv(1)


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_PID": "1"}])
def test_the_watchdog_of_another_process_is_ignored(environ: dict[str, str]) -> None:
    """The interval is the default one."""
    assert SystemdNotifier({"WATCHDOG_USEC": "3000000"} | environ).interval_s == (
        1.0 if environ == {} else STATUS_INTERVAL_S
    )


async def test_without_systemd_nothing_is_sent(tmp_path: Path) -> None:
    """A missing socket is no error."""
    await SystemdNotifier({}).send_status(lambda: "well")
    SystemdNotifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
