import errno
import os
from pathlib import Path

import pytest

from batchrun.errors import OutputError
from batchrun.output.sink import Sink, explain


def test_a_new_file_is_made_and_empty(tmp_path: Path) -> None:
    """None of it is committed yet."""
    sink = Sink(tmp_path / "records.jsonl", None)
    assert ((tmp_path / "records.jsonl").read_bytes(), sink.length) == (b"", 0)
    sink.close()


def test_lines_reach_the_file_with_flush_and_not_before(tmp_path: Path) -> None:
    """Lines are appended in order, and the length counts flushed lines."""
    sink = Sink(tmp_path / "f", None)
    sink.write(b"one\n")
    sink.write(b"two\n")
    assert ((tmp_path / "f").read_bytes(), sink.length) == (b"", 0)
    assert (sink.flush(), (tmp_path / "f").read_bytes(), sink.length) == (True, b"one\ntwo\n", 8)
    assert (sink.flush(), sink.length) == (False, 8)
    sink.close()


def test_bytes_beyond_the_committed_length_are_cut_off(tmp_path: Path) -> None:
    """They were never committed; new lines replace them."""
    (tmp_path / "f").write_bytes(b"good\nhalf a li")
    sink = Sink(tmp_path / "f", 5)
    assert (tmp_path / "f").read_bytes() == b"good\n"
    sink.write(b"next\n")
    sink.flush()
    assert ((tmp_path / "f").read_bytes(), sink.length) == (b"good\nnext\n", 10)
    sink.close()


@pytest.mark.parametrize("left", [b"go", b""])
def test_a_file_shorter_than_committed_is_refused_and_left_alone(tmp_path: Path, left: bytes) -> None:
    """It is not padded with zeros, and the message names `repair`; a file that is gone is as if it were empty."""
    if left:
        (tmp_path / "f").write_bytes(left)
    with pytest.raises(OutputError, match=rf"{len(left)} bytes, but 5 were committed.*batchrun repair"):
        Sink(tmp_path / "f", 5)
    assert (tmp_path / "f").read_bytes() == left


def test_a_file_of_no_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A foreign file is never cut."""
    (tmp_path / "f").write_bytes(b"mine\n")
    with pytest.raises(OutputError, match="holds 5 bytes that are in no ledger"):
        Sink(tmp_path / "f", None)
    assert (tmp_path / "f").read_bytes() == b"mine\n"


def test_a_file_that_cannot_be_opened_is_explained(tmp_path: Path) -> None:
    """The error names the file."""
    (tmp_path / "f").mkdir()
    with pytest.raises(OutputError, match="f: Is a directory"):
        Sink(tmp_path / "f", None)


def test_a_partial_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may write fewer bytes than it was given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    sink = Sink(tmp_path / "f", None)
    sink.write(b"0123456789\n")
    assert (sink.flush(), sink.length, (tmp_path / "f").read_bytes()) == (True, 11, b"0123456789\n")
    sink.close()


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_lines_that_did_not_reach_the_disk_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """After a failed sync, as after a failed write, none of the lines counts."""

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    sink = Sink(tmp_path / "f", None)
    sink.write(b"line\n")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError, match="No space left on device; free some space and run the same command again"):
        sink.flush()
    monkeypatch.undo()
    sink.close()
    kept = Sink(tmp_path / "f", 0)
    assert (tmp_path / "f").read_bytes() == b""
    kept.close()


def test_other_failures_have_the_system_s_words(tmp_path: Path) -> None:
    """Advice about disk space is not added."""
    assert str(explain(OSError(errno.EACCES, "Permission denied"), Path("/x/y"))) == "/x/y: Permission denied"
