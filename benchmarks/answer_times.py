"""How soon a command answers: `--version`, help, `status`, and `run` until its first request reaches the platform.

    python -m benchmarks answer-times --before /path/to/other/venv/bin/python

Each is a process of its own, interpreter and imports included, with the files in the page cache. With `--before`, an
earlier version in an environment of its own does the same in turns. CPU time is that of all threads; that of `run` is
read when the first bytes of its request are here, and the process is killed then.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.counterpart import cores, on_core, open_responder
from benchmarks.results import Size, print_table, spread, spread_words
from benchmarks.sides import TASK, TOKEN

ROUNDS = 20
JOBS = 10
PATIENCE_S = 60.0


def measure(size: Size) -> dict[str, Any]:
    """Measure each command in turns, of this version and of the one before."""
    pythons = {**({"before": size.before} if size.before is not None else {}), "now": sys.executable}
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as name:
        directories = {side: Path(name, side) for side in pythons}
        for side, python in pythons.items():
            _carry_out(python, directories[side])
        for _ in range(size.rounds or ROUNDS):
            for side, python in pythons.items():
                for command, measured in COMMANDS.items():
                    found.setdefault(command, {}).setdefault(side, []).append(measured(python, directories[side]))
    figures: dict[str, Any] = {"rounds": size.rounds or ROUNDS}
    rows = []
    for command, by_side in found.items():
        cells = []
        for side, values in by_side.items():
            for unit, column in zip(("s", "cpu_s"), zip(*values, strict=True), strict=True):
                figures[f"{command} {side} {unit}"] = spread(column, 3)
                cells.append(spread_words(figures[f"{command} {side} {unit}"]))
        rows.append((f"`{command}`", *cells))
    headings = [f"{side}, {unit}" for side in pythons for unit in ("s", "CPU s")]
    print_table("Until a command answers: median (range)", ("", *headings), rows)
    return figures


def _carry_out(python: str, directory: Path) -> None:
    """Carry out a small batch with a version: what its `status` reads."""
    directory.mkdir()
    (directory / "jobs.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(JOBS)))
    with open_responder() as responder:
        subprocess.run(
            _run(python, "done", responder.base_url), cwd=directory, env=_environ(), check=True, capture_output=True
        )


def _run(python: str, out: str, base_url: str) -> list[str]:
    options = ["--task", TASK, "--jobs", "jobs.jsonl", "--out", out, "--api-url", base_url, "--yes"]
    return [python, "-m", "batchrun", "run", *options]


def _environ() -> dict[str, str]:
    return {"APIFY_TOKEN": TOKEN, "PATH": os.environ["PATH"]}


def _to_the_end(*arguments: str) -> Callable[[str, Path], tuple[float, float]]:
    def measured(python: str, directory: Path) -> tuple[float, float]:
        began_at = time.monotonic()
        with on_core(cores()[1]):
            process = subprocess.Popen(
                [python, "-m", "batchrun", *arguments], cwd=directory, env=_environ(), stdout=subprocess.DEVNULL
            )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, arguments
        return time.monotonic() - began_at, usage.ru_utime + usage.ru_stime

    return measured


def _to_the_first_request(python: str, directory: Path) -> tuple[float, float]:
    with socket.create_server(("127.0.0.1", 0)) as platform:
        platform.settimeout(PATIENCE_S)
        began_at = time.monotonic()
        with on_core(cores()[1]):
            command = _run(python, f"out-{began_at}", f"http://127.0.0.1:{platform.getsockname()[1]}")
            process = subprocess.Popen(command, cwd=directory, env=_environ(), stderr=subprocess.DEVNULL)
        try:
            connection, _ = platform.accept()
            with connection:
                connection.recv(1)
                return time.monotonic() - began_at, _cpu_s(process.pid)
        finally:
            process.kill()
            process.wait()


def _cpu_s(pid: int) -> float:
    """Return the CPU time of all threads of a process so far; the kernel counts it in nanoseconds."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(each.read_text().split()[0]) for each in threads) / 1e9


COMMANDS: dict[str, Callable[[str, Path], tuple[float, float]]] = {
    "--version": _to_the_end("--version"),
    "--help": _to_the_end("--help"),
    "run --help": _to_the_end("run", "--help"),
    "status": _to_the_end("status", "done"),
    "run, to its first request": _to_the_first_request,
}
