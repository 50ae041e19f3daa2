"""When directories were made."""

from pathlib import Path

import pytest

from batchrun.model import TaskId
from batchrun.preflight import same_batch
from batchrun.preflight.same_batch import signed_content
from batchrun.runtime.birth_time import birth_time_ns


def test_a_directory_keeps_its_birth_time(tmp_path: Path) -> None:
    """Whatever is written into it and wherever it is moved; one that is made later is younger."""
    first = tmp_path / "first"
    first.mkdir()
    born = birth_time_ns(first)
    if not born:
        pytest.skip("this file system does not tell")
    (first / "file").write_text("x")
    moved = first.rename(tmp_path / "moved")
    assert birth_time_ns(moved) == born
    (tmp_path / "later").mkdir()
    assert birth_time_ns(tmp_path / "later") > born


def test_what_is_not_there_has_no_birth_time(tmp_path: Path) -> None:
    """As with a system that does not tell."""
    assert birth_time_ns(tmp_path / "nothing") == 0


def test_a_directory_that_was_made_later_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may give it the inode of the one that was removed."""
    contents = set()
    for born in (1, 2):
        monkeypatch.setattr(same_batch, "birth_time_ns", lambda _, born=born: born)
        contents.add(signed_content({}, TaskId("me~task"), tmp_path))
    assert len(contents) == 2
