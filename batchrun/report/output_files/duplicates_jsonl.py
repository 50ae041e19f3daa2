"""duplicates.jsonl: the lines of the job file that repeat the job of another line, so that each row can be joined.

It is derived from the ledger and replaced whole.
"""

from pathlib import Path

from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.model import json_line
from batchrun.output.atomic_write import replace_file
from batchrun.output.layout import DUPLICATES


def write_duplicates(directory: Path) -> None:
    """Write the lines, in their order, each with its key and the line that it repeats; no file if there are none.

    Raises:
        OutputError: the file cannot be written; the old one is unchanged.
        LedgerError: there is no ledger, or it is damaged.
    """
    with open_for_reading(directory) as ledger, ledger.snapshot():
        if next(ledger.duplicates(), None) is not None:
            replace_file(directory / DUPLICATES, (json_line(each) for each in ledger.duplicates()))
