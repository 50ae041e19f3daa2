"""Ends the process groups of Runs with the server process, however that ends.

Else Actors of a server that was killed would go on without limits, and talk to whichever program takes its port.
"""

import subprocess
from contextlib import suppress

import anyio
import anyio.abc
import structlog

#: A shell that notes the groups it is told of, one line each, and kills those that are left at the end of its input.
_SCRIPT = """
groups=
while read -r sign group; do
  case $sign in
    +) groups="$groups $group " ;;
    -) groups="${groups%% $group *}${groups#* $group }" ;;
  esac
done
for group in $groups; do kill -KILL "-$group"; done
"""

_log = structlog.get_logger()


class GroupGuard:
    """One guarding process for all Runs of a server, in a session of its own; it begins with the first group."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._process: anyio.abc.Process | None = None
        self._lock = anyio.Lock()

    async def add(self, group: int) -> None:
        """Guard a process group; `group` is the pid of its leader."""
        async with self._lock:
            self._groups.add(group)
            if not await self._tell(f"+ {group}\n"):
                await self._begin()

    async def remove(self, group: int) -> None:
        """Guard a group no more, once it was killed."""
        async with self._lock:
            if group in self._groups:
                self._groups.remove(group)
                await self._tell(f"- {group}\n")

    async def _tell(self, line: str) -> bool:
        if self._process is None or self._process.returncode is not None:
            return False
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send(line.encode())
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True

    async def _begin(self) -> None:
        await self.close()
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
            return
        for group in self._groups:
            await self._tell(f"+ {group}\n")

    async def close(self) -> None:
        """End the guarding process; it kills the groups that are left."""
        if self._process is not None:
            with anyio.CancelScope(shield=True), suppress(OSError):
                await self._process.aclose()
            self._process = None
