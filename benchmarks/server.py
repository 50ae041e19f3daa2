"""The embedded server: starts per second on one core, wakes of open polls, and what a finished Run leaves behind.

The server is a process of its own, held to one core; the client is this process, held to another one. Each Run of the
first part is started from a task, with an input, and stores one item; its cost counts until its usage is settled.

A wake is measured from the Run's `finishedAt`, which the server stamps when the Actor's work is over and before the end
is committed, until the client has the answer. Both processes read the same clock; the stamp is cut to milliseconds,
so that a figure is up to 1 ms too high. How late the client's own loop was stands beside it.
"""

import gc
import os
import platform
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import orjson
import psutil
from anyio.abc import TaskStatus

from batchrun.cli.event_loop import run_async
from benchmarks.lean_client import open_connection

ROOT = Path(__file__).parents[1]
CONNECTIONS = 64
POLLS = 5000
SPREAD_S = 60
#: Between the first start of a Run and the first end: all polls must be open by then.
OPENING_S = 20
#: The server settles the usage of a Run 5 seconds after its end.
SETTLING_S = 7
LAG_EVERY_S = 0.002
SEED = 1


def measure(runs: int) -> dict[str, Any]:
    """Measure a server over so many Runs and another one over 5,000 open polls; takes about two minutes."""
    server_core, client_core = sorted(os.sched_getaffinity(0))[:2]
    figures: dict[str, Any] = {"runs": runs, "connections": CONNECTIONS}
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as name:
        directory = Path(name)
        with _server(directory / "starts", server_core, client_core) as (server, base_url):
            figures |= run_async(_measure_starts, server, base_url, runs)
        # Measured once the server has closed: its write-ahead log is in the file by then.
        total = runs + runs // 5
        figures["disk_bytes_per_run"] = round((directory / "starts" / "server.sqlite3").stat().st_size / total)
        with _server(directory / "polls", server_core, client_core) as (_, base_url):
            figures |= run_async(_measure_wakes, base_url)
    for key, value in figures.items():
        print(f"{key:24} {value:>12,}")
    return figures | _machine()


def _machine() -> dict[str, Any]:
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    versions = {name: version(name) for name in ("aiohttp", "anyio", "orjson", "uvloop")}
    machine = f"{os.cpu_count()} x {model.partition(':')[2].strip()}, {platform.system()}"
    return {"machine": machine, "sqlite": sqlite3.sqlite_version, **versions}


@contextmanager
def _server(data_dir: Path, server_core: int, client_core: int) -> Iterator[tuple[psutil.Process, str]]:
    # A child inherits the core that it is held to, with all threads it will have.
    os.sched_setaffinity(0, {server_core})
    command = [sys.executable, "-m", "benchmarks.platform", str(data_dir)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as server:
        os.sched_setaffinity(0, {client_core})
        try:
            assert server.stdout is not None
            yield psutil.Process(server.pid), server.stdout.readline().decode().strip()
        finally:
            server.send_signal(signal.SIGTERM)


async def _task_runs(base_url: str, actor: str) -> str:
    """Create a task and return the path at which its Runs are started."""
    async with open_connection(base_url) as connection:
        task = await connection.data("POST", "/v2/actor-tasks", f'{{"actId": "bench~{actor}"}}'.encode())
    return f"/v2/actor-tasks/{task['id']}/runs"


async def _measure_starts(server: psutil.Process, base_url: str, runs: int) -> dict[str, Any]:
    target = await _task_runs(base_url, "echo")
    await _start_all(base_url, target, runs // 5)  # a fifth to warm up
    await anyio.sleep(SETTLING_S)
    rss, cpu_s = server.memory_info().rss, _cpu_s(server)
    began_at, own_s = time.perf_counter(), time.process_time()
    await _start_all(base_url, target, runs)
    elapsed_s, own_s = time.perf_counter() - began_at, time.process_time() - own_s
    await anyio.sleep(SETTLING_S)
    return {
        "starts_per_s": round(runs / elapsed_s),
        "server_cpu_us_per_run": round((_cpu_s(server) - cpu_s) / runs * 1e6),
        "client_busy_percent": round(100 * own_s / elapsed_s),
        "rss_warm_mb": round(rss / 1e6, 1),
        "rss_after_mb": round(server.memory_info().rss / 1e6, 1),
    }


def _cpu_s(server: psutil.Process) -> float:
    times = server.cpu_times()
    return times.user + times.system


async def _start_all(base_url: str, target: str, runs: int) -> None:
    """Start so many Runs over all connections, and wait for the end of the last one of each."""
    numbers = iter(range(runs))

    async def start() -> None:
        async with open_connection(base_url) as connection:
            run = None
            for n in numbers:
                run = await connection.data("POST", target, b'{"n": %d}' % n)
            if run is not None:
                await connection.send("GET", f"/v2/actor-runs/{run['id']}?waitForFinish=60")

    async with anyio.create_task_group() as children:
        for _ in range(CONNECTIONS):
            children.start_soon(start)


async def _measure_wakes(base_url: str) -> dict[str, Any]:
    target, rng = await _task_runs(base_url, "sleep"), random.Random(SEED)
    first_end = _wall() + OPENING_S
    wakes_s: list[float] = []
    lags_s: list[float] = []
    gc.disable()  # whatever is late must not be the client
    async with anyio.create_task_group() as lag, open_connection(base_url) as starting:
        lag.start_soon(_note_lag, lags_s)
        async with anyio.create_task_group() as children:
            for _ in range(POLLS):
                ends_at = first_end + rng.random() * SPREAD_S
                run = await starting.data("POST", target, b'{"endsAt": %f}' % ends_at)
                await children.start(_follow, base_url, run["id"], wakes_s)
            assert _wall() < first_end, "Runs ended before all polls were open"
        lag.cancel_scope.cancel()
    gc.enable()
    wakes_s.sort()
    # A Run that ends between the timeout of one poll and the next is no wake.
    shares = {f"wake_p{share}_ms": wakes_s[len(wakes_s) * share // 100] for share in (50, 99)}
    late = {**shares, "wake_max_ms": wakes_s[-1], "client_lag_max_ms": max(lags_s)}
    return {"polls": POLLS, "wakes": len(wakes_s), **{name: round(late_s * 1000, 1) for name, late_s in late.items()}}


def _wall() -> float:
    return datetime.now(UTC).timestamp()


async def _follow(base_url: str, run_id: str, wakes_s: list[float], *, task_status: TaskStatus[None]) -> None:
    """Poll a Run until it has ended; note how late its end was known, unless no poll was open then."""
    async with open_connection(base_url) as connection:
        task_status.started()
        while True:
            sent_at = _wall()
            body = await connection.send("GET", f"/v2/actor-runs/{run_id}?waitForFinish=60")
            received_at, run = _wall(), orjson.loads(body)["data"]
            if run["finishedAt"] is not None:
                break
    ended_at = datetime.fromisoformat(run["finishedAt"]).timestamp()
    if ended_at > sent_at:
        wakes_s.append(received_at - ended_at)


async def _note_lag(lags_s: list[float]) -> None:
    while True:
        due = time.perf_counter() + LAG_EVERY_S
        await anyio.sleep(LAG_EVERY_S)
        lags_s.append(time.perf_counter() - due)
