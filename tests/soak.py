"""A worker that takes batches and retries for minutes while its platform misbehaves; fails when what it holds grows.

    python -m tests.soak [--minutes 10]

Every ten seconds it prints a line: RSS, open files, sockets and threads of the worker's process, batches done.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.support.crash import open_api, some_jobs, wait_until
from tests.support.fault_sets import FAULT_SETS
from tests.support.worker_process import KilledWorker

INTERVAL_S = 10.0
#: Slow enough for the places that there are, so that batches come and go: one in five starts is in doubt for seconds.
BATCH_EVERY_S = 4.0
#: Of how many batches one is carried out again, all its jobs, once it has ended.
RETRIED = 3
#: An order of the jobs of a batch that has ended.
EVERY_JOB = {"outcomes": ["succeeded", "failed"]}
SETTINGS = "[limits]\nstart_horizon_s = 2\nlisting_lag_s = 0.2\n[retry]\nbackoff_s = 0.05\n"
#: What the last third may hold more than the second: caches fill, and a thread or connection may be at work or not.
MOST_GROWTH = {"rss_mb": 8.0, "fds": 10.0, "sockets": 10.0, "threads": 5.0}


class Sample(NamedTuple):
    """What a process holds."""

    rss_mb: float
    #: Open files, without those of the batches that are open: how many these are just now says nothing.
    fds: int
    sockets: int
    threads: int


def look_at(pid: int) -> Sample:
    """Read what a process holds now."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    links = [_link(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
    sockets = sum(each.startswith("socket:") for each in links)
    fds = sum("/spool/" not in each for each in links)
    return Sample(int(status["VmRSS"].split()[0]) / 1024, fds, sockets, int(status["Threads"]))


def open_in_spool(pid: int) -> int:
    """Return how many files of batches a process has open, without logs, of which a bounded number stays open."""
    links = [_link(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
    return sum("/spool/" in each and not each.endswith("/batch.log") for each in links)


def _link(file: Path) -> str:
    try:
        return str(file.readlink())
    except FileNotFoundError:
        return ""  # closed since


def growth(samples: list[Sample]) -> dict[str, float]:
    """Return by how much each number is larger in the last third than in the second, by its median."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[2 * third :]
    return {
        name: median(each[at] for each in last) - median(each[at] for each in middle)
        for at, name in enumerate(Sample._fields)
    }


def soak(directory: Path, minutes: float) -> bool:
    """Let a worker work for so long; return whether it held as much at the end as in the middle."""
    faults = directory / "faults.toml"
    faults.write_text(f"seed = 1\n{FAULT_SETS['a bad network']}")
    chance = random.Random(1)
    with open_api(directory / "api", faults=faults) as api:
        worker = KilledWorker(directory / "data", api.base_url, "[limits]\nmax_concurrent_runs = 24\n")
        try:
            worker.start()
            samples = _watch(worker, chance, minutes * 60)
            wait_until(lambda: worker.is_done, 180)
            retried = list(worker.jobs)[::RETRIED]
            for name in retried:
                worker.retry(name, EVERY_JOB, key="once")
            wait_until(lambda: all(_has_two_rounds(worker, name) for name in retried), 180)
            pid = worker.process.pid
            wait_until(lambda: not open_in_spool(pid), 30)  # whatever is still open then is leaked
            assert worker.stop() == 0, worker.said()
        finally:
            worker.end()
    done = sum(worker.summary(name) is not None for name in worker.jobs)
    grown = growth(samples)
    print(f"{done} of {len(worker.jobs)} batches done, {len(retried)} of them twice; growth: {grown}")
    too_much = [name for name, most in MOST_GROWTH.items() if grown[name] > most]
    if too_much:
        print(f"grows: {', '.join(too_much)}")
    return not too_much


def _has_two_rounds(worker: KilledWorker, name: str) -> bool:
    return worker.records_file(name).read_bytes().count(b"\n") == 2 * len(worker.jobs[name])


def _watch(worker: KilledWorker, chance: random.Random, length_s: float) -> list[Sample]:
    samples, to_retry = list[Sample](), list[str]()
    began_at = time.monotonic()
    next_batch_s = next_look_s = 0.0
    print("   s   RSS MB   fds  sockets  threads  batches")
    while (now_s := time.monotonic() - began_at) < length_s:
        assert worker.process.poll() is None, worker.said()
        if now_s >= next_batch_s:
            next_batch_s += BATCH_EVERY_S
            name = f"batch-{len(worker.jobs)}"
            worker.put_batch(name, some_jobs(chance.randint(1, 20), len(worker.jobs)), SETTINGS)
            to_retry += [name] if (len(worker.jobs) - 1) % RETRIED == 0 else []
        if to_retry and worker.summary(to_retry[0]) is not None:
            worker.retry(to_retry.pop(0), EVERY_JOB, key="once")
        if now_s >= next_look_s:
            next_look_s += INTERVAL_S
            sample = look_at(worker.process.pid)
            samples.append(sample)
            numbers = f"{sample.rss_mb:8.1f} {sample.fds:5} {sample.sockets:8} {sample.threads:8}"
            print(f"{now_s:4.0f} {numbers} {len(worker.jobs):8}", flush=True)
        time.sleep(0.1)
    return samples


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    with tempfile.TemporaryDirectory(prefix=f"soak-{os.getpid()}-") as made:
        sys.exit(0 if soak(Path(made), parser.parse_args().minutes) else 1)
