"""A ledger that is missing, or older than the files beside it: restored from a copy, or without its `-wal` file.

Its batch must not go on. The ledger knows nothing of Runs that were paid for since: their jobs would be started again,
and their records cut off.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from batchrun.errors import DamagedLedger, OutputError
from batchrun.ledger.sqlite.connection import is_blank
from batchrun.ledger.sqlite.reader import LedgerReader
from batchrun.ledger.sqlite.start_log import lost_commits
from batchrun.output.committed_lines import bounded_lines
from batchrun.output.layout import LEDGER, RECORDS, REPLACED, STARTS
from batchrun.output.sink import explaining
from batchrun.runtime.private_files import private_opener
from batchrun.runtime.shell_command import shell_command


def refuse_missing_ledger(directory: Path) -> None:
    """Refuse a directory without a ledger, or with an empty one, beside files of a batch or such as one would replace.

    Raises:
        DamagedLedger: The ledger was removed or emptied; nothing was changed.
        OutputError: A batch would write over files that may be somebody's own.
    """
    file, records = directory / LEDGER, directory / RECORDS
    if not is_blank(file):
        return
    has_records = records.exists() and records.stat().st_size > 0
    if has_records or lost_commits(directory, None):
        beside = RECORDS if has_records else STARTS
        what = "is empty" if file.exists() else "is missing"
        raise DamagedLedger(
            f"{file}: {what}, but {beside} beside it is of a batch that was begun. {_ways_out(directory)}"
        )
    for other in (directory / name for name in REPLACED):
        if other.is_file() or other.is_symlink():  # a directory is not written over
            raise OutputError(
                f"{other}: no ledger is beside it, and the batch would write over it; move it away, or choose another"
                " --out"
            )


def refuse_older_ledger(ledger: LedgerReader, directory: Path) -> None:
    """Refuse a ledger that has lost commits with intents.

    Two files show it: the log of starts, which counts these commits; and the record lines behind the committed length.
    Such lines are normal after a crash: they were appended, and their commit did not happen. But the intent of each of
    their attempts was committed before its start request was sent.

    Raises:
        DamagedLedger: The ledger is older than its records; nothing was changed.
    """
    ledger_file, file = directory / LEDGER, directory / RECORDS
    if lost := lost_commits(directory, ledger):
        raise DamagedLedger(
            f"{ledger_file}: is older than {STARTS} beside it, which has {lost} commits of starts that the ledger"
            f" lacks: it was restored from a copy, or its -wal file was removed. {_ways_out(directory)}"
        )
    if not file.exists():
        return
    committed_bytes = ledger.output_lengths().get(RECORDS, 0)
    for key, attempt_no, run_id in _attempts_behind(file, committed_bytes):
        if not ledger.has_attempt(key, attempt_no):
            raise DamagedLedger(
                f"{ledger_file}: is older than {RECORDS} beside it, which has Run {run_id} of job {key!r}; the ledger"
                " never started it. It was restored from a copy, or its -wal file was removed."
                f" {_ways_out(directory)}"
            )


def _ways_out(directory: Path) -> str:
    return (
        f"Nothing was started or changed. Put the newest {LEDGER} and {LEDGER}-wal back, or rebuild the ledger:"
        f" `{shell_command('batchrun', 'repair', directory)}`"
    )


def _attempts_behind(file: Path, offset: int) -> Iterator[tuple[str, int, str]]:
    """Yield job key, attempt number and Run id of the attempts in record lines from an offset on."""
    with explaining(file), open(file, "rb", opener=private_opener) as opened:
        opened.seek(offset)
        for line in bounded_lines(opened, file):
            try:
                record: Any = orjson.loads(line)
                attempts = [(record["key"], each["attempt_no"], each["run_id"]) for each in record["attempts"]]
            except (ValueError, KeyError, TypeError):
                continue  # cut off, or no record
            yield from (each for each in attempts if each[2] is not None)
