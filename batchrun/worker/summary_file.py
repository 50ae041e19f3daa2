"""What a batch has come to, as a small file beside its results: for whoever put it into the spool."""

import os
from contextlib import suppress

from batchrun.files.sink import explain
from batchrun.worker.shelf import Layout
from batchrun.worker.submission import Submission


def write_summary_file(layout: Layout, submission: Submission) -> None:
    """Write a submission's summary file so that it is there whole.

    Raises:
        OutputError: the disk does not take it; nothing of it is left.
    """
    file = layout.summary_file(submission)
    beside = file.with_name(f".{file.name}.{os.getpid()}.new")
    wanted = {"id", "name", "state", "reason", "created_at", "begun_at", "ended_at", "counts"}
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as opened:
            opened.write(submission.model_dump_json(indent=2, include=wanted))
            opened.write("\n")
        beside.replace(file)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise explain(error, file) from error
