"""What the operating system says of process groups: who lives, how much memory, since when; and ending them.

Everything here may block a little: callers on the loop go through a thread.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_IS_LINUX = sys.platform == "linux"


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


def measure(groups: Iterable[int]) -> dict[int, GroupUsage]:
    """Return what each of these process groups uses; one that is gone uses nothing."""
    usages = {group: GroupUsage() for group in groups}
    for group, resident_bytes, cpu_s in _linux_processes() if _IS_LINUX else _posix_processes():
        if (usage := usages.get(group)) is not None:
            usage.resident_bytes += resident_bytes
            usage.cpu_s += cpu_s
    return usages


def _linux_processes() -> Iterable[tuple[int, int, float]]:
    page_bytes, ticks_per_s = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))) is not None:
            cpu_s = (int(fields[11]) + int(fields[12])) / ticks_per_s
            yield int(fields[2]), int(fields[21]) * page_bytes, cpu_s


def _stat_fields(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third (state) on; the second may hold spaces and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def _posix_processes() -> Iterable[tuple[int, int, float]]:
    for line in _ps("-A", "-o", "pgid=,rss=").splitlines():
        group, resident_kb = line.split()
        yield int(group), int(resident_kb) * 1024, 0.0


def _ps(*arguments: str) -> str:
    return subprocess.run(["/bin/ps", *arguments], capture_output=True, text=True, check=False).stdout  # noqa: S603
