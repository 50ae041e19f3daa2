"""The list of a fleet's batches: what is read from the store is not believed beyond what a batch may name."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from batchrun.worker.fleet.fleet_list import ListedBatch
from batchrun.worker.submission import Submission


def listed(files: dict[str, list[str]], **changes: Any) -> ListedBatch:
    """Return an entry of the list."""
    given: dict[str, Any] = {"id": "shop", "batch_file": "batch.toml", "jobs_file": "jobs.csv.gz", **changes}
    submission = Submission(name="shop", created_at=datetime(2026, 1, 1, tzinfo=UTC), **given)
    return ListedBatch(submission=submission, files=files)


FILES: dict[str, list[str]] = {"batch.toml": [], "jobs.csv.gz": []}


def test_a_batch_brings_its_own_files():
    """The names are those under which a submission keeps them."""
    assert listed(FILES).files == FILES


@pytest.mark.parametrize(
    ("files", "changes"),
    [
        ({**FILES, "../token": []}, {}),
        ({**FILES, "/etc/passwd": []}, {}),
        ({**FILES, ".new": []}, {}),
        (FILES, {"jobs_file": "../../token"}),
        (FILES, {"schema_file": "/etc/passwd"}),
        (FILES, {"id": "../other"}),
        (FILES, {"profile": "shop"}),
        (FILES, {"spooled": "shop.toml"}),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(files, changes):
    """An entry of the store could otherwise write or read a file of the worker."""
    with pytest.raises(ValidationError):
        listed(files, **changes)
