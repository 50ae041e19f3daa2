"""Going on with a batch that an earlier process began: is it the same one, and what did it leave open."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from batchrun.config import Config
from batchrun.engine.attempt import Postponed, Work
from batchrun.errors import ConfigError, JobFileError
from batchrun.files import JobFile
from batchrun.ledger.commit import Journal
from batchrun.ledger.ledger import Ledger
from batchrun.ledger.rows import OpenJob
from batchrun.model import AttemptState, Job
from batchrun.platform import Task

#: The ledger's fact that tells one batch from another.
IDENTITY = "identity"
TASK_ID = "task_id"


#: The ledger's fact that holds the configuration the batch was last opened with.
CONFIG = "config"


def check_identity(ledger: Ledger, config: Config, task: Task) -> None:
    """See that the batch is what was noted of it, and note what it is now; limits, rates and retries may change.

    Raises:
        ConfigError: the ledger would lie; every difference is named.
    """
    # As JSON gives it back: a date in the TOML is text by then.
    identity = orjson.loads(orjson.dumps(_identity(config, task)))
    noted = ledger.fact(IDENTITY)
    differences = [
        f"\n  {name}: begun with {noted.get(name)!r}, now {value!r}"
        for name, value in identity.items()
        if noted is not None and not ledger.is_empty and noted.get(name) != value
    ]
    if differences:
        raise ConfigError(
            f"{config.out_dir}: holds another batch:{''.join(differences)}\n"
            "Put that back to go on with it, or choose another --out to begin anew"
        )
    with ledger.transaction():
        ledger.note_fact(IDENTITY, identity)
        ledger.note_fact(TASK_ID, task.id)
        ledger.note_fact(CONFIG, config.as_noted())


def _identity(config: Config, task: Task) -> dict[str, Any]:
    """Return what makes a job's key, content and Run what they are."""
    jobs = config.jobs
    return {
        "task": task.id,
        "jobs.file": jobs.file.name,
        "jobs.encoding": jobs.encoding,
        "jobs.delimiter": jobs.delimiter,
        "jobs.key": jobs.key,
        "jobs.group": jobs.group,
        "jobs.meta": jobs.meta,
        "jobs.template": jobs.template,
        "jobs.matrix": jobs.matrix,
        "jobs.merge": jobs.merge,
        "input": config.input,
    }


def take_up(journal: Journal, job_file: JobFile, max_wait_s: float) -> list[Work | Postponed]:
    """Return the open jobs of earlier processes, those first that may have a live Run.

    Where the job file cannot be read from a position, the journal hands them out as their lines come along.

    Raises:
        JobFileError: a line that was admitted is another now.
    """
    open_jobs = journal.ledger.open_jobs()
    if not job_file.is_seekable:
        journal.await_lines(open_jobs)
        return []
    open_jobs.sort(key=_is_idle)
    jobs = job_file.reread([open_job.place for open_job in open_jobs])
    return [_resumed(job, open_job, max_wait_s) for job, open_job in zip(jobs, open_jobs, strict=True)]


def _resumed(job: Job, open_job: OpenJob, max_wait_s: float) -> Work | Postponed:
    work = Work(job=job, open=open_job, attempts=open_job.attempts)
    if open_job.due_at is None or not _is_idle(open_job):
        return work
    # A clock that was set back must not make it wait longer than it ever would have.
    wait_s = min(max_wait_s, (open_job.due_at - datetime.now(UTC)).total_seconds())
    return Postponed(work, wait_s) if wait_s > 0 else work


def check_all_came(journal: Journal, job_file: Path) -> None:
    """See that every open job's line has come again, where the file was read from the top.

    Raises:
        JobFileError: some did not; what they are and have started stays noted.
    """
    if journal.awaited:
        lines = sorted(open_job.place.line for open_job in journal.awaited.values())
        shown = ", ".join(str(line) for line in lines[:10]) + (" …" if len(lines) > 10 else "")
        raise JobFileError(
            f"the lines of {len(lines)} jobs under way did not come again (lines {shown}); give the whole input"
            " once more, as it was",
            file=job_file,
        )


def _is_idle(open_job: OpenJob) -> bool:
    return not open_job.attempts or open_job.attempts[-1].state is AttemptState.ENDED
