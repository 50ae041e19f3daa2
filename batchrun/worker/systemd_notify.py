"""Messages to systemd: the worker is ready, its status, and that its loop is alive. See sd_notify(3)."""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic_ns

import anyio

#: Seconds between two status messages, if no watchdog needs them more often.
STATUS_INTERVAL_S = 10.0


class SystemdNotifier:
    """Sends messages to systemd; sends nothing if systemd has not started the worker."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = f"\0{self._address[1:]}"  # an abstract socket
        usec = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(usec) / 1e6 if is_ours and usec.isdecimal() and int(usec) else None
        #: At most a third of the watchdog's timeout, so that one late message causes no restart.
        self.interval_s = STATUS_INTERVAL_S if watchdog_s is None else min(watchdog_s / 3, STATUS_INTERVAL_S)

    def ready(self) -> None:
        """Report that batches can be submitted."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report that the configuration is being reloaded; `ready` follows."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that the worker is stopping."""
        self._send("STOPPING=1")

    async def send_status(self, status: Callable[[], str]) -> None:
        """Send the status and a sign of life repeatedly, from the event loop, until cancelled."""
        while self._address:
            self._send("WATCHDOG=1", f"STATUS={' '.join(status().split())}")
            await anyio.sleep(self.interval_s)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        # A lost message is no reason to stop or to wait.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.setblocking(False)
            sending.sendto("\n".join(lines).encode(), self._address)
