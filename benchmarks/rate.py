"""The rate of starts against the rate that was set, by the server's own `startedAt`, with its limits enforced."""

import json
import subprocess
import sys
import tempfile
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RATES = (50, 200, 380)
SLOTS = 256


def measure(jobs: int) -> dict[str, Any]:
    """Run a batch of up to `jobs` jobs at each rate, 30 seconds long at most; return what was reached."""
    figures: dict[str, Any] = {}
    print(f"{'set/s':>8} {'reached/s':>10} {'off by':>8} {'longest gap':>12}")
    for rate in RATES:
        times = _started_at(rate, min(jobs, 30 * rate))
        reached = (len(times) - 1) / (times[-1] - times[0])
        gap_s = max(later - first for first, later in pairwise(times))
        figures[f"reached_per_s_of_{rate}"] = round(reached, 2)
        print(f"{rate:>8} {reached:>10.2f} {reached / rate - 1:>8.2%} {gap_s * 1000:>9.0f} ms")
    return figures


def _started_at(rate: int, jobs: int) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as name:
        directory = Path(name)
        (directory / "jobs.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(jobs)))
        command = [sys.executable, "-m", "benchmarks.platform", str(directory / "api"), "--limited"]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as server:
            try:
                assert server.stdout is not None
                _run(directory, server.stdout.readline().decode().strip(), rate)
            finally:
                server.kill()
        records = [json.loads(line) for line in (directory / "out/records.jsonl").open()]
        return sorted(datetime.fromisoformat(record["run"]["startedAt"]).timestamp() for record in records)


def _run(directory: Path, base_url: str, rate: int) -> None:
    (directory / "batch.toml").write_text(
        f'[api]\nbase_url = "{base_url}"\n[task]\nactor = "bench/echo"\nname = "bench"\n[jobs]\nfile = "jobs.jsonl"\n'
        f'[output]\ndir = "out"\n[limits]\nmax_concurrent_runs = {SLOTS}\nstart_rate = {rate}\n'
    )
    command = [sys.executable, "-m", "batchrun", "run", str(directory / "batch.toml")]
    subprocess.run(command, cwd=ROOT, env={"APIFY_TOKEN": "bench"}, stderr=subprocess.DEVNULL, check=True)
