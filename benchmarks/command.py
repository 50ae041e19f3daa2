"""`batchrun run` as a process of its own, against a responder, as far as several benchmarks need it."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.counterpart import ROOT, cores, on_core
from benchmarks.sides import TASK, TOKEN


@contextmanager
def running(
    directory: Path,
    base_url: str,
    *,
    slots: int,
    jobs: str = "jobs.jsonl",
    start_rate: float = 1e6,
    environ: Mapping[str, str] | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the batch of a directory (its job file, out) on the core of who is measured; killed when the block ends."""
    (directory / "batch.toml").write_text(
        f'[api]\nbase_url = "{base_url}"\n[task]\nid = "{TASK}"\n[jobs]\nfile = "{jobs}"\n'
        f'[output]\ndir = "out"\n[limits]\nmax_concurrent_runs = {slots}\n'
        f"start_rate = {start_rate}\nrequest_rate = 1e6\n"
    )
    command = [sys.executable, "-m", "batchrun", "run", str(directory / "batch.toml")]
    given = {"APIFY_TOKEN": TOKEN, **(environ or {})}
    if "PYTHONPATH" in os.environ:
        given["PYTHONPATH"] = os.environ["PYTHONPATH"]
    with on_core(cores()[1]):
        batch = subprocess.Popen(command, cwd=ROOT, env=given, stderr=subprocess.DEVNULL)
    try:
        yield batch
    finally:
        batch.kill()
        batch.wait()
