"""The summary of a batch as a small file beside its results, for programs that use the spool."""

from collections.abc import Iterable
from pathlib import Path

import orjson

from batchrun.model import JsonObject
from batchrun.output.atomic_write import replace_text
from batchrun.output.sink import explaining
from batchrun.runtime.private_files import read_private
from batchrun.worker.data_directory import DataDirectory, was_refused
from batchrun.worker.submission import BatchState, Submission

#: Fields of the file. The signature keeps a spooled file from being taken again after its batch was deleted.
_FIELDS = {"id", "name", "state", "reason", "created_at", "begun_at", "ended_at", "counts", "signature"}
#: Max bytes of such a file: a reason is the longest of its fields.
_MAX_BYTES = 1 << 20


def write_summary_file(directory: DataDirectory, submission: Submission, others: Iterable[Submission]) -> None:
    """Write a submission's summary file atomically, unless its content is unchanged.

    One that was refused before it began leaves the file to another one with the same output directory, as to `a.jsonl`
    beside `a.csv`. It replaces that of an earlier file of its own name, whose batch was deleted. `others` are all
    submissions of the store.

    Raises:
        OutputError: the file cannot be written; no part of it is left.
    """
    if was_refused(submission) and directory.rival_of(submission, others) is not None:
        return
    file = directory.summary_file(submission)
    with explaining(file):
        if not is_summary_current(directory, submission):
            replace_text(file, _text(submission))


def is_summary_current(directory: DataDirectory, submission: Submission) -> bool:
    """Return whether a submission's summary file is there, with what it should hold.

    Raises:
        OSError: it cannot be read.
    """
    file, wanted = directory.summary_file(submission), _text(submission).encode()
    return file.exists() and read_private(file, len(wanted)) == wanted


def with_old_summary(directory: DataDirectory, batches: Iterable[Submission]) -> list[Submission]:
    """Return the batches whose summary file is not as it should be. Blocks: there may be thousands."""

    def is_right(submission: Submission) -> bool:
        try:
            if submission.state.is_under_way:
                return not directory.summary_file(submission).exists()
            return is_summary_current(directory, submission)
        except OSError:
            return False

    return [each for each in batches if not is_right(each)]


def _text(submission: Submission) -> str:
    return f"{submission.model_dump_json(indent=2, include=_FIELDS)}\n"


def remove_summary_file(directory: DataDirectory, submission: Submission) -> None:
    """Remove a submission's summary file, since the batch does not rest any more.

    Raises:
        OutputError: the file cannot be removed.
    """
    file = directory.summary_file(submission)
    with explaining(file):
        file.unlink(missing_ok=True)


def has_summary(directory: DataDirectory, submission: Submission) -> bool:
    """Return whether the summary file of a spooled file says that this very file has run or was cancelled.

    It may be about an earlier file of its name. One that was refused may be put back, once its profile is mended.
    """
    summary = _read(directory.summary_file(submission))
    has_run = summary.get("state") != BatchState.FAILED or summary.get("begun_at") is not None
    return has_run and summary.get("signature") == submission.signature


def _read(file: Path) -> JsonObject:
    """Return what a summary file says; nothing, if there is none that can be read."""
    try:
        summary = orjson.loads(read_private(file, _MAX_BYTES))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}
