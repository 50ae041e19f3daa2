"""The time from the command to its first start request: a small job file, two of 1 GB, and 1,000,000 settled jobs.

It is the whole process that is measured, interpreter and imports included, until the responder has read the request.
The files were written just before, so that they are in the page cache. The ledger is made through `batchrun.ledger`,
without syncs, as a batch would have left it. CPU time is that of all threads of the process when its start is seen
here, up to 0.1 s later.
"""

import os
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from batchrun.config.job_format_builder import job_format
from batchrun.jobs import JobFile
from batchrun.ledger.facts import READ_TO
from batchrun.ledger.protocol import OpenJob, ReadTo, Settlement
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger
from batchrun.model import (
    Attempt,
    AttemptState,
    CostSource,
    DatasetId,
    Intent,
    Job,
    Mark,
    Outcome,
    Run,
    RunId,
    RunStatus,
)
from batchrun.output.layout import ITEMS, RECORDS
from benchmarks import pictures
from benchmarks.command import running
from benchmarks.counterpart import open_responder
from benchmarks.results import Size, print_table, spread, spread_words
from benchmarks.sides import Order, config

SLOTS = 256
ROUNDS = 5
SETTLED = 1_000_000
LARGE_LINES = 1_000_000
#: With the number and the line's end, 1,000 bytes.
PADDING = "x" * 974
PATIENCE_S = 60.0


def measure(size: Size) -> dict[str, Any]:
    """Measure the four in turns; making what they start from takes a minute or two."""
    rounds, lines, settled = size.rounds or ROUNDS, size.jobs or LARGE_LINES, size.jobs or SETTLED
    with tempfile.TemporaryDirectory(prefix="batchrun-bench-") as name:
        small, large, csv, resumed = (Path(name, each) for each in ("small_file", "large_file", "large_csv", "resumed"))
        _write_jobs(small, 1000, "")
        _write_jobs(large, lines, PADDING)
        _write_csv(csv, lines)
        _write_jobs(resumed, settled + 1000, "")
        _settle(resumed, settled)
        times = {
            each.name: [_first_start(each, None if each is not resumed else resumed / "settled") for _ in range(rounds)]
            for each in (small, large, csv, resumed)
        }
        file_gb = round((large / "jobs.jsonl").stat().st_size / 1e9, 2)
    figures: dict[str, Any] = {"rounds": rounds, "file_gb": file_gb, "settled": settled}
    for each, found in times.items():
        figures[f"{each}_s"], figures[f"{each}_cpu_s"] = (spread(values) for values in zip(*found, strict=True))
    what = {
        "small_file": "job file of 1,000 lines",
        "large_file": f"job file of {file_gb:g} GB",
        "large_csv": "the same as CSV",
        "resumed": f"{settled:,} jobs settled",
    }
    rows = [(what[each], *(spread_words(figures[f"{each}{unit}"]) for unit in ("_s", "_cpu_s"))) for each in what]
    print_table("From the command to its first start: median (range)", ("", "s", "CPU s"), rows)
    pictures.start_up(figures)
    return figures


def _write_jobs(directory: Path, lines: int, padding: str) -> None:
    directory.mkdir()
    with (directory / "jobs.jsonl").open("w") as file:
        file.writelines(f'{{"n": {n:8}, "text": "{padding}"}}\n' for n in range(lines))


def _write_csv(directory: Path, lines: int) -> None:
    directory.mkdir()
    with (directory / "jobs.csv").open("w") as file:
        file.write("n,text\n")
        file.writelines(f'{n},"{PADDING}"\n' for n in range(lines))


def _first_start(directory: Path, begun: Path | None) -> tuple[float, float]:
    """Return the time until the first start, and the CPU time of the process until it is seen, in seconds."""
    out = directory / "out"
    shutil.rmtree(out, ignore_errors=True)
    if begun is not None:
        shutil.copytree(begun, out)
    with open_responder() as responder:
        began_at = time.monotonic()
        jobs = next(file.name for file in directory.iterdir() if file.stem == "jobs")
        with running(directory, responder.base_url, slots=SLOTS, jobs=jobs) as batch:
            while (started_at := responder.stats()["first_start"]) is None:
                assert batch.poll() is None, f"the batch ended with {batch.returncode}"
                assert time.monotonic() - began_at < PATIENCE_S, "nothing was started"
                time.sleep(0.1)
            fields = Path(f"/proc/{batch.pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return float(started_at - began_at), cpu_s


def _settle(directory: Path, count: int) -> None:
    """Make the output directory of a batch that has settled the first `count` jobs of its file."""
    out = directory / "settled"
    out.mkdir()
    order = Order(side="", base_url="http://127.0.0.1", jobs=count, slots=SLOTS, directory=str(directory))
    with JobFile(job_format(config(order), {})) as job_file, open_ledger(out) as ledger:
        ledger._db.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - nothing is lost with it
        jobs = (job for job in job_file.read() if isinstance(job, Job))
        for first in range(0, count, 10_000):
            with ledger.transaction():
                for _, job in zip(range(min(10_000, count - first)), jobs, strict=False):
                    _settle_one(ledger, job)
        point = job_file.read_point
        with ledger.transaction():
            read_to = ReadTo(offset=point.offset, line=point.line, fingerprint=point.fingerprint)
            ledger.note_fact(READ_TO, read_to)
            # As long as they would be; nobody reads them.
            lengths = {RECORDS: 2_000 * count, ITEMS: 200 * count}
            ledger.note_output_lengths(lengths)
    for name, length in lengths.items():
        with (out / name).open("wb") as file:
            file.truncate(length)


def _settle_one(ledger: LedgerTables, job: Job) -> None:
    noted, at = ledger.admit(job), datetime.now(UTC)
    assert isinstance(noted, OpenJob)
    run = Run(
        id=RunId(f"r{noted.id:016}"),
        status=RunStatus.SUCCEEDED,
        dataset_id=DatasetId("d"),
        store_id=None,
        started_at=at,
        finished_at=at,
        cost_usd=0.0001,
        user_agent=None,
        fields={},
    )
    ledger.intend(noted.id, Intent(attempt_no=1, mark=Mark("0123456789abcdef01234567"), platform_time=at))
    ledger.bind(noted.id, 1, run)
    ended = Attempt(
        attempt_no=1,
        mark=Mark(""),
        state=AttemptState.ENDED,
        status=run.status,
        intended_at=at,
        finished_at=at,
        cost_usd=run.cost_usd,
        cost_source=CostSource.PLATFORM,
        cost_is_final=True,
    )
    ledger.settle(noted.id, ended, Settlement(outcome=Outcome.SUCCEEDED, items_count=1))
