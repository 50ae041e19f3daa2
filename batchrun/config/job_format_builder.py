"""The job format that a configuration describes."""

from batchrun.config.batch_settings import Config
from batchrun.jobs import JobFormat
from batchrun.model import JsonObject


def job_format(config: Config, task_input: JsonObject | None = None) -> JobFormat:
    """Return how the job file of a configuration is read; a deep merge needs the task's input."""
    jobs = config.jobs
    return JobFormat(
        path="-" if str(jobs.file) == "-" else jobs.file,
        rows=jobs.format,
        encoding=jobs.encoding,
        delimiter=jobs.delimiter,
        quote=jobs.quote,
        empty=frozenset(jobs.empty),
        trim=jobs.trim is not False,
        template=jobs.template,
        key=jobs.key,
        group=jobs.group,
        meta=tuple(jobs.meta),
        matrix=jobs.matrix,
        constants=config.input,
        merge=jobs.merge,
        task_input=task_input,
    )
