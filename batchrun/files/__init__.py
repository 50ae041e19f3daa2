"""Files on this machine: the job file as a source of jobs, and what records and items are appended to."""

from batchrun.files.format import JobFormat, is_job_file
from batchrun.files.rows import ReadPoint
from batchrun.files.source import JobFile, open_job_file

__all__ = ["JobFile", "JobFormat", "ReadPoint", "is_job_file", "open_job_file"]
