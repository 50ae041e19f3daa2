"""The submissions of a worker: each a small file in its own directory, replaced atomically; all of them in memory."""

import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import chain, count
from pathlib import Path
from typing import Any

import anyio
import structlog
from pydantic import ValidationError

from batchrun.errors import BatchrunError, OutputError
from batchrun.output.atomic_write import replace_file
from batchrun.output.sink import explaining, sync_directory
from batchrun.output.worker_batch import SUBMISSION
from batchrun.runtime.private_files import make_private_directory, read_private
from batchrun.worker.data_directory import OUT, DataDirectory, has_ledger
from batchrun.worker.spool_taken_files import TakenFiles
from batchrun.worker.submission import BatchState, Submission

#: Least characters of the end of an id that stand for it.
MIN_REF_CHARS = 6
#: The newest names, which are compared with an unknown one: comparing ten thousand would hold up all others.
_NAMES_COMPARED = 200
_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"
#: What a batch's file is called once its deletion has begun, which `load` completes.
_DELETED = f"{SUBMISSION}.deleted"
#: Ids that `new_id` has made, and those of parts of a batch in shards.
_MADE = re.compile(rf"\d{{8}}-[{_ALPHABET}]{{10}}(-\d+)?")

_log = structlog.get_logger()

#: Returns the changes of a submission, given the stored one, which another child may have changed just before.
Decide = Callable[[Submission], Mapping[str, Any]]


class WrongState(BatchrunError):
    """The batch's state does not allow what is asked."""


class UnknownBatch(BatchrunError):
    """No batch has this id or name, or several do."""


class SubmissionStore:
    """All submissions of a data directory; every change is on disk before it takes effect.

    Methods raise:
        UnknownBatch: there is no such submission.
        OutputError: something cannot be read, written or deleted; the stored submission is unchanged.
    """

    def __init__(self, directory: DataDirectory) -> None:
        self._directory = directory
        self._known: dict[str, Submission] = {}
        #: The spool's files whose batches were deleted.
        self.taken = TakenFiles(directory.taken_files, directory.spool)
        #: Their ids, oldest first; None: one was added since.
        self._order: list[str] | None = None
        #: Ids of submissions whose last change is not on disk.
        self._unsaved: set[str] = set()
        #: Held while a submission or its directory is changed.
        self.lock = anyio.Lock()

    def load(self) -> None:
        """Read all submissions; remove incomplete ones, and leave alone damaged ones and what is none of a worker's."""
        self.taken.load()
        with explaining(self._directory.batches):
            directories = sorted(self._directory.batches.iterdir())
        for directory in directories:
            try:
                submission = Submission.model_validate_json(read_private(directory / SUBMISSION))
            except FileNotFoundError:
                is_deleted = (directory / _DELETED).exists() or not has_ledger(directory / OUT)
                if _MADE.fullmatch(directory.name) and is_deleted:
                    with suppress(OSError):
                        _remove(directory)
                else:  # a person's, who calls a directory of his own `batches`, or who restores a batch bit by bit
                    reason = f"it is no batch of this worker, without {SUBMISSION}"
                    _log.warning("directory_left", file=str(directory), reason=reason)
            except (OSError, ValidationError) as error:
                _log.error("batch_unreadable", file=str(directory / SUBMISSION), reason=str(error))
            else:
                if submission.id == directory.name:  # otherwise it is a copy
                    self._note(submission)

    @staticmethod
    def new_id() -> str:
        """Return a new id: the day, to sort by, and random characters."""
        return f"{datetime.now(UTC):%Y%m%d}-{''.join(secrets.choice(_ALPHABET) for _ in range(10))}"

    def __iter__(self) -> Iterator[Submission]:
        """Iterate over all submissions, oldest first."""
        if self._order is None:
            self._order = [
                each.id for each in sorted(self._known.values(), key=lambda each: (each.created_at, each.id))
            ]
        return iter([self._known[each] for each in self._order if each in self._known])  # a thread may delete one

    def __contains__(self, submission_id: str) -> bool:
        return submission_id in self._known

    def __len__(self) -> int:
        return len(self._known)

    def __getitem__(self, submission_id: str) -> Submission:
        """Return a submission."""
        found = self._known.get(submission_id)
        if found is None:
            raise UnknownBatch(f"there is no batch {submission_id!r}")
        return found

    def get(self, submission_id: str) -> Submission | None:
        """Return a submission; None if there is none with this id. May be called in any thread."""
        return self._known.get(submission_id)

    def find(self, ref: str) -> Submission:
        """Return the submission with this id or name, or the only one whose id ends like this."""
        if (found := self.get(ref)) is not None:
            return found
        same = [each for each in self if each.name == ref]  # earlier versions gave one name to several
        if not same and len(ref) >= MIN_REF_CHARS:
            same = [each for each in self if each.id.endswith(ref)]
        if len(same) > 1:
            ids = ", ".join(each.id for each in same)
            raise UnknownBatch(f"{len(same)} batches are called {ref!r}; use an id: {ids}")
        if not same:
            near = get_close_matches(ref, [each.name for each in [*self][-_NAMES_COMPARED:]], n=1)
            advice = f"did you mean {near[0]!r}?" if near else "`batchrun worker list` shows those that there are"
            raise UnknownBatch(f"there is no batch {ref!r}; {advice}")
        return same[0]

    def with_idempotency_key(self, key: str) -> Submission | None:
        """Return the submission that was submitted with a key; None if there is none."""
        return next((each for each in self._known.values() if each.idempotency_key == key), None)

    def mirror(self, submission: Submission) -> None:
        """Show a submission that another worker keeps; nothing is written."""
        self._note(submission)

    async def take_over(self, submission: Submission) -> None:
        """Save a submission as another worker has left it."""
        async with self.lock:
            await anyio.to_thread.run_sync(self._write, submission)

    async def add(self, submission: Submission) -> Submission:
        """Save a submission, and return it with a name that no other has: `shop-2` for the second `shop`."""
        async with self.lock:
            named = submission.but(name=self._unique_name(submission))
            await anyio.to_thread.run_sync(self._write, named)
        return named

    def _unique_name(self, submission: Submission) -> str:
        taken = {each.name for each in self._known.values() if each.id != submission.id}
        names = chain([submission.name], (f"{submission.name}-{number}" for number in count(2)))
        return next(name for name in names if name not in taken)

    async def change(self, submission_id: str, allowed: frozenset[BatchState], what: str, **changes: Any) -> Submission:
        """Change a submission that is in one of some states, and return it.

        Raises:
            WrongState: it is in another state; `what` says in the message what cannot be done.
        """
        async with self.lock:
            submission = self[submission_id]
            if submission.state not in allowed:
                raise WrongState(f"batch {submission_id} is {submission.state}: it cannot be {what}")
            changed = submission.but(**changes)
            await anyio.to_thread.run_sync(self._write, changed)
        _log.info("batch_changed", batch=submission_id, what=what, state=changed.state)
        return changed

    async def update(self, submission_id: str, decide: Decide) -> Submission:
        """Apply a change that follows from the batch's files, and return the submission.

        If it cannot be written, it holds in memory, and `save_unsaved` tries again: a worker that is killed before that
        derives the same change once more.
        """
        async with self.lock:
            submission = self[submission_id]
            changes = decide(submission)
            changed = submission.but(**changes)
            if changes:
                await anyio.to_thread.run_sync(self._write_or_keep, changed)
        return changed

    async def save_unsaved(self) -> None:
        """Try again to write the changes that could not be written."""
        if not self._unsaved:
            return
        async with self.lock:
            for submission_id in list(self._unsaved):
                await anyio.to_thread.run_sync(self._write_or_keep, self._known[submission_id])

    def delete(self, submission: Submission) -> None:
        """Delete a submission with its directory; call it in a thread, with `lock` held."""
        directory = self._directory.of(submission.id)
        self.taken.note(submission)
        with explaining(directory):
            with suppress(FileNotFoundError):
                (directory / SUBMISSION).replace(directory / _DELETED)
            self._known.pop(submission.id, None)
            self._order = None
            self._unsaved.discard(submission.id)
            if directory.exists():  # of a fleet's batch, there may be nothing here
                _remove(directory)

    def _write(self, submission: Submission) -> None:
        directory = self._directory.of(submission.id)
        content = submission.model_dump_json(indent=1, exclude_defaults=True).encode()
        with explaining(directory):
            make_private_directory(directory)
            replace_file(directory / SUBMISSION, [content], is_durable=True)
            sync_directory(directory.parent)
        self._note(submission)
        self._unsaved.discard(submission.id)

    def _note(self, submission: Submission) -> None:
        if submission.id not in self._known:
            self._order = None
        self._known[submission.id] = submission

    def _write_or_keep(self, submission: Submission) -> None:
        try:
            self._write(submission)
        except OutputError as error:
            self._note(submission)
            if submission.id not in self._unsaved:
                _log.error("batch_not_saved", batch=submission.id, state=submission.state, reason=str(error))
            self._unsaved.add(submission.id)


def _remove(directory: Path) -> None:
    """Remove a batch's directory; its results first, so that what says that this has begun outlives them."""
    results = directory / OUT
    if results.is_dir() and not results.is_symlink():
        shutil.rmtree(results)
    shutil.rmtree(directory)
