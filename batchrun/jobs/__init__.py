"""Files on this machine: the job file as a source of jobs, and what records and items are appended to."""

from batchrun.jobs.job_file import JobFile, open_job_file
from batchrun.jobs.job_format import JobFormat, is_job_file
from batchrun.jobs.rows import ReadPoint

__all__ = ["JobFile", "JobFormat", "ReadPoint", "is_job_file", "open_job_file"]
