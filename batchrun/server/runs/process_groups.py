"""Process groups: their members, memory and start times as the operating system reports them; and killing them.

On Linux a process that has left its Run's group (setsid) is found by the Run's id and token in its inherited
environment; by the id alone, if it has no Run's token. A process that has cleared its environment or changed its user
escapes, as does one on other systems.

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
    """A Run as the environment of its processes names it. A server on a copy of the state gives them another token."""

    run_id: str
    #: Up to the dot.
    token: str

    @classmethod
    def of(cls, run_id: str, token: str) -> "RunMark":
        return cls(run_id, token.partition(".")[0])

    def is_of(self, run: "RunMark") -> bool:
        """True if this is the mark of a Run's process, in which another token may stand that is no Run's, or none."""
        begins = run.token.partition(run.run_id)[0]  # as the tokens of all Runs of all servers
        return self.run_id == run.run_id and (self.token == run.token or not self.token.startswith(begins))


#: Of a process that is of no Run, or not this user's.
_NO_MARK = RunMark("", "")


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


def own_identity() -> str:
    """Return what names this process among all of this machine's, in any container."""
    return f"{os.getpid()} {start_time(os.getpid())} @{_pid_namespace()}"


def may_be_alive(identity: str) -> bool:
    """Return whether the process with this `own_identity` may live; of another namespace, it cannot be seen here."""
    process, _, namespace = identity.partition(" @")
    if namespace and namespace != str(_pid_namespace()):
        return True
    pid, _, started = process.partition(" ")
    return pid.isdecimal() and start_time(int(pid)) == started


def _pid_namespace() -> int:
    """Return the number of the namespace of this process's pids; 0 on other systems than Linux."""
    return Path("/proc/self/ns/pid").stat().st_ino if _IS_LINUX else 0


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


def end_runs(runs: Collection[RunMark]) -> None:
    """Kill the processes of these Runs in any group, and the processes that those start meanwhile."""
    if not _IS_LINUX:
        return
    by_id = {run.run_id: run for run in runs}

    def is_meant(pid: int) -> bool:
        mark = _mark_of(pid)
        run = by_id.get(mark.run_id)
        return run is not None and mark.is_of(run)

    _end_all(is_meant)


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
        #: What processes outside of the groups say, by pid and start time. A cache: an environment is slow to read.
        self._marks: dict[tuple[int, str], RunMark] = {}

    def measure(self, groups: Mapping[int, RunMark]) -> dict[int, GroupUsage]:
        """Return the usage of each Run's process group, given {leader's pid: Run}. One that is gone uses nothing."""
        usages = {group: GroupUsage() for group in groups}
        by_id = {run.run_id: (run, usages[group]) for group, run in groups.items()}
        outside: dict[tuple[int, str], RunMark] = {}
        for process in _linux_processes() if _IS_LINUX else _posix_processes():
            usage = usages.get(process.group)
            if usage is None and _IS_LINUX:
                key = process.pid, process.start_time
                mark = outside[key] = self._marks[key] if key in self._marks else _mark_of(process.pid)
                run, of_run = by_id.get(mark.run_id, (None, None))
                usage = of_run if run is not None and mark.is_of(run) else None
            if usage is not None:
                usage.resident_bytes += process.resident_bytes
                usage.cpu_s += process.cpu_s
        self._marks = outside
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
    """Return the Run that a process of this user names; of another user's, nothing is read: it could make that hang."""
    try:
        if not _is_own(pid):
            return _NO_MARK
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return _NO_MARK
    variables = dict(variable.split("=", 1) for variable in environment.split("\0") if "=" in variable)
    return RunMark.of(variables.get("ACTOR_RUN_ID", ""), variables.get("APIFY_TOKEN", ""))


def _is_own(pid: int) -> bool:
    """True if a process has the user of this one, and no other at all, as a set-uid program has.

    The owner of its files in /proc does not tell: they are root's if the process hides itself, or its program is one
    that it may not read.
    """
    lines = Path(f"/proc/{pid}/status").read_text("utf-8", errors="replace").splitlines()
    users = next((line.split()[1:] for line in lines if line.startswith("Uid:")), [])
    return set(users) == {str(os.geteuid())}


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
