"""The data directory of a worker: where each of its files is."""

import os
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import anyio

from batchrun.config.worker_config import FILE_NAME
from batchrun.errors import ConfigError, LedgerError
from batchrun.ledger.sqlite.reader import is_begun, open_for_reading
from batchrun.output.layout import LEDGER, LOCK, OUTBOX
from batchrun.output.lock import enter_lock
from batchrun.output.sink import explaining
from batchrun.runtime.private_files import close_to_others, keep_out_of_git, make_private_directory, names_of_others
from batchrun.worker.submission import BatchState, Submission

#: The output directory in a batch's own directory.
OUT = "out"
_IS_ID = re.compile(r"[a-z0-9-]{1,64}")
_FORMAT = re.compile(r"\.(toml|jsonl|ndjson|json|csv|tsv)(\.(gz|zst))?$", re.IGNORECASE)
#: Patterns of the names that a worker's own files have.
_OWN_NAMES = (
    "address", "batches", "lock", "member", OUTBOX, "server", "socket", "spool", "taken.jsonl", "token", "worker.log*"
)  # fmt: skip
#: A directory that is a service user's home may have such files, too.
_IN_HOMES = ".*"


class DataDirectory:
    """The paths in a worker's data directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.batches = path / "batches"
        self.spool = path / "spool"
        self.profiles = path / "profiles"
        self.server = path / "server"
        self.token = path / "token"
        #: The address of the worker's HTTP API, while it runs.
        self.address = path / "address"
        self.socket = path / "socket"
        self.log = path / "worker.log"
        #: Notifications that are not delivered yet.
        self.outbox = path / OUTBOX
        #: Notes of the spool's files whose batches were deleted.
        self.taken_files = path / "taken.jsonl"

    def refuse_anothers(self) -> None:
        """Refuse a directory of something else, which a worker would close to other users. Blocks.

        Raises:
            ConfigError: it has no `worker.toml`, had no worker, and is neither new nor empty.
            OutputError: it cannot be read.
        """
        with explaining(self.path):
            if self.had_worker() or (self.path / FILE_NAME).exists():
                return
            others = names_of_others(self.path, [*_OWN_NAMES, self.profiles.name, _IN_HOMES])
        if self.token.exists():  # a worker makes it last
            others.append(self.token.name)
        if others:
            raise ConfigError(
                f"{self.path} is no worker's: it holds {others[0]}. A worker would close it to other users, and take a"
                f" file called token in it for its own; choose another --data, or put a {FILE_NAME} into it"
            )

    def had_worker(self) -> bool:
        """Return whether a worker has made this directory."""
        return self.batches.exists() and (self.token.exists() or (self.path / LOCK).exists())

    def make(self) -> None:
        """Make the missing directories, and close all to other users.

        Raises:
            OutputError: a directory cannot be made, or is another user's.
        """
        with explaining(self.path):
            make_private_directory(self.path)
        for path in (self.batches, self.log, self.token, self.taken_files):
            close_to_others(path)
        for directory in (self.batches, self.spool, self.profiles):
            with explaining(directory):
                make_private_directory(directory)
        with explaining(self.path):
            keep_out_of_git(self.path, _OWN_NAMES)

    def of(self, submission_id: str) -> Path:
        """Return the directory of a submission."""
        assert _IS_ID.fullmatch(submission_id), "only ids that a store has made"
        return self.batches / submission_id

    def out_dir(self, submission: Submission) -> Path:
        """Return a submission's output directory: beside its file in the spool, or in the submission's directory."""
        if submission.spooled is None:
            return self.of(submission.id) / OUT
        return self.out_dir_of(submission.spooled)

    def out_dir_of(self, spooled: PurePosixPath) -> Path:
        """Return the output directory of a file in the spool, named relative to it."""
        stem = _FORMAT.sub("", spooled.name)
        return (self.spool / spooled).with_name(f"{stem}.out")

    def rival_of(self, submission: Submission, others: Iterable[Submission]) -> Submission | None:
        """Return another file of the spool with the same output directory, as `a.csv` beside `a.jsonl`.

        It has that directory, or will: it was not refused before it began.
        """
        out_dir = self.out_dir(submission)
        rivals = (each for each in others if each.spooled not in (None, submission.spooled) and not was_refused(each))
        return next((each for each in rivals if self.out_dir(each) == out_dir), None)

    def refuse_moved_results(self, submission: Submission) -> None:
        """Refuse a batch that has begun and whose ledger is gone: it would begin with its first line.

        Raises:
            LedgerError: it is so.
        """
        if self.has_moved_results(submission):
            raise LedgerError(
                f"{self.out_dir(submission)}: has no ledger, which would say which jobs have run and which Runs may be"
                " live. If its results were moved, put them back, then resume or cancel it. If they are lost, or an"
                " earlier batchrun could not begin it, delete the batch, and submit under another name what is to run"
            )

    def has_moved_results(self, submission: Submission) -> bool:
        """Return whether a batch has begun, and its ledger is not in its output directory.

        True also of one that an earlier version has failed to begin: its notes are those of one that has Runs.
        """
        return submission.begun_at is not None and not has_ledger(self.out_dir(submission))

    def summary_file(self, submission: Submission) -> Path:
        """Return the file for a submission's summary."""
        out_dir = self.out_dir(submission)
        return out_dir.with_name(f"{out_dir.name.removesuffix('.out')}.summary.json")


def is_of_worker(file: Path) -> bool:
    """True if a file is among a worker's own, or would be: one that is put into the spool is taken."""
    file = Path(os.path.realpath(file.parent), file.name)
    for path in file.parents:
        directory = DataDirectory(path)
        if directory.had_worker():
            name = file.relative_to(path).parts[0]
            return any(fnmatch(name, own) for own in (FILE_NAME, directory.profiles.name, *_OWN_NAMES))
    return False


def was_refused(submission: Submission) -> bool:
    """True if a batch failed before it had begun."""
    return submission.state is BatchState.FAILED and submission.begun_at is None


@asynccontextmanager
async def open_data_directory(path: Path) -> AsyncIterator[DataDirectory]:
    """Make and lock a data directory, before anything in it is read: another user may have made it.

    Raises:
        ConfigError: it is something else's.
        OutputError: another process has locked it, it is another user's, or it cannot be written.
    """
    directory = DataDirectory(path)
    await anyio.to_thread.run_sync(directory.refuse_anothers)
    await anyio.to_thread.run_sync(directory.make)
    async with enter_lock(path):
        yield directory


def has_ledger(out_dir: Path) -> bool:
    """Return whether an output directory has a ledger, whatever is in it; one that cannot be looked for counts."""
    try:
        return (out_dir / LEDGER).exists()
    except OSError:
        return True


def has_open_jobs(out_dir: Path) -> bool:
    """Return whether the ledger in an output directory has jobs that are not settled; an unreadable one counts."""
    try:
        with open_for_reading(out_dir) as ledger:
            return ledger.totals().open_jobs > 0
    except (LedgerError, OSError):
        return True


def has_begun(out_dir: Path) -> bool:
    """Return whether an output directory has a ledger with jobs; an unreadable one counts, since Runs may be live."""
    try:
        return is_begun(out_dir)
    except (LedgerError, OSError):  # a link that cannot be followed, say
        return True
