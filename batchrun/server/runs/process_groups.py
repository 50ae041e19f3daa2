"""Process groups: their members, memory and start times as the operating system reports them; and killing them.

On Linux a process that has left its Run's group (setsid) is found by the Run's id in its inherited environment. A
process that has cleared its environment escapes, as does one on other systems.

Everything here may block briefly: callers on the loop use a thread.
"""

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_IS_LINUX = sys.platform == "linux"
#: Max searches for processes of a Run, while each finds new ones.
_MAX_SEARCHES = 20
_RUN_ID = b"ACTOR_RUN_ID="
#: Source: prctl(2). Without it, /proc/PID/environ and /proc/PID/mem are root's.
_PR_SET_DUMPABLE = 4


@dataclass(slots=True)
class GroupUsage:
    resident_bytes: int = 0
    cpu_s: float = 0.0


@functools.cache
def hide_own_environment() -> None:
    """Keep other processes of this user from reading this process's environment and memory, on Linux."""
    if _IS_LINUX:
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def start_time(pid: int) -> str | None:
    """Return the start time, which distinguishes processes of one pid; None if there is no such process."""
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
    """Kill the group of an orphaned process, unless its pid belongs to another process now.

    If the leader is gone, its group is killed too: while members live, no new process can get the group's id.
    """
    now = start_time(pid)
    if now is not None and now != noted_start_time:
        return False
    end_group(pid)
    return now is not None


def end_runs(run_ids: Collection[str]) -> None:
    """Kill the processes of these Runs in any group, and the processes that those start meanwhile."""
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
    """Measures process groups, including processes that have left their group."""

    def __init__(self) -> None:
        #: (Pid, start time) of a process outside of the groups -> its Run. A cache: an environment is slow to read.
        self._runs: dict[tuple[int, str], str | None] = {}

    def measure(self, groups: Mapping[int, str]) -> dict[int, GroupUsage]:
        """Return the usage of each Run's process group, given {leader's pid: Run id}. One that is gone uses nothing."""
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
    """Return the Run id in the environment of this user's process; None if there is none."""
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
    """Return the fields of /proc/PID/stat from the third (state) on. The second may hold spaces and brackets."""
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
