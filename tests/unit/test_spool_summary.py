"""The summary of a batch beside its results, where others may put a file."""

import os
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.spool_summary import has_summary, is_summary_current, write_summary_file
from batchrun.worker.submission import BatchState, Submission


def test_a_file_that_says_it_has_terabytes_is_no_summary(tmp_path: Path) -> None:
    """It takes no room on the disk; read whole, it would end the worker, at each start."""
    directory = DataDirectory(tmp_path)
    directory.make()
    batch = Submission(
        id="b", name="b", created_at=datetime.now(UTC), spooled=PurePosixPath("b.toml"), signature="signature"
    )
    write_summary_file(directory, batch, [])
    assert (has_summary(directory, batch), is_summary_current(directory, batch)) == (True, True)
    os.truncate(directory.summary_file(batch), 1 << 40)
    assert (has_summary(directory, batch), is_summary_current(directory, batch)) == (False, False)
    write_summary_file(directory, batch, [])
    assert (has_summary(directory, batch), is_summary_current(directory, batch)) == (True, True)


def test_a_refused_file_leaves_the_summary_to_the_one_whose_results_lie_there(tmp_path: Path) -> None:
    """A program would take the failure of `a.csv` for the end of `a.jsonl`, which runs."""
    directory = DataDirectory(tmp_path)
    directory.make()
    running = Submission(
        id="a", name="a", created_at=datetime.now(UTC), spooled=PurePosixPath("shop/a.jsonl"), state=BatchState.ACTIVE
    )
    refused = running.but(id="b", spooled=PurePosixPath("shop/a.csv"), state=BatchState.FAILED)
    write_summary_file(directory, refused, [running, refused])
    assert not directory.summary_file(refused).exists()
