"""The job format that a configuration describes."""

import os
from pathlib import Path

from batchrun.config.batch_config import Config
from batchrun.jobs import JobFormat, Shard
from batchrun.model import JsonObject
from batchrun.output.layout import JOB_FILE


def job_format(config: Config, task_input: JsonObject | None = None) -> JobFormat:
    """Return how the job file of a configuration is read; a deep merge needs the task's input."""
    jobs = config.jobs
    return JobFormat(
        path="-" if str(jobs.file) == "-" else jobs.file,
        copy=_copy(config),
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
        max_window_bytes=jobs.max_window_mb << 20,
    )


def shard_of(config: Config) -> Shard:
    """Return the part of the job file that a configuration carries out."""
    return Shard() if config.jobs.shard is None else Shard(*config.jobs.shard)


def is_here(config: Config) -> bool:
    """True if this machine can read the job file; False: it needs a copy."""
    return str(config.jobs.file) == "-" or os.access(config.jobs.file, os.R_OK)


def _copy(config: Config) -> Path | None:
    """Return the shared log's copy of the job file if this machine has the copy only; a link there is none."""
    if config.replica.url is None or is_here(config):
        return None
    copy = config.out_dir / JOB_FILE
    return copy if copy.is_file() and not copy.is_symlink() and copy.stat().st_size else None
