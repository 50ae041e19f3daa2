"""A ledger that is older than the records beside it: restored from a copy, or without its `-wal` file.

Its batch must not go on. The ledger knows nothing of Runs that were paid for since: their jobs would be started again,
and their records cut off.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from batchrun.errors import LedgerError
from batchrun.ledger.sqlite.reader import LedgerReader
from batchrun.output.layout import LEDGER, RECORDS


def refuse_older_ledger(ledger: LedgerReader, directory: Path) -> None:
    """Refuse a ledger that never intended the attempts of the record lines behind its committed length.

    Such lines are normal after a crash: they were appended, and their commit did not happen. But the intent of each of
    their attempts was committed before its start request was sent.

    Raises:
        LedgerError: The ledger is older than its records; nothing was changed.
    """
    file = directory / RECORDS
    if not file.exists():
        return
    committed_bytes = ledger.output_lengths().get(RECORDS, 0)
    for key, attempt_no, run_id in _attempts_behind(file, committed_bytes):
        if not ledger.has_attempt(key, attempt_no):
            raise LedgerError(
                f"{directory / LEDGER}: is older than {RECORDS} beside it, which has Run {run_id} of job {key!r}; the"
                " ledger never started it. It was restored from a copy, or its -wal file is missing. Nothing was"
                f" started or changed. Put the newest {LEDGER} and {LEDGER}-wal back; another --out pays for all again"
            )


def _attempts_behind(file: Path, offset: int) -> Iterator[tuple[str, int, str]]:
    """Yield job key, attempt number and Run id of the attempts in record lines from an offset on."""
    with file.open("rb") as opened:
        opened.seek(offset)
        for line in opened:
            try:
                record: Any = orjson.loads(line)
                attempts = [(record["key"], each["attempt_no"], each["run_id"]) for each in record["attempts"]]
            except (ValueError, KeyError, TypeError):
                continue  # cut off, or no record
            yield from (each for each in attempts if each[2] is not None)
