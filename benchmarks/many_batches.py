"""A worker with many finished batches in its data directory: its start, its memory, and how soon they are listed.

One small batch is carried out on the embedded server; the others are copies of it with ids and names of their own.
"""

import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import orjson

from batchrun import load_config, run_batch
from batchrun.model import Outcome
from batchrun.output.worker_batch import SUBMISSION
from batchrun.server import InlineContext
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.submission import BatchCounts, BatchState, Submission
from benchmarks.results import Size, print_table

BATCHES = 10_000
JOBS = 5
#: Seconds of idle time in which the worker's CPU time is measured, without a listener and with one page open.
IDLE_S = 10.0
_ACTOR = "bench/work"


def measure(size: Size) -> dict[str, Any]:
    """Make the directory, start a worker on it, and ask it."""
    count = size.jobs or BATCHES
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as name:
        directory = DataDirectory(Path(name, "data"))
        make_batches(directory, count)
        figures = {"batches": count, **_ask(directory)}
    rows = [(key, f"{value:,}") for key, value in figures.items()]
    print_table("A worker with many finished batches", ("", ""), rows)
    return figures


def make_batches(directory: DataDirectory, count: int) -> None:
    """Fill a data directory with finished batches."""
    directory.make()
    template = directory.path.parent / "template"
    _make_template(template)
    now = datetime.now(UTC)
    for number in range(count):
        at = now - timedelta(minutes=count - number)
        submission = Submission(
            id=f"{at:%Y%m%d}-{number:010d}",
            name=f"shop-{number % 100}",
            created_at=at,
            state=BatchState.FINISHED,
            batch_file="batch.toml",
            jobs_file="jobs.jsonl",
            begun_at=at,
            ended_at=at + timedelta(seconds=30),
            counts=BatchCounts(jobs=JOBS, outcomes={Outcome.SUCCEEDED: JOBS}, items=JOBS, cost_usd=0.01),
        )
        own = directory.of(submission.id)
        shutil.copytree(template, own)
        (own / SUBMISSION).write_text(submission.model_dump_json(indent=1, exclude_defaults=True))


def _make_template(template: Path) -> None:
    template.mkdir(mode=0o700, parents=True)
    lines = b"".join(orjson.dumps({"n": n}, option=orjson.OPT_APPEND_NEWLINE) for n in range(JOBS))
    (template / "jobs.jsonl").write_bytes(lines)
    (template / "batch.toml").write_text(f'[task]\nactor = "{_ACTOR}"\nname = "work"\n[jobs]\nfile = "jobs.jsonl"\n')
    flags = {"api.base_url": "embedded", "output.dir": str(template / "out")}
    config = load_config(template / "batch.toml", flags=flags, environ={})

    async def work(context: InlineContext) -> None:
        await context.push_items([context.input])

    async def run() -> None:
        await run_batch(config, environ={}, inline_actors={_ACTOR: work})

    anyio.run(run)
    shutil.rmtree(template / "out" / "server")


def _ask(directory: DataDirectory) -> dict[str, Any]:
    command = [sys.executable, "-m", "batchrun", "worker", "start", "--data", str(directory.path), "--port", "0"]
    began_at = time.monotonic()
    process = subprocess.Popen([*command, "--api-url", "embedded"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        figures: dict[str, Any] = {"first_line_s": _since(began_at), "first_line_cpu_s": _cpu_s(process.pid)}
        host = address.removeprefix("http://")
        token = directory.token.read_text().strip()
        while _get(host, "/health/ready", token)[0] != 200:
            time.sleep(0.05)
        figures |= {"ready_s": _since(began_at), "ready_cpu_s": _cpu_s(process.pid)}
        for name, path in (
            ("list_100", "/v1/batches"),
            ("list_1000", "/v1/batches?limit=1000"),
            ("worker", "/v1/worker"),
        ):
            asked_at = time.monotonic()
            status, body = _get(host, path, token)
            assert status == 200, body
            figures[f"{name}_s"] = _since(asked_at)
        listed_at = time.monotonic()
        list_command = [sys.executable, "-m", "batchrun", "worker", "list", "--data", str(directory.path)]
        subprocess.run(list_command, check=True, stdout=subprocess.DEVNULL)
        figures["list_command_s"] = _since(listed_at)
        figures["idle_cpu"] = _cpu_while(process.pid)
        connection = http.client.HTTPConnection(host)
        connection.request("GET", "/v1/events", headers={"Authorization": f"Bearer {token}"})
        connection.getresponse().readline()
        figures["idle_cpu_with_a_page"] = _cpu_while(process.pid)
        connection.close()
        figures["rss_mb"] = _status_mb(process.pid, "VmRSS")
        figures["peak_rss_mb"] = _status_mb(process.pid, "VmHWM")
        return figures
    finally:
        process.terminate()
        process.wait(60)


def _since(began_at: float) -> float:
    return round(time.monotonic() - began_at, 3)


def _get(host: str, path: str, token: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _cpu_while(pid: int) -> float:
    """Return the part of a core that a process uses while nothing happens."""
    before = _cpu_s(pid)
    time.sleep(IDLE_S)
    return round((_cpu_s(pid) - before) / IDLE_S, 3)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 2)


def _status_mb(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(round(int(line.split()[1]) / 1024, 1) for line in lines if line.startswith(f"{name}:"))
