"""The job file of a batch with a shared log: machines that do not have it read the log's copy."""

import os
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from io import BufferedReader

import anyio

from batchrun.config import Config
from batchrun.config.job_format_builder import is_here, job_format
from batchrun.errors import JobFileError
from batchrun.jobs.text_source import QUIET_S, TextSource, find_text, read_errors_named
from batchrun.ledger.facts import JOB_FILE_IS_COPIED
from batchrun.ledger.sqlite.job_file_copy import JobFileCopy
from batchrun.ledger.sqlite.journal import Journal, Step
from batchrun.ledger.sqlite.tables import LedgerTables
from batchrun.output.layout import JOB_FILE
from batchrun.output.sink import Sink
from batchrun.runtime.private_files import input_opener, private_opener

#: Seconds between two reports of a copy that takes long.
REPORT_EVERY_S = 5.0
_BLOCK_BYTES = 1 << 20


def open_job_copy(config: Config, sink: Sink) -> JobFileCopy:
    """Open the job file, and its copy for machines without it.

    Raises:
        JobFileError, OutputError: It cannot be read.
    """
    wanted = job_format(config, {})
    text = find_text(wanted)
    has_lines = text.is_seekable and wanted.kind != "json"
    return JobFileCopy(config.jobs.file, sink, partial(_is_growing, text) if has_lines else lambda: False)


def _is_growing(text: TextSource) -> bool:
    with read_errors_named(text.name):
        quiet_s = datetime.now(UTC).timestamp() - text.last_change()[1] / 1e9
        return quiet_s < QUIET_S or text.is_being_written()


class JobFileComparison:
    """Compares the job file on this machine with the shared log's copy, which grows while this machine stands by."""

    def __init__(self, config: Config) -> None:
        self._config = config
        #: The job file as it was compared last: device, inode, length and time of the last change.
        self._compared: tuple[int, ...] = ()
        #: Up to where it was the same.
        self._same_bytes = 0

    def refuse_other(self) -> None:
        """Check that the job file begins with the copy; lines may have been appended.

        Raises:
            JobFileError: It does not; or it cannot be read.
        """
        file, copy = self._config.jobs.file, self._config.out_dir / JOB_FILE
        if not is_here(self._config) or not copy.exists():
            return
        try:
            with open(file, "rb", opener=input_opener) as ours, open(copy, "rb", opener=private_opener) as theirs:
                differs_at = self._first_difference(ours, theirs)
        except OSError as error:
            raise JobFileError(f"cannot be read: {error.strerror}", file=file) from error
        if differs_at is not None:
            raise JobFileError(
                f"is not the one that the batch's shared log has: they differ from byte {differs_at:,} on. With a"
                " shared log, lines can only be appended. Restore the file, or move it away: then this machine reads"
                " the log's",
                file=file,
            )

    def _first_difference(self, ours: BufferedReader, theirs: BufferedReader) -> int | None:
        """Return the offset from which one file does not begin with the other; None: it does."""
        found = os.fstat(ours.fileno())
        stamp = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        at = self._same_bytes if stamp == self._compared else 0
        for each in (ours, theirs):
            each.seek(at)
        while wanted := theirs.read(_BLOCK_BYTES):
            block = ours.read(len(wanted))
            if block != wanted:
                same = next((n for n, (a, b) in enumerate(zip(block, wanted, strict=False)) if a != b), len(block))
                return at + same
            at += len(wanted)
        self._compared, self._same_bytes = stamp, at
        return None


def refuse_partial_copy(config: Config, ledger: LedgerTables) -> None:
    """Check that the shared log has the whole job file if this machine has no other.

    Raises:
        JobFileError: The machine with the file has died while it copied it.
    """
    if not is_here(config) and ledger.fact(JOB_FILE_IS_COPIED) is False:
        raise JobFileError(
            "is not on this machine, and the batch's shared log has a part of it only. Copy the file here, or run the"
            " batch on the machine that has it",
            file=config.jobs.file,
        )


async def copy_job_file(journal: Journal, on_copy: Callable[[int, int], None] | None) -> None:
    """Copy the job file to the shared log, so that the batch can go on without this machine.

    Args:
        journal: of the batch.
        on_copy: called now and then with the bytes that are copied, and those of the file.

    Raises:
        OutputError: The file cannot be read, or the commit failed.
    """
    copy = journal.job_copy
    if copy is None or copy.copied_bytes >= copy.source_bytes:
        return
    reported_at = anyio.current_time()
    while not await _copy_next_piece(journal):
        if on_copy is not None and anyio.current_time() - reported_at > REPORT_EVERY_S:
            reported_at = anyio.current_time()
            on_copy(copy.copied_bytes, copy.source_bytes)
    if copy.copied_bytes < copy.source_bytes:  # the last line has no line end, and the file has just changed
        await anyio.sleep(QUIET_S)
        await _copy_next_piece(journal)


async def _copy_next_piece(journal: Journal) -> bool:
    """Return True if it is the last one."""
    step = Step(journal.copy_job_file)
    await anyio.to_thread.run_sync(journal.commit_group, [step])
    return step.result
