"""What the operating system says of process groups: who lives, how much memory, since when; and ending them.

On Linux a process that has left its Run's group (setsid) is found by the id of the Run in its environment, which it
has from its parents. One that has cleared that too gets away, as on other systems.

Everything here may block a little: callers on the loop go through a thread.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_IS_LINUX = sys.platform == "linux"
#: How often processes of a Run are looked for, as long as there are new ones.
_MAX_SEARCHES = 20
_RUN_ID = b"ACTOR_RUN_ID="


@dataclass(slots=True)
class GroupUsage:
    """What a process group uses right now."""

    resident_bytes: int = 0
    cpu_s: float = 0.0


def start_time(pid: int) -> str | None:
    """Return a text that tells this process from a later one with the same pid; None when there is no such process."""
    if _IS_LINUX:
        fields = _stat_fields(pid)
        return fields[19] if fields and fields[0] != "Z" else None
    shown = _ps("-o", "lstart=", "-p", str(pid)).strip()
    return shown or None


def end_group(pid: int) -> None:
    """Kill the process group that `pid` leads, if there is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_orphan(pid: int, noted_start_time: str) -> bool:
    """Kill the group of a dead server's process, unless the pid has come to mean another process.

    A leader that is gone leaves its group's id reserved as long as members live; no new process can have taken it, so
    the group is killed then too.
    """
    now = start_time(pid)
    if now is not None and now != noted_start_time:
        return False
    end_group(pid)
    return now is not None


def end_runs(run_ids: Collection[str]) -> None:
    """Kill the processes of these Runs, whatever group they are in, and those that they start meanwhile."""
    if not _IS_LINUX:
        return
    killed = {os.getpid()}
    for _ in range(_MAX_SEARCHES):
        found = {pid for pid in _pids() if pid not in killed and _run_of(pid) in run_ids}
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= found


class Meter:
    """Measures process groups, together with those who have left them."""

    def __init__(self) -> None:
        #: The Run of each process outside of the groups, by pid and start time: an environment is slow to read.
        self._runs: dict[tuple[int, str], str | None] = {}

    def measure(self, groups: Mapping[int, str]) -> dict[int, GroupUsage]:
        """Return what the process group of each Run uses; one that is gone uses nothing.

        Args:
            groups: the id of the Run, by the pid of the group's leader.
        """
        usages = {group: GroupUsage() for group in groups}
        group_of_run = {run_id: group for group, run_id in groups.items()}
        outside: dict[tuple[int, str], str | None] = {}
        for process in _linux_processes() if _IS_LINUX else _posix_processes():
            usage = usages.get(process.group)
            if usage is None and _IS_LINUX:
                key = process.pid, process.start_time
                run_id = outside[key] = self._runs[key] if key in self._runs else _run_of(process.pid)
                usage = usages.get(group_of_run.get(run_id or "", 0))
            if usage is not None:
                usage.resident_bytes += process.resident_bytes
                usage.cpu_s += process.cpu_s
        self._runs = outside
        return usages


class _Process(NamedTuple):
    pid: int
    start_time: str
    group: int
    resident_bytes: int
    cpu_s: float


def _pids() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield int(entry.name)


def _run_of(pid: int) -> str | None:
    """Return the id of the Run that a process of this user works for, if it does."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    found = (variable for variable in environment.split(b"\0") if variable.startswith(_RUN_ID))
    return next(found, b"").removeprefix(_RUN_ID).decode(errors="replace") or None


def _linux_processes() -> Iterator[_Process]:
    page_bytes, ticks_per_s = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    for pid in _pids():
        if (fields := _stat_fields(pid)) is not None:
            cpu_s = (int(fields[11]) + int(fields[12])) / ticks_per_s
            yield _Process(pid, fields[19], int(fields[2]), int(fields[21]) * page_bytes, cpu_s)


def _stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third (state) on; the second may hold spaces and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _posix_processes() -> Iterator[_Process]:
    for line in _ps("-A", "-o", "pid=,pgid=,rss=").splitlines():
        pid, group, resident_kb = map(int, line.split())
        yield _Process(pid, "", group, resident_kb * 1024, 0.0)


def _ps(*arguments: str) -> str:
    return subprocess.run(["/bin/ps", *arguments], capture_output=True, text=True, check=False).stdout  # noqa: S603
