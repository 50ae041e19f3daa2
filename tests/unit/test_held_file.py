import os
from pathlib import Path

import pytest

from batchrun.output.held_file import HeldFile


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("moved", "was moved to {where}/records.jsonl.1"),
        ("replaced", "was moved to {where}/records.jsonl.1"),
        ("removed", "was moved or removed"),
        ("overwritten", "was replaced by another file"),
    ],
)
def test_a_path_that_leads_elsewhere_is_noticed(tmp_path: Path, trouble: str, said: str) -> None:
    """It is said where the file lies now, if that is known."""
    file = tmp_path / "records.jsonl"
    file.write_bytes(b"1\n")
    held = HeldFile(file)
    with file.open("ab") as opened:
        opened.write(b"2\n")
        assert held.loss() is None
        if trouble == "removed":
            file.unlink()
        elif trouble == "overwritten":
            (tmp_path / "new").write_bytes(b"")
            (tmp_path / "new").rename(file)
        else:
            file.rename(tmp_path / "records.jsonl.1")
        if trouble == "replaced":
            file.write_bytes(b"")
        assert held.loss() == f"{file}: {said.format(where=tmp_path)} while this batch used it"


@pytest.mark.parametrize("moved", [True, False])
def test_a_directory_that_was_moved_is_found(tmp_path: Path, moved: bool) -> None:
    """Also when another one took its place; of a removed one it is said that it is gone."""
    directory = tmp_path / "out"
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY)
    try:
        held = HeldFile(directory, fd)
        if moved:
            directory.rename(tmp_path / "away")
            directory.mkdir()
        else:
            directory.rmdir()
        said = f"was moved to {tmp_path}/away" if moved else "was moved or removed"
        assert held.loss() == f"{directory}: {said} while this batch used it"
    finally:
        os.close(fd)
