"""The comparison of a machine's job file with the copy that the shared log has."""

import os

import pytest

from batchrun import load_config
from batchrun.batch.shared_job_file import JobFileComparison
from batchrun.errors import JobFileError


def test_only_what_the_copy_has_gained_is_compared_again(tmp_path):
    """A file of many GB is read once per opening, unless it has changed meanwhile: then all of it is compared."""
    jobs, copy = tmp_path / "jobs.jsonl", tmp_path / "out" / "job-file"
    copy.parent.mkdir()
    jobs.write_bytes(b'{"n":1}\n{"n":2}\n')
    copy.write_bytes(b'{"n":1}\n')
    flags = {"jobs.file": str(jobs), "output.dir": str(copy.parent), "task.id": "t", "replica.url": "file:///log"}
    comparison = JobFileComparison(load_config(flags=flags, environ={}))
    comparison.refuse_other()
    copy.write_bytes(b'{"n":9}\n{"n":2}\n')  # the first line is not looked at any more
    comparison.refuse_other()
    copy.write_bytes(b'{"n":9}\n{"n":2}\n{"n":3}\n')
    with pytest.raises(JobFileError, match="differ from byte 16 on"):
        comparison.refuse_other()
    os.utime(jobs, ns=(0, 0))
    with pytest.raises(JobFileError, match="differ from byte 5 on"):
        comparison.refuse_other()
