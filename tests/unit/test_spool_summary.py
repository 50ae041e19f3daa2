"""The summary of a batch beside its results, where others may put a file."""

import os
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.spool_summary import has_summary, is_summary_current, write_summary_file
from batchrun.worker.submission import Submission


def test_a_file_that_says_it_has_terabytes_is_no_summary(tmp_path: Path) -> None:
    """It takes no room on the disk; read whole, it would end the worker, at each start."""
    directory = DataDirectory(tmp_path)
    directory.make()
    batch = Submission(
        id="b", name="b", created_at=datetime.now(UTC), spooled=PurePosixPath("b.toml"), signature="signature"
    )
    write_summary_file(directory, batch)
    assert (has_summary(directory, batch), is_summary_current(directory, batch)) == (True, True)
    os.truncate(directory.summary_file(batch), 1 << 40)
    assert (has_summary(directory, batch), is_summary_current(directory, batch)) == (False, False)
    write_summary_file(directory, batch)
    assert (has_summary(directory, batch), is_summary_current(directory, batch)) == (True, True)
