"""What a batch has come to, as a small file beside its results: for whoever put it into the spool."""

import orjson

from batchrun.output.replacement import replace_text
from batchrun.output.sink import explain
from batchrun.worker.submission import Submission
from batchrun.worker.submission_store import Layout

#: With what tells the spooled file from others, so that one that is done is not taken again when it is forgotten here.
_WANTED = {"id", "name", "state", "reason", "created_at", "begun_at", "ended_at", "counts", "signature"}


def write_summary_file(layout: Layout, submission: Submission) -> None:
    """Write a submission's summary file so that it is there whole; one that says the same stays as it is.

    Raises:
        OutputError: the disk does not take it; nothing of it is left.
    """
    file = layout.summary_file(submission)
    text = f"{submission.model_dump_json(indent=2, include=_WANTED)}\n"
    try:
        if file.exists() and file.read_text("utf-8") == text:
            return
    except OSError as error:
        raise explain(error, file) from error
    replace_text(file, text)


def is_summed_up(layout: Layout, submission: Submission) -> bool:
    """Whether the summary file beside a spooled file is about this very file."""
    try:
        noted = orjson.loads(layout.summary_file(submission).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(noted, dict) and noted.get("signature") == submission.signature
