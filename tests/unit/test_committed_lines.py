"""Lines of output files, where others may have put a file that is one endless line."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from batchrun.errors import OutputError
from batchrun.ledger.sqlite.restored_ledger import _attempts_behind
from batchrun.ledger.sqlite.start_log import read_start_log
from batchrun.maintenance.ledger_rebuild import _records
from batchrun.output import committed_lines
from batchrun.output.atomic_write import Replacement
from batchrun.output.layout import RECORDS, STARTS

MAX_BYTES = 1000


def _old_lines(file: Path) -> Iterable[bytes]:
    replacement = Replacement(file)
    try:
        return list(replacement.old_lines())
    finally:
        replacement.discard()


#: How each reader reads the lines of a file.
_READERS: dict[str, tuple[str, Callable[[Path], Iterable[Any]]]] = {
    "committed": (RECORDS, lambda file: committed_lines.committed_lines(file, file.stat().st_size)),
    "starts": (STARTS, lambda file: read_start_log(file.parent)),
    "behind": (RECORDS, lambda file: _attempts_behind(file, 0)),
    "rebuild": (RECORDS, _records),
    "repair": (RECORDS, _old_lines),
}


@pytest.mark.parametrize("reader", _READERS)
def test_a_line_that_no_batch_writes_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str
) -> None:
    """It could have terabytes and take no room on the disk."""
    monkeypatch.setattr(committed_lines, "MAX_LINE_BYTES", MAX_BYTES)
    name, lines = _READERS[reader]
    (tmp_path / name).write_bytes(bytes(MAX_BYTES))
    with pytest.raises(OutputError, match=r"has a line of 1,000 bytes or more, which no batch writes"):
        list(lines(tmp_path / name))
    (tmp_path / name).write_bytes(bytes(MAX_BYTES - 1))
    list(lines(tmp_path / name))
