"""Whether a batch has kept its promise: its records beside its ledger, and its starts beside the platform's Runs.

Nothing is started, aborted or written. That no Run stands in two attempts, the ledger's own index ensures.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path

import anyio
import orjson

from batchrun.account.connect import open_platform, read_account
from batchrun.account.connected_task import refuse_other_account
from batchrun.apify.user_agent import mark_of
from batchrun.config import ApiConfig, ServerConfig
from batchrun.engine.doubt.second_runs import MAX_READ, repeats
from batchrun.errors import ConfigError
from batchrun.ledger.facts import ACCOUNT, TASK_ID
from batchrun.ledger.protocol import MarkedAttempt
from batchrun.ledger.sqlite.reader import LedgerReader, open_for_reading
from batchrun.maintenance.idle_batch import unknown_runs
from batchrun.maintenance.noted_config import read_own_config
from batchrun.model import JobId, JobKey, Mark, RunId, TaskId
from batchrun.output.committed_lines import committed_lines
from batchrun.output.layout import RECORDS
from batchrun.runtime.fast_dataclasses import dataclass

#: Requests per second: a batch beside this may need the others.
_REQUESTS_PER_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedRecords:
    """The committed lines of records.jsonl beside the ledger; a retried job has a record for each round."""

    #: Records that there must be: of settled jobs and of bad lines.
    settled: int
    #: Those that have one line.
    right: int
    #: Lines of those that have more than one, without the first.
    doubled: int
    #: Lines that are no record of a settled job.
    unknown: int
    open_jobs: int
    in_doubt: int
    #: Runs that repeated a start, and were aborted.
    second_runs: int

    @property
    def missing(self) -> int:
        """Records that have no line."""
        return self.settled - self.right


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondRun:
    """A Run that repeats the start of an attempt, and that the ledger does not know."""

    run_id: RunId
    status: str
    job_key: JobKey
    #: The Run that the attempt has; None: it has ended without any.
    kept: RunId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedRuns:
    """The task's Runs since the batch's first start, as the platform lists them."""

    second_runs: list[SecondRun]
    #: Runs of others.
    others: int
    #: Runs that the platform lists and does not show: most likely, they are too new.
    unreadable: int
    #: False if there were more of them than are read.
    is_complete: bool


def audit_records(directory: Path) -> AuditedRecords:
    """Compare the records with the ledger, as they are at one moment; takes seconds for a million jobs.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with open_for_reading(directory) as ledger, ledger.snapshot():
        totals = ledger.totals()
        right, doubled, unknown = _compare(ledger, directory / RECORDS, ledger.output_lengths().get(RECORDS, 0))
        return AuditedRecords(
            settled=sum(ledger.count_outcomes().values()) + totals.earlier_records,
            right=right,
            doubled=doubled,
            unknown=unknown,
            open_jobs=totals.open_jobs,
            in_doubt=totals.in_doubt,
            second_runs=totals.second_runs,
        )


def _compare(ledger: LedgerReader, file: Path, end: int) -> tuple[int, int, int]:
    """Return how many lines are a job's record, repeat one, and are none."""
    #: Ids of the jobs that have a line, by round. What they take is bounded by the lines, whatever the ledger says.
    seen: dict[int, set[JobId]] = {}
    doubled = unknown = 0
    for line in committed_lines(file, end):
        if (job := _job_of(ledger, line)) is None:
            unknown += 1
            continue
        job_id, number = job
        jobs = seen.setdefault(number, set())
        doubled += job_id in jobs
        jobs.add(job_id)
    return sum(map(len, seen.values())), doubled, unknown


def _job_of(ledger: LedgerReader, line: bytes) -> tuple[JobId, int] | None:
    """Return the settled job that a line is the record of, and its round; None: there is none."""
    try:
        record = orjson.loads(line)
        number = record["round"]
        job_id = ledger.settled_id(record["key"], record["line"], number)
    except (ValueError, KeyError, TypeError):
        return None
    return None if job_id is None else (job_id, number)


async def audit_runs(directory: Path, environ: Mapping[str, str], api_url: str | None) -> AuditedRuns:
    """Look for Runs of the batch's task that repeat its starts.

    Args:
        directory: of the batch.
        environ: holds the token.
        api_url: of the API; None: the batch's own.

    Raises:
        ConfigError: it is not known which platform may have the token, or an embedded server has gone with the batch.
        BatchRefused: the platform does not accept the token, or it is of another account.
    """
    api = await anyio.to_thread.run_sync(_platform_of, directory, api_url)
    first, task_id, begun_in = await anyio.to_thread.run_sync(_starts_of, directory)
    if first is None:
        return AuditedRuns(second_runs=[], others=0, unreadable=0, is_complete=True)
    platform = open_platform(
        api, environ=environ, request_rate_per_s=_REQUESTS_PER_S, server=ServerConfig(), server_dir=directory,
        inline_actors={},
    )  # fmt: skip
    async with platform as (client, _):
        refuse_other_account(begun_in, await read_account(client))
        listing = await unknown_runs(directory, client, task_id, first, MAX_READ)
        marks = {run.id: mark for run in listing.runs if (mark := mark_of(run.user_agent)) is not None}
        owners = await anyio.to_thread.run_sync(_attempts_marked, directory, list(marks.values()))
    second_runs = [
        SecondRun(run_id=run.id, status=str(run.status), job_key=owner.job_key, kept=owner.run_id)
        for run in listing.runs
        if (owner := owners.get(marks.get(run.id, Mark("")))) is not None and repeats(run, owner)
    ]
    return AuditedRuns(
        second_runs=second_runs,
        others=sum(marks.get(run.id) not in owners for run in listing.runs),
        unreadable=len(listing.unreadable),
        is_complete=listing.is_complete,
    )


def _platform_of(directory: Path, api_url: str | None) -> ApiConfig:
    api = ApiConfig(base_url=api_url) if api_url is not None else read_own_config(directory)[0].api
    if api.is_embedded:
        raise ConfigError(f"{directory}: its platform was embedded, and runs only while the batch does")
    return api


def _starts_of(directory: Path) -> tuple[datetime | None, TaskId, str | None]:
    with open_for_reading(directory) as ledger:
        return ledger.first_start(), ledger.fact(TASK_ID) or TaskId(""), ledger.fact(ACCOUNT)


def _attempts_marked(directory: Path, marks: Collection[Mark]) -> dict[Mark, MarkedAttempt]:
    with open_for_reading(directory) as ledger:
        return ledger.attempts_marked(marks)
