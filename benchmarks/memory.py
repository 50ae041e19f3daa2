"""Resident memory of a batchrun process over a batch: its peak, and its growth from the first tenth to the end.

The platform is the responder, in a process of its own. 1,000,000 jobs are measured on demand: `--jobs 1000000`.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks import pictures
from benchmarks.command import running
from benchmarks.counterpart import open_responder
from benchmarks.results import Size, print_table

SAMPLE_INTERVAL_S = 0.5
SLOTS = 256
JOBS = (1_000, 100_000)
#: A batch of a million jobs is given so long.
MAX_S = 3600.0


def measure(size: Size) -> dict[str, Any]:
    """Run a batch of each length in 256 slots and return its figures."""
    cases = {jobs: _run(jobs) for jobs in ((size.jobs,) if size.jobs else JOBS)}
    figures = {f"{jobs}_jobs": _figures(jobs, samples) for jobs, samples in cases.items()}
    headings = ("jobs", "peak", "after a tenth", "at the end", "per 100,000 jobs", "jobs per s")
    rows = [(f"{jobs:,}", *list(each.values())) for jobs, each in zip(cases, figures.values(), strict=True)]
    print_table("Resident memory, MB", headings, rows)
    longest = max(cases)
    pictures.memory(cases[longest], longest)
    return {"slots": SLOTS, **figures}


def _run(jobs: int) -> list[tuple[float, float]]:
    """Return resident megabytes by seconds since the beginning."""
    samples = list[tuple[float, float]]()
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as name:
        directory = Path(name)
        with (directory / "jobs.jsonl").open("w") as file:
            file.writelines(f'{{"n": {n}}}\n' for n in range(jobs))
        began_at = time.monotonic()
        with open_responder() as responder, running(directory, responder.base_url, slots=SLOTS) as batch:
            process = psutil.Process(batch.pid)
            while batch.poll() is None:
                elapsed_s = time.monotonic() - began_at
                assert elapsed_s < MAX_S, "it takes too long"
                samples.append((elapsed_s, process.memory_info().rss / 1e6))
                time.sleep(SAMPLE_INTERVAL_S)
            assert batch.returncode == 0, f"the batch ended with {batch.returncode}"
    return [(at, mb) for at, mb in samples if mb > 0]


def _figures(jobs: int, samples: list[tuple[float, float]]) -> dict[str, Any]:
    tenth, last = samples[len(samples) // 10][1], samples[-1][1]
    return {
        "peak_rss_mb": round(max(mb for _, mb in samples), 1),
        "rss_after_a_tenth_mb": round(tenth, 1),
        "rss_at_the_end_mb": round(last, 1),
        "growth_mb_per_100k_jobs": round((last - tenth) / (0.9 * jobs) * 1e5, 1),
        "jobs_per_s": round(jobs / samples[-1][0]),
    }
