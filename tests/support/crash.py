"""Batches that are killed and run again, and the one question about them: is the truth at the server in the records?"""

import gzip
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import orjson

from tests.support.api_process import ACTOR, TOKEN
from tests.support.forked import ForkedProcess, start
from tests.support.json_lines import read_lines, to_lines
from tests.support.money import assert_costs_are_the_servers
from tests.support.patience import Constants

ROOT = Path(__file__).parents[2]
#: A single process of a batch must end in this time, or the test has found a hang.
PROCESS_LIMIT_S = 900
#: The Actor as a process, for batches that carry their server along.
EMBEDDED_ACTOR = "local/crash-worker"


@dataclass
class Api:
    """A server process on loopback; its own list of Runs is the truth."""

    base_url: str
    process: ForkedProcess
    #: Ids of Runs that are of no interest.
    earlier: frozenset[str] = frozenset()

    def fresh(self) -> "Api":
        """Return the same server, as if it had no Runs yet."""
        return Api(self.base_url, self.process, frozenset(run["id"] for run in self.runs()) | self.earlier)

    def get(self, path: str) -> Any:
        """Read JSON from the API."""
        request = Request(f"{self.base_url}/v2{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urlopen(request, timeout=30) as answer:
            return orjson.loads(answer.read())

    def runs(self) -> list[dict[str, Any]]:
        """Return every Run that was ever started."""
        found: list[dict[str, Any]] = []
        while page := self.get(f"/actor-runs?limit=1000&offset={len(found)}")["data"]["items"]:
            found += page
        return [run for run in found if run["id"] not in self.earlier]

    def items(self, run: dict[str, Any]) -> list[Any]:
        """Return a Run's dataset."""
        items: list[Any] = self.get(f"/datasets/{run['defaultDatasetId']}/items")
        return items


@contextmanager
def open_api(
    data_dir: Path, *, faults: Path | None = None, port: int = 0, usage_settle_s: float = 0.0
) -> Iterator[Api]:
    """Run a server process for as long as the context lasts; costs are final that long after a Run's end."""
    arguments = [str(data_dir), str(port), str(usage_settle_s), *([str(faults)] if faults is not None else [])]
    with start(
        "tests.support.api_process", *arguments, cwd=ROOT, environ=os.environ, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield Api(process.stdout.readline().strip(), process)
        finally:
            process.kill()


@dataclass
class CrashBatch:
    """One batch in one directory, run by as many processes as it takes."""

    directory: Path
    base_url: str
    jobs: Sequence[dict[str, Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    kills: int = 0
    #: .gz cannot be read from a position: resuming reads it from the top.
    suffix: str = ""
    #: Constants of our modules that its processes have changed.
    constants: Constants = field(default_factory=dict)
    #: Further variables in the environment of its processes.
    environ: Mapping[str, str] = field(default_factory=dict)
    #: Megabytes that each process may allocate beyond what it begins with; None: unlimited.
    spare_mb: int | None = None

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = to_lines(self.jobs)
        jobs_file = self.directory / f"jobs.jsonl{self.suffix}"
        jobs_file.write_bytes(gzip.compress(lines) if self.suffix else lines)
        settings = {
            "limits.max_concurrent_runs": 16,
            "limits.start_horizon_s": 2,
            "limits.listing_lag_s": 0.2,
            "retry.backoff_s": 0.05,
            "output.page_size": 2,
            **self.settings,
        }
        actor = EMBEDDED_ACTOR if self.base_url == "embedded" else ACTOR
        toml = [
            f'[api]\nbase_url = "{self.base_url}"',
            f'[task]\nactor = "{actor}"\nname = "crash"\noptions = {{ memory_mb = 128 }}',
            f'[jobs]\nfile = "{jobs_file.name}"',
            '[output]\ndir = "out"',
            f'[server]\nactors = ["{ROOT / "tests/support/actors/crash-worker"}"]',
        ]
        (self.directory / "batch.toml").write_text("\n".join(toml))
        self.flags = [flag for key, value in settings.items() for flag in ("--set", f"{key}={value}")]

    @property
    def out(self) -> Path:
        """The output directory."""
        return self.directory / "out"

    def spawn(self, *arguments: str, kill_at: str = "") -> ForkedProcess:
        """Start a process that works on the batch: `batchrun run`, or another command line."""
        environ = {**os.environ, **self.environ, "APIFY_TOKEN": TOKEN, "BATCHRUN_KILL_AT": kill_at}
        arguments = arguments or ("run", "batch.toml", *self.flags)
        with (self.directory / "stderr.txt").open("ab") as stderr:
            process = start(
                "batchrun",
                *arguments,
                cwd=self.directory,
                environ=environ,
                stderr=stderr,
                constants=self.constants,
            )
        if self.spare_mb is not None:
            _limit_memory(process.pid, self.spare_mb)
        return process

    def spawn_program(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program that works on the batch, in another way than `spawn` does."""
        environ = {**os.environ, "APIFY_TOKEN": TOKEN}
        with (self.directory / "stderr.txt").open("ab") as stderr:
            return subprocess.Popen(
                command,
                cwd=self.directory,
                env=environ,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                stdin=subprocess.DEVNULL,
            )

    def run(self, *, kill_at: str = "") -> int:
        """Run a process to its end and return how it ended: its exit code, or minus the signal."""
        code = self.spawn(kill_at=kill_at).wait(PROCESS_LIMIT_S)
        self.kills += code == -signal.SIGKILL
        return code

    def run_and_kill(self, after_s: float) -> int | None:
        """Kill a process after a while; return its exit code if it was done before."""
        process = self.spawn()
        try:
            return process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.kills += 1
            return None

    def run_with_kills(self, seed: int, kills: int, *, longest_s: float = 1.6) -> int:
        """Kill process after process at random instants, `kills` times at most; return the last one's exit code."""
        chance = random.Random(seed)
        while self.kills < kills:
            code = self.run_and_kill(chance.uniform(0.3, longest_s))
            if code is not None:
                return code
        return self.run()

    def records(self) -> list[dict[str, Any]]:
        """Return the records."""
        return read_lines(self.out / "records.jsonl")

    def items(self) -> list[dict[str, Any]]:
        """Return the collected items."""
        return read_lines(self.out / "items.jsonl")

    def said(self) -> str:
        """Return what all processes said on stderr."""
        return (self.directory / "stderr.txt").read_text()


def _limit_memory(pid: int, spare_mb: int) -> None:
    """Let a process allocate so much more than it has now; it may have ended meanwhile."""
    with suppress(FileNotFoundError, ProcessLookupError):
        status = Path(f"/proc/{pid}/status").read_text()
        allocated_kb = int(status.partition("VmData:")[2].split()[0])
        limit = (allocated_kb << 10) + (spare_mb << 20)
        resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


def assert_promise_kept(batch: CrashBatch, api: Api, *, are_datasets_gone: bool = False) -> None:
    """No job is lost, no Run is started twice, no record or item is written twice, no cost is missing."""
    records, runs = batch.records(), api.runs()
    by_key = {record["key"]: record for record in records}
    assert len(records) == len(by_key) == len(batch.jobs), batch.said()
    in_records = [each["run_id"] for record in records for each in record["attempts"] if each["run_id"]]
    unknown = [run for run in runs if run["id"] not in in_records]
    assert sorted(in_records) == sorted(run["id"] for run in runs), (unknown, batch.said())
    for record in records:
        started = [each for each in record["attempts"] if each["run_id"]]
        expected = 2 if batch.jobs[record["line"] - 1].get("fails") else 1
        assert len(started) == expected, (record, batch.said())
    lost = [record for record in records if not record["items"]["complete"]]
    assert bool(lost) is are_datasets_gone, batch.said()
    assert {record["outcome"] for record in lost} <= {"lost", "failed"}, lost
    assert_items_exact(batch, api, records, runs)
    assert_costs_are_the_servers(batch.out, runs)


#: Lines of a batch whose file gets half as many new ones.
MENDED_LINES = 36


def batch_with_mended_lines(directory: Path, api: Api, suffix: str = "") -> CrashBatch:
    """Return a batch that was killed, and whose file has got lines since that replace half of its lines."""
    keys = range(MENDED_LINES)
    jobs = [{"n": n, "ms": 20, "items": 1, "@key": f"k{n}", "@priority": n % 3} for n in keys]
    mending = [{"n": 100 + n, "ms": 20, "items": 1, "@key": f"k{n}", "@replaces": True} for n in keys[::2]]
    settings = {"limits.max_concurrent_runs": 2}
    batch = CrashBatch(directory, api.base_url, jobs, settings, suffix=suffix)
    assert batch.run(kill_at="settled:8") == -signal.SIGKILL, batch.said()
    return CrashBatch(directory, api.base_url, [*jobs, *mending], settings, suffix=suffix)


def assert_each_line_counts_once(batch: CrashBatch, api: Api) -> int:
    """Each job's last record is of its last line that was not refused, and was started with it; return the refused."""
    records, runs = batch.records(), api.runs()
    attempts = [each["run_id"] for record in records for each in record["attempts"] if each["run_id"]]
    assert sorted(attempts) == sorted(run["id"] for run in runs), batch.said()
    carried_out = [record["line"] for record in records if record["key"]]
    assert len(carried_out) == len(set(carried_out)), "no line is carried out twice"
    refused = [batch.jobs[record["line"] - 1]["@key"] for record in records if not record["key"]]
    assert len(refused) <= 4
    wanted = {job["@key"]: n for n, job in enumerate(batch.jobs, 1) if n <= MENDED_LINES or job["@key"] not in refused}
    assert {record["key"]: record["line"] for record in records if record["key"]} == wanted
    seen = {item["_line"]: item["of"] for item in batch.items()}
    assert seen == {line: batch.jobs[line - 1]["n"] for line in carried_out}
    assert len(batch.items()) == len(runs) <= MENDED_LINES + 12, batch.said()
    return len(refused)


def assert_items_exact(batch: CrashBatch, api: Api, records: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    """The item file holds each settled Run's dataset, whole, in order, once; of one that is gone nothing."""
    collected: dict[str, list[int]] = {}
    for item in batch.items():
        collected.setdefault(item["_run"], []).append(item["n"])
    datasets = {run["id"]: run for run in runs}
    for record in records:
        run_id = record["run"]["id"]
        stored = [item["n"] for item in api.items(datasets[run_id])] if record["items"]["complete"] else []
        assert collected.pop(run_id, []) == stored, (record["key"], batch.said())
        assert record["items"]["count"] == len(stored)
    assert collected == {}


def some_jobs(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Return jobs of different lengths, some without items, a few that fail."""
    chance = random.Random(seed)
    return [
        {"n": n, "ms": chance.choice([0, 5, 50, 200]), "items": chance.choice([0, 1, 3, 5]), "fails": n % 23 == 7}
        for n in range(count)
    ]


def wait_until(condition: Any, limit_s: float = 120.0) -> None:
    """Look at the world outside again and again until it is as it should be."""
    deadline = time.monotonic() + limit_s
    while True:
        looked_at = time.monotonic()
        if condition():
            return
        now = time.monotonic()
        assert now < deadline, "it did not come to be"
        # A look that is work, such as a command, takes a third of the time at most.
        time.sleep(max(0.02, 2 * (now - looked_at)))
