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
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_IS_LINUX = sys.platform == "linux"
#: Max searches for processes of a Run, while each finds new ones.
_MAX_SEARCHES = 20
#: Source: prctl(2). Without it, /proc/PID/environ and /proc/PID/mem are root's.
_PR_SET_DUMPABLE = 4


class Orphan(NamedTuple):
    """A Run's process that a dead server process has left, as its state notes it."""

    run_id: str
    #: The beginning of the Run's token, up to a dot: no other server gives it, and the rest is in no file.
    token: str
    #: Of the leader of its group.
    pid: int
    start_time: str


class RunMark(NamedTuple):
    """What the environment of a process says of its Run. A server on a copy of the state gives it another token."""

    run_id: str
    #: Up to the dot.
    token: str

    @classmethod
    def of(cls, run_id: str, token: str) -> "RunMark":
        return cls(run_id, token.partition(".")[0])


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


def end_orphans(noted: Collection[Orphan]) -> set[str]:
    """Kill what is left of these processes, and return the ids of their Runs.

    The server's state may be somebody else's, who may have noted any process. On Linux a process is killed if its
    environment has its Run's token, together with the group that is noted, if it is in that. Elsewhere a group is
    killed whose leader has the noted start time.
    """
    if not _IS_LINUX:
        left = [each for each in noted if each.pid > 1 and start_time(each.pid) == each.start_time]
        for each in left:
            end_group(each.pid)
        return {each.run_id for each in left}
    by_mark = {RunMark(each.run_id, each.token): each for each in noted}
    found = {pid: by_mark[mark] for pid in _pids() if (mark := _mark_of(pid)) in by_mark}
    for pid, orphan in found.items():
        if _group_of(pid) == orphan.pid > 1:
            end_group(orphan.pid)  # with those of its members that have cleared their environment
    _end_all(lambda pid: _mark_of(pid) in by_mark)
    return {orphan.run_id for orphan in found.values()}


def end_runs(marks: Collection[RunMark]) -> None:
    """Kill the processes with these marks in any group, and the processes that those start meanwhile."""
    if _IS_LINUX:
        _end_all(lambda pid: _mark_of(pid) in marks)


def _end_all(is_meant: Callable[[int], bool]) -> None:
    killed = {os.getpid()}
    for _ in range(_MAX_SEARCHES):
        found = {pid for pid in _pids() if pid not in killed and is_meant(pid)}
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
        self._runs: dict[tuple[int, str], str] = {}

    def measure(self, groups: Mapping[int, str]) -> dict[int, GroupUsage]:
        """Return the usage of each Run's process group, given {leader's pid: Run id}. One that is gone uses nothing."""
        usages = {group: GroupUsage() for group in groups}
        group_of_run = {run_id: group for group, run_id in groups.items()}
        outside: dict[tuple[int, str], str] = {}
        for process in _linux_processes() if _IS_LINUX else _posix_processes():
            usage = usages.get(process.group)
            if usage is None and _IS_LINUX:
                key = process.pid, process.start_time
                run_id = outside[key] = self._runs[key] if key in self._runs else _mark_of(process.pid).run_id
                usage = usages.get(group_of_run.get(run_id, 0))
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


def _mark_of(pid: int) -> RunMark:
    """Return what the environment of this user's process says of its Run; empty texts if nothing."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return RunMark("", "")
    variables = dict(variable.split("=", 1) for variable in environment.split("\0") if "=" in variable)
    return RunMark.of(variables.get("ACTOR_RUN_ID", ""), variables.get("APIFY_TOKEN", ""))


def _group_of(pid: int) -> int:
    """Return the group of a process; 0 if the process is gone."""
    fields = _stat_fields(pid)
    return int(fields[2]) if fields else 0


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
