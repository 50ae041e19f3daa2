"""A job file as a source of jobs."""

from batchrun.jobs.csv_rows import CsvDialect
from batchrun.jobs.job_file import NO_JOBS, JobFile
from batchrun.jobs.job_format import JobFormat, is_job_file
from batchrun.jobs.rows import ReadPoint
from batchrun.jobs.shard import Shard

__all__ = ["NO_JOBS", "CsvDialect", "JobFile", "JobFormat", "ReadPoint", "Shard", "is_job_file"]
