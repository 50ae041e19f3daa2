"""What systemd is told of the worker: that it is ready, how it stands, and that its loop turns. See sd_notify(3)."""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic_ns

import anyio

#: Between two words about how it stands, where no watchdog asks for more.
STATUS_INTERVAL_S = 10.0


class Supervisor:
    """Who has started the worker and wants to be told; without one, nobody is told anything.

    Args:
        environ: holds NOTIFY_SOCKET, and WATCHDOG_USEC and WATCHDOG_PID where there is a watchdog.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = f"\0{self._address[1:]}"  # an abstract one
        usec = environ.get("WATCHDOG_USEC", "")
        is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(usec) / 1e6 if is_ours and usec.isdecimal() and int(usec) else None
        #: A third of what the watchdog waits: one late turn of the loop is no reason for a restart.
        self.interval_s = STATUS_INTERVAL_S if watchdog_s is None else min(watchdog_s / 3, STATUS_INTERVAL_S)

    def ready(self) -> None:
        """Tell that batches can be handed in."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """Tell that the configuration is read again; `ready` follows."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Tell that the worker comes to its end."""
        self._tell("STOPPING=1")

    async def keep_told(self, status: Callable[[], str]) -> None:
        """Tell again and again how it stands, from the loop, so that one that is stuck is noticed; until cancelled."""
        while self._address:
            self._tell("WATCHDOG=1", f"STATUS={' '.join(status().split())}")
            await anyio.sleep(self.interval_s)

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        # Who does not listen any more misses something; that is nothing to stop for, nor to wait for.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sending:
            sending.setblocking(False)
            sending.sendto("\n".join(lines).encode(), self._address)
