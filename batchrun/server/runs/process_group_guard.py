"""Ends the process groups of Runs with the server process, however that ends.

Else Actors of a server that was killed would go on without limits, and talk to whichever program takes its port.
"""

import subprocess
from contextlib import suppress

import anyio
import anyio.abc
import structlog

#: A shell that reads which groups there are, all in one line, and kills those of the last whole line at the end of its
#: input.
_SCRIPT = """
while read -r line; do groups=$line; done
for group in $groups; do kill -KILL "-$group"; done
"""
#: Timeout for the shell to read a line, and to end, in seconds. One that exceeds it is replaced.
_PATIENCE_S = 5.0

#: What writing to a process that has ended raises.
_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)

_log = structlog.get_logger()


class GroupGuard:
    """The one guarding process of a server. It starts with the first group, in a session of its own."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: anyio.abc.Process | None = None
        self._lock = anyio.Lock()
        self._is_closed = False

    async def add(self, group: int) -> None:
        """Guard a process group, also of a Run that is being aborted; `group` is the pid of its leader."""
        self._groups.add(group)
        await self._tell()

    async def remove(self, group: int) -> None:
        """Guard a group no more, once it was killed: its number may soon be another's."""
        if group not in self._groups:
            return
        self._groups.remove(group)
        await self._tell()

    async def _tell(self) -> None:
        """Tell the guarding process which groups there are, or a new one if it does not listen."""
        with anyio.CancelScope(shield=True):
            async with self._lock:
                if not self._is_closed and not await self._send():
                    await self._begin()
                    await self._send()

    async def _send(self) -> bool:
        if self._process is None or self._process.returncode is not None:
            return False
        assert self._process.stdin is not None
        with suppress(*_GONE), anyio.move_on_after(_PATIENCE_S):
            await self._process.stdin.send(f"{' '.join(map(str, self._groups))}\n".encode())
            return True
        self._end()  # nothing may follow a line that was cut off: its last number would be another
        return False

    async def _begin(self) -> None:
        try:
            self._process = await anyio.open_process(
                ["/bin/sh", "-c", _SCRIPT],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={},  # Actors can read the environment of a shell, which does not hide its own as the server does
                start_new_session=True,  # a signal of the terminal is for the server alone
            )
        except OSError as error:
            _log.warning("runs_unguarded", reason=str(error))

    def _end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        self._process = None

    async def close(self) -> None:
        """End the guarding process, for good; it kills the groups that are left."""
        with anyio.CancelScope(shield=True):
            async with self._lock:
                self._is_closed = True
                if self._process is not None:
                    with suppress(OSError), anyio.move_on_after(_PATIENCE_S):  # then it is killed
                        await self._process.aclose()
                    self._process = None
