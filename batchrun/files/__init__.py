"""Files on this machine: the job file as a source of jobs, and what records and items are appended to."""

from batchrun.files.format import JobFormat
from batchrun.files.rows import ReadPoint
from batchrun.files.source import JobFile, open_job_file

__all__ = ["JobFile", "JobFormat", "ReadPoint", "open_job_file"]
