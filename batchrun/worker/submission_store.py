"""The submissions of a worker, each a small file in a directory of its own, written whole or not at all."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import structlog
from pydantic import ValidationError

from batchrun.errors import LedgerError, OutputError
from batchrun.ledger.sqlite.reader import is_begun
from batchrun.output.sink import explain, sync_directory
from batchrun.worker.submission import Submission

FILE_NAME = "batch.json"
_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
_IS_ID = re.compile(r"[a-z0-9-]{1,64}")

_log = structlog.get_logger()


class Layout:
    """Where a worker keeps what, in its data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.batches = data_dir / "batches"
        self.spool = data_dir / "spool"
        self.failed = self.spool / "failed"
        self.profiles = data_dir / "profiles"
        self.server = data_dir / "server"
        self.token = data_dir / "token"
        self.address = data_dir / "address"
        self.log = data_dir / "worker.log"

    def make(self) -> None:
        """Make the directories that are missing.

        Raises:
            OutputError: this machine does not let us.
        """
        for directory in (self.batches, self.spool, self.failed, self.profiles):
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise explain(error, directory) from error

    def of(self, submission_id: str) -> Path:
        """Return the directory of a submission."""
        assert _IS_ID.fullmatch(submission_id), "ids are made here"
        return self.batches / submission_id

    def out_dir(self, submission: Submission) -> Path:
        """Return where a submission's results go: beside its file in the spool, or into its own directory."""
        if submission.spooled is None:
            return self.of(submission.id) / "out"
        return (self.spool / submission.spooled).with_name(f"{_plain_name(submission.spooled.name)}.out")

    def summary_file(self, submission: Submission) -> Path:
        """Return where the final summary of a submission goes."""
        out_dir = self.out_dir(submission)
        return out_dir.with_name(f"{out_dir.name.removesuffix('.out')}.summary.json")


def has_begun(out_dir: Path) -> bool:
    """Whether there may be results in an output directory, or Runs to follow: a ledger nobody can read counts, too."""
    try:
        return is_begun(out_dir)
    except LedgerError:
        return True


def _plain_name(file_name: str) -> str:
    return re.sub(r"\.(toml|jsonl|ndjson|json|csv|tsv)(\.(gz|zst))?$", "", file_name, flags=re.IGNORECASE)


class Shelf:
    """All submissions, in memory and on disk.

    Args:
        layout: of the data directory.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._known: dict[str, Submission] = {}
        #: Ids of those whose last change is not on disk.
        self._unsaved: set[str] = set()

    def load(self) -> None:
        """Read what is there; what was handed in only by half is removed, and what is damaged is left alone.

        Raises:
            OutputError: the directory cannot be read.
        """
        try:
            directories = sorted(self._layout.batches.iterdir())
        except OSError as error:
            raise explain(error, self._layout.batches) from error
        for directory in directories:
            try:
                submission = Submission.model_validate_json((directory / FILE_NAME).read_bytes())
            except FileNotFoundError:
                shutil.rmtree(directory, ignore_errors=True)
            except (OSError, ValidationError) as error:
                _log.error("batch_unreadable", file=str(directory / FILE_NAME), reason=str(error))
            else:
                if submission.id == directory.name:  # else it is somebody's copy
                    self._known[submission.id] = submission

    def new_id(self) -> str:
        """Return an id that none has: a day to sort by, and what nobody guesses."""
        return f"{datetime.now(UTC):%Y%m%d}-{''.join(secrets.choice(_ALPHABET) for _ in range(10))}"

    def __iter__(self) -> Iterator[Submission]:
        """Go through them, in the order in which they were handed in."""
        return iter(sorted(self._known.values(), key=lambda each: (each.created_at, each.id)))

    def __len__(self) -> int:
        return len(self._known)

    def get(self, submission_id: str) -> Submission | None:
        """Return a submission, or None."""
        return self._known.get(submission_id)

    def with_idempotency_key(self, key: str) -> Submission | None:
        """Return the submission that was handed in with a key, or None."""
        return next((each for each in self._known.values() if each.idempotency_key == key), None)

    def save(self, submission: Submission) -> None:
        """Note a submission, new or changed; durable when this returns.

        Raises:
            OutputError: the disk does not take it; what was noted before holds.
        """
        directory = self._layout.of(submission.id)
        beside = directory / f".{FILE_NAME}.new"
        try:
            directory.mkdir(exist_ok=True)
            with beside.open("wb") as opened:
                opened.write(submission.model_dump_json(indent=1, exclude_defaults=True).encode())
                opened.flush()
                os.fsync(opened.fileno())
            beside.replace(directory / FILE_NAME)
            sync_directory(directory)
            sync_directory(directory.parent)
        except OSError as error:
            with suppress(OSError):
                beside.unlink()
            raise explain(error, directory / FILE_NAME) from error
        self._known[submission.id] = submission
        self._unsaved.discard(submission.id)

    def save_or_keep(self, submission: Submission) -> None:
        """Note a change that follows from what is on disk already; where the disk does not take it, in memory for now.

        Killed before it is saved, the worker comes to the same change again.
        """
        try:
            self.save(submission)
        except OutputError as error:
            self._known[submission.id] = submission
            if submission.id not in self._unsaved:
                _log.error("batch_not_noted", batch=submission.id, state=submission.state, reason=str(error))
            self._unsaved.add(submission.id)

    @property
    def unsaved(self) -> list[Submission]:
        """Those whose last change is not on disk."""
        return [self._known[each] for each in self._unsaved]

    def delete(self, submission: Submission) -> None:
        """Delete a submission with all that lies in its directory.

        Raises:
            OutputError: something cannot be deleted.
        """
        directory = self._layout.of(submission.id)
        try:
            # First what makes it one: a deletion that is cut off is finished by the next start.
            (directory / FILE_NAME).unlink(missing_ok=True)
            self._known.pop(submission.id, None)
            self._unsaved.discard(submission.id)
            shutil.rmtree(directory)
        except OSError as error:
            raise explain(error, directory) from error
