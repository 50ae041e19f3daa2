"""What the configuration says of the job file, as the format that the source reads it by."""

from collections.abc import Sequence
from contextlib import suppress

from batchrun.config.sections import Config
from batchrun.errors import JobFileError
from batchrun.jobs import JobFormat, open_job_file
from batchrun.model import Job, JsonObject, Position


def reread_jobs(config: Config, positions: Sequence[Position]) -> dict[Position, Job]:
    """Read jobs again by their positions; those that cannot be had any more are left out."""
    found: dict[Position, Job] = {}
    with suppress(JobFileError), open_job_file(job_format(config, {})) as job_file:
        # Where positions cannot be sought, all come by one pass, as far as it goes.
        parts = [[position] for position in positions] if job_file.is_seekable else [positions]
        for part in parts:
            with suppress(JobFileError):
                found |= {job.position: job for job in job_file.reread(part)}
    return found


def job_format(config: Config, task_input: JsonObject | None = None) -> JobFormat:
    """Return how the configuration says that the job file is read."""
    jobs = config.jobs
    return JobFormat(
        path="-" if str(jobs.file) == "-" else jobs.file,
        encoding=jobs.encoding,
        delimiter=jobs.delimiter,
        template=jobs.template,
        key=jobs.key,
        group=jobs.group,
        meta=tuple(jobs.meta),
        matrix=jobs.matrix,
        constants=config.input,
        merge=jobs.merge,
        task_input=task_input,
    )
