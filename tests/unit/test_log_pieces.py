"""Where the reader of a log is, while the log rotates."""

from pathlib import Path

import pytest

from batchrun.runtime import logs
from batchrun.runtime.logs import KEPT_PIECES
from batchrun.worker.http.log_pieces import LogPlace, read_on


@pytest.mark.parametrize("rotations", range(KEPT_PIECES + 3))
def test_a_reader_gets_each_line_once_however_often_a_log_has_rotated(tmp_path: Path, rotations: int) -> None:
    """What was removed meanwhile is missing, and nothing else; two bytes at a time."""
    log = tmp_path / "batch.log"
    log.write_bytes(b"0 a\n")
    found, place = read_on(log, LogPlace("", 0), 2)
    assert found == b"0 "
    written = [b"0 a\n"]
    opened = logs._File(log)
    for number in range(1, rotations + 1):
        opened._rotate()
        written.append(b"%d b\n" % number)
        opened.write(written[-1])
    opened.close()
    while True:
        piece, place = read_on(log, place, 2)
        found += piece
        if not piece:
            break
    kept = written[-KEPT_PIECES - 1 :]
    assert found == b"".join(kept if kept == written else [b"0 ", *kept])


def test_a_log_that_has_no_line_yet_has_no_piece(tmp_path: Path) -> None:
    """Its first one is found once it is there."""
    log = tmp_path / "batch.log"
    assert read_on(log, LogPlace("", 0), 9) == (b"", LogPlace("", 0))
    log.write_bytes(b"")
    assert read_on(log, LogPlace("", 0), 9) == (b"", LogPlace("", 0))
    log.write_bytes(b"a\n")
    assert read_on(log, LogPlace("", 0), 9)[0] == b"a\n"
