from pathlib import Path

import pytest

from batchrun.errors import OutputError
from batchrun.output.held_file import HeldFile


@pytest.mark.parametrize("trouble", ["moved", "removed", "replaced"])
def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path, trouble: str) -> None:
    """The message names the file and says what to do."""
    file = tmp_path / "records.jsonl"
    file.write_bytes(b"1\n")
    held = HeldFile(file)
    with file.open("ab") as opened:
        opened.write(b"2\n")
    held.check()
    if trouble == "removed":
        file.unlink()
    else:
        file.rename(tmp_path / "records.jsonl.1")
    if trouble == "replaced":
        file.write_bytes(b"")
    with pytest.raises(OutputError, match=r"records\.jsonl: was moved, replaced or removed .* run the same command"):
        held.check()
