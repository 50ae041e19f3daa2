"""Resident memory of a batchrun process over a batch: its peak, and its growth from the first tenth to the end.

The platform is the embedded server with a coroutine Actor that stores one item, in a process of its own, so that its
memory is not counted. Both share the machine, so the rate is no measure of batchrun's speed.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
SAMPLE_INTERVAL_S = 0.5
SLOTS = 256


def measure(jobs: int) -> dict[str, Any]:
    """Run a batch of `jobs` jobs in 256 slots and return its figures in MB, per second, and seconds."""
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as name:
        directory = Path(name)
        with (directory / "jobs.jsonl").open("w") as file:
            file.writelines(f'{{"n": {n}}}\n' for n in range(jobs))
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.platform", str(directory / "api")], cwd=ROOT, stdout=subprocess.PIPE
        )
        try:
            assert server.stdout is not None
            base_url = server.stdout.readline().decode().strip()
            return _report(jobs, *_run(directory, base_url))
        finally:
            server.kill()


def _run(directory: Path, base_url: str) -> tuple[list[float], float]:
    (directory / "batch.toml").write_text(
        f'[api]\nbase_url = "{base_url}"\n[task]\nactor = "bench/echo"\nname = "bench"\n[jobs]\nfile = "jobs.jsonl"\n'
        f'[output]\ndir = "out"\n[limits]\nmax_concurrent_runs = {SLOTS}\nstart_rate = 1e6\nrequest_rate = 1e6\n'
    )
    began_at = time.monotonic()
    command = [sys.executable, "-m", "batchrun", "run", str(directory / "batch.toml")]
    samples = []
    with subprocess.Popen(command, cwd=ROOT, env={"APIFY_TOKEN": "bench"}, stderr=subprocess.DEVNULL) as batch:
        process = psutil.Process(batch.pid)
        while batch.poll() is None:
            samples.append(process.memory_info().rss / 1e6)
            time.sleep(SAMPLE_INTERVAL_S)
        assert batch.returncode == 0, f"the batch ended with {batch.returncode}"
    return [sample for sample in samples if sample > 0], time.monotonic() - began_at


def _report(jobs: int, samples: list[float], elapsed_s: float) -> dict[str, Any]:
    tenth = samples[len(samples) // 10]
    figures = {
        "jobs": jobs,
        "slots": SLOTS,
        "peak_rss_mb": round(max(samples), 1),
        "rss_after_a_tenth_mb": round(tenth, 1),
        "rss_at_the_end_mb": round(samples[-1], 1),
        "elapsed_s": round(elapsed_s, 1),
        "jobs_per_s": round(jobs / elapsed_s),
    }
    for key, value in figures.items():
        print(f"{key:24} {value:>12,}")
    return figures
