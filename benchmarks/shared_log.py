"""The shared log: jobs per second with each store beside none, bytes of log per job, and how long a take-over takes.

The batches are those of `throughput`, with 256 slots. "50 ms" is a directory each of whose appends takes 50 ms longer,
as a bucket's would. The log of the take-over is made through `batchrun.ledger`, without syncs: each job is admitted,
intended, bound and settled, 40 jobs to a commit, about as many as a batch with 256 slots has. The owner makes packs and
snapshots, as it does in a batch. A take-over is what an empty directory needs for its claim, once the log is silent: it
begins with the last snapshot, and replays the rest from packs. It is measured a second time without snapshots. What
follows is the opening of the batch, as `start-up` measures it.
"""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import anyio

from batchrun.ledger.facts import JOB_COUNT
from batchrun.ledger.protocol import ReadTo
from batchrun.ledger.shared_log.directory_store import DirectoryStore
from batchrun.ledger.shared_log.object_names import entry_name
from batchrun.ledger.shared_log.owned_log import OwnedLog
from batchrun.ledger.shared_log.packs import Packer
from batchrun.ledger.shared_log.snapshots import SnapshotMaker, read_snapshots
from batchrun.ledger.sqlite.journal import Journal, Step, open_journal
from batchrun.model import (
    Attempt,
    AttemptState,
    CostSource,
    DatasetId,
    Intent,
    Items,
    Job,
    JobId,
    JobKey,
    Mark,
    Outcome,
    Position,
    Record,
    Run,
    RunId,
    RunStatus,
)
from benchmarks.counterpart import Counterpart, open_responder
from benchmarks.results import Size, print_table, spread, spread_words
from benchmarks.throughput import side_of
from tests.support import log_stores
from tests.support.shared_logs import claim

JOBS = 5_000
ROUNDS = 3
SLOTS = 256
SETTLED = 1_000_000
JOBS_PER_COMMIT = 40
#: Jobs after which the owner looks whether a snapshot is due: about as many as a batch settles in ten seconds.
JOBS_PER_LOOK = 10_000
#: Entries of one step each, for the rate of a replay.
SMALL_ENTRIES = 20_000
#: Seconds that each append takes longer, as in a bucket.
BUCKET_S = 0.05
SIDES = ("none", "directory", "nats", "50 ms")


def measure(size: Size) -> dict[str, Any]:
    """Measure batches with each store in turns, then replays; takes about ten minutes."""
    rounds = size.rounds or ROUNDS
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    with (
        open_responder() as responder,
        tempfile.TemporaryDirectory(prefix="batchrun-bench-") as name,
        ExitStack() as stack,
    ):
        nats = stack.enter_context(log_stores.nats(Path(name, "nats")))
        for turn in range(rounds):
            for side in SIDES[turn % len(SIDES) :] + SIDES[: turn % len(SIDES)]:
                log = Path(name, f"{turn}-{side}")
                log.mkdir()
                url = {"none": None, "nats": nats.log(f"bench-{turn}")}.get(side, f"file://{log}")
                kept = Path(name, "nats") if side == "nats" else log
                found[side].append(_side(responder, size.jobs or JOBS, url, BUCKET_S if side == "50 ms" else 0.0, kept))
    sides = {side: {key: spread([each[key] for each in rows], 0) for key in rows[0]} for side, rows in found.items()}
    ratios = {
        side: spread([each["jobs_per_s"] / none["jobs_per_s"] for each, none in zip(rows, found["none"], strict=True)])
        for side, rows in found.items()
    }
    replay = measure_replays(size.jobs or SETTLED)
    rows = [
        (side, *(spread_words(value) for value in figures.values()), spread_words(ratios[side]))
        for side, figures in sides.items()
    ]
    headings = ("log", "jobs per s", "CPU µs per job", "log bytes per job", "jobs per s : none")
    print_table(f"With {SLOTS} slots: median (range)", headings, rows)
    print_table("Take-over and replay", ("", ""), list(replay.items()))
    return {"rounds": rounds, "slots": SLOTS, "sides": sides, "ratios": ratios, **replay}


def _side(responder: Counterpart, jobs: int, url: str | None, append_s: float, kept: Path) -> dict[str, float]:
    before = _log_bytes(kept)
    found = side_of(responder, "batchrun", SLOTS, jobs, replica=url, append_s=append_s)
    log_bytes = _log_bytes(kept) - before
    return {
        "jobs_per_s": found["jobs_per_s"],
        "cpu_us_per_job": found["cpu_us_per_job"],
        "log_bytes_per_job": log_bytes / jobs,
    }


def _log_bytes(kept: Path) -> int:
    """Return the length of all entries in a log's directory, or of the messages that a NATS server keeps."""
    return sum(file.stat().st_size for file in kept.rglob("*") if file.suffix in (".zst", ".blk"))


def measure_replays(settled: int) -> dict[str, Any]:
    """Measure the take-over of a batch with settled jobs, and the replay of entries with one step each."""
    figures: dict[str, Any] = {"settled": settled}
    # First: what a million jobs leave in this process halves its speed.
    with _unsynced_log() as (store, log, directory):
        with _not_synced():
            anyio.run(_note_often, directory, log)
            _pack(store, log)
        elapsed_s, cpu_s, replayed = _take_over(store, directory.parent / "successor")
        figures |= {
            "small_entries_per_s": round(replayed / elapsed_s),
            "small_entries_per_cpu_s": round(replayed / cpu_s),
        }
    with _unsynced_log() as (store, log, directory):
        with _not_synced():
            entries = anyio.run(_settle, directory, store, log, settled)
            _pack(store, log)
        figures |= {"entries": entries, "log_mb": round(_size(store, "log") / 1e6)}
        figures |= {"snapshots": len(read_snapshots(store)), "objects_mb": round(_size(store, "objects") / 1e6)}
        for name in ("take_over", "without_snapshots"):
            elapsed_s, cpu_s, _ = _take_over(store, directory.parent / name)
            figures |= {f"{name}_s": elapsed_s, f"{name}_cpu_us_per_job": round(cpu_s / settled * 1e6, 1)}
            for snapshot in (directory.parent / "log" / "objects").glob("snapshot-*"):
                snapshot.unlink()
    return figures


class _UnsyncedStore(DirectoryStore):
    """A directory whose entries reach the disk when the system likes: it makes logs quickly."""

    def append(self, number: int, entry: bytes) -> bool:
        (self._directory / entry_name(number)).write_bytes(entry)
        return True


@contextmanager
def _unsynced_log() -> Iterator[tuple[DirectoryStore, OwnedLog, Path]]:
    """Make an empty log; yield it with its owner and the owner's directory."""
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as name:
        directory, log = Path(name, "owner"), Path(name, "log")
        log.mkdir()
        store = _UnsyncedStore(log)
        store.prepare()
        yield store, claim(store, directory, name="owner"), directory


def _not_synced() -> AbstractContextManager[Any]:
    """Return a context in which output files reach the disk when the system likes."""
    return mock.patch.object(os, "fdatasync")


def _pack(store: DirectoryStore, log: OwnedLog) -> None:
    packer = Packer(store)
    while packer.make_next(log.last.entry + 1):
        pass


def _size(store: DirectoryStore, folder: str) -> int:
    return sum(file.stat().st_size for file in (store._directory / folder).iterdir())  # noqa: SLF001 - of its own files


def _take_over(store: DirectoryStore, directory: Path) -> tuple[float, float, int]:
    """Claim a log from an empty directory, with syncs; return the seconds, the CPU seconds, and the entries."""
    began = time.perf_counter(), time.process_time()
    log = claim(DirectoryStore(store._directory), directory, name="successor")  # noqa: SLF001 - the same one
    return time.perf_counter() - began[0], time.process_time() - began[1], log.last.entry


async def _note_often(directory: Path, log: OwnedLog) -> None:
    async with open_journal(directory, log) as journal:
        journal.ledger._db.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - benchmark only
        for count in range(SMALL_ENTRIES):
            journal.commit_group([Step(partial(journal.ledger.note_fact, JOB_COUNT, count))])


async def _settle(directory: Path, store: DirectoryStore, log: OwnedLog, jobs: int) -> int:
    """Settle jobs as a batch does, and return how many entries the log has then."""
    snapshots = SnapshotMaker(store, directory)
    async with open_journal(directory, log) as journal:
        journal.ledger._db.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - benchmark only
        for first in range(0, jobs, JOBS_PER_COMMIT):
            _settle_some(journal, range(first, min(first + JOBS_PER_COMMIT, jobs)))
            if first % JOBS_PER_LOOK == 0:
                snapshots.make_next()
    return log.last.entry + 1


def _settle_some(journal: Journal, numbers: range) -> None:
    at, ledger = datetime.now(UTC), journal.ledger
    read_to = ReadTo(offset=50 * numbers.stop, line=numbers.stop, fingerprint=bytes(32))
    admitted = Step(partial(journal.admit, [_job(n) for n in numbers], read_to))
    journal.commit_group([admitted])
    ids = {n: open_job.id for n, (_, open_job) in zip(numbers, admitted.result.jobs, strict=True)}
    intents = {n: Intent(attempt_no=1, mark=Mark(_random(n, 24)), platform_time=at) for n in numbers}
    journal.commit_group([Step(partial(journal.intend, ids[n], intents[n])) for n in numbers])
    journal.commit_group([Step(partial(ledger.bind, ids[n], 1, _run(n, at))) for n in numbers])
    journal.commit_group([Step(partial(_settle_one, journal, ids[n], n, at)) for n in numbers])


def _settle_one(journal: Journal, job_id: JobId, n: int, at: datetime) -> None:
    ended = Attempt(
        attempt_no=1,
        mark=Mark(_random(n, 24)),
        state=AttemptState.ENDED,
        status=RunStatus.SUCCEEDED,
        run_id=_run(n, at).id,
        intended_at=at,
        finished_at=at,
        cost_usd=0.0001,
        cost_source=CostSource.PLATFORM,
        cost_is_final=True,
    )
    record = Record(
        key=_job(n).key,
        line=n + 1,
        outcome=Outcome.SUCCEEDED,
        attempts=(ended,),
        run={"id": ended.run_id, "status": "SUCCEEDED", "defaultDatasetId": _random(n, 17)},
        items=Items(count=1, dataset_id=DatasetId(_random(n, 17)), is_complete=True),
        admitted_at=at,
        started_at=at,
        finished_at=at,
    )
    journal.settle(job_id, ended, record, b'{"url":"https://example.com/%d","_line":%d}\n' % (n, n + 1))


def _job(n: int) -> Job:
    position = Position(line=n + 1, variant=0, offset=50 * n, length=50)
    return Job(key=JobKey(_random(n, 32)), digest=bytes.fromhex(_random(n, 32)), position=position, body=b"{}")


def _run(n: int, at: datetime) -> Run:
    return Run(
        id=RunId(_random(-n - 1, 17)),
        status=RunStatus.SUCCEEDED,
        dataset_id=DatasetId("d"),
        store_id=None,
        started_at=at,
        finished_at=at,
        cost_usd=0.0001,
        user_agent=None,
        fields={},
    )


def _random(n: int, digits: int) -> str:
    return sha256(b"%d" % n).hexdigest()[:digits]
