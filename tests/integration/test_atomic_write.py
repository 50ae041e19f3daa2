import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from batchrun.output.atomic_write import replace_file, replace_text


def test_what_killed_processes_left_is_removed(blockbuster: BlockBuster, tmp_path: Path) -> None:
    """The files of live processes and of other names stay."""
    blockbuster.deactivate()
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead = tmp_path / f".report[1].html.{process.pid}.new"
    kept = [tmp_path / name for name in (f".report[1].html.{os.getppid()}.new", f".report1.html.{process.pid}.new")]
    for file in (dead, *kept):
        file.write_bytes(b"")
    replace_text(tmp_path / "report[1].html", "page")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "report[1].html", *kept])


def test_a_file_that_is_replaced_twice_at_once_is_whole(blockbuster: BlockBuster, tmp_path: Path) -> None:
    """Several readers of a batch's costs may ask at the same time."""
    blockbuster.deactivate()
    file = tmp_path / "costs.jsonl"

    def slow() -> Iterator[bytes]:
        yield b"first "
        replace_file(file, [b"second"])
        assert file.read_bytes() == b"second"
        yield b"and last"

    replace_file(file, slow())
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("costs.jsonl", b"first and last")]


def test_a_file_that_a_person_wants_replaced_keeps_its_mode(blockbuster: BlockBuster, tmp_path: Path) -> None:
    """He may have closed it to others."""
    blockbuster.deactivate()
    (tmp_path / "shop.csv").touch(0o600)
    for name in ("shop.csv", "new.csv"):
        replace_text(tmp_path / name, "records", is_private=False)
    (tmp_path / "umask").touch()
    modes = [(tmp_path / name).stat().st_mode & 0o777 for name in ("shop.csv", "new.csv", "umask")]
    assert modes == [0o600, modes[2], modes[2]]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_no_file_has_the_mode_that_another_user_has_chosen(blockbuster: BlockBuster, tmp_path: Path) -> None:
    """He who may write to the directory would read what is written there, and write into it."""
    blockbuster.deactivate()
    file = tmp_path / "shop.csv"
    file.touch()
    file.chmod(0o666)
    os.chown(file, 54321, 54321)
    replace_text(file, "records", is_private=False)
    assert (file.stat().st_uid, file.stat().st_mode & 0o002) == (0, 0)
