import os
from pathlib import Path

import pytest

from batchrun.errors import OutputError
from batchrun.output.layout import LOCK
from batchrun.output.lock import holder, locked


def test_a_second_holder_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    """The message names the process and says what to do."""
    with locked(tmp_path), pytest.raises(OutputError) as refused, locked(tmp_path):
        pass
    assert str(refused.value) == (
        f"{tmp_path}: in use by process {os.getpid()}; wait for it, stop it, or choose another directory"
    )


def test_a_lock_ends_with_its_context(tmp_path: Path) -> None:
    """The next process gets it, also after an error inside."""
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        assert holder(tmp_path) == os.getpid()


def test_the_holder_can_be_read(tmp_path: Path) -> None:
    """None before and after, the process in between; reading changes nothing."""
    before = holder(tmp_path)
    with locked(tmp_path):
        during = [holder(tmp_path), holder(tmp_path)]
    assert (before, during, holder(tmp_path)) == (None, [os.getpid()] * 2, None)


def test_a_refused_second_holder_does_not_break_the_firsts_lock(tmp_path: Path) -> None:
    """Its attempt leaves lock and pid unchanged."""
    with locked(tmp_path):
        for _ in range(2):
            with pytest.raises(OutputError), locked(tmp_path):
                pass
        assert holder(tmp_path) == os.getpid()


def test_the_pid_of_an_earlier_holder_is_overwritten_whole(tmp_path: Path) -> None:
    """A longer pid leaves no digits behind."""
    (tmp_path / LOCK).write_text("99999999999\n")
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"


def test_a_file_called_lock_that_is_somebodys_own_is_left_alone(tmp_path: Path) -> None:
    """`--out .` or `--data .` names a directory with anything in it."""
    (tmp_path / LOCK).write_text("of the front door: 4711\n")
    with pytest.raises(OutputError, match="lock: no batchrun has written it; move it away"), locked(tmp_path):
        pass
    assert (tmp_path / LOCK).read_text() == "of the front door: 4711\n"


def test_a_directory_that_cannot_be_locked_is_explained(tmp_path: Path) -> None:
    """The error names the file."""
    with pytest.raises(OutputError, match="No such file or directory"), locked(tmp_path / "missing"):
        pass


def test_a_removed_lock_lets_nobody_in(tmp_path: Path) -> None:
    """The directory is locked, too; a new file `lock` is not the lock of the process that works there."""
    with locked(tmp_path):
        (tmp_path / LOCK).unlink()
        with pytest.raises(OutputError, match="in use by an unknown process"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_a_fifo_in_the_place_of_the_lock_is_refused(tmp_path: Path) -> None:
    """Neither who looks nor who wants the lock waits for its other end."""
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(OutputError, match="lock: it is no regular file"):
        holder(tmp_path)
    with pytest.raises(OutputError, match="lock: it is no regular file"), locked(tmp_path):
        pass
