"""A directory that follows a shared log: its ledger and output files, as far as the log goes."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path

from batchrun.errors import LedgerError, LogUnreachable
from batchrun.ledger.facts import LOG_CLAIM, LOG_POSITION, UNITED
from batchrun.ledger.shared_commits import LogClaim, LogPosition
from batchrun.ledger.shared_log.entries import (
    NOTHING,
    Entry,
    EntryKind,
    Owner,
    commit_content,
    decode,
    decode_head,
    digest,
    encode,
)
from batchrun.ledger.shared_log.first_commit import first_commit
from batchrun.ledger.shared_log.followed_files import FollowedFiles
from batchrun.ledger.shared_log.log_store import LogStore
from batchrun.ledger.shared_log.owned_log import Membership, OwnedLog
from batchrun.ledger.shared_log.packs import read_entries
from batchrun.ledger.shared_log.snapshots import MAX_TRIED, Snapshot, check_entry, fetch_snapshot, read_snapshots
from batchrun.ledger.sqlite.following_tables import FollowingTables, open_following
from batchrun.ledger.sqlite.ledger_copy import COPY
from batchrun.ledger.sqlite.restored_ledger import refuse_missing_ledger
from batchrun.output.sink import explaining
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.steady_time import boot_time

#: Max entries and bytes of them per commit of a replay: one sync for all.
ENTRIES_PER_COMMIT = 2_000
BYTES_PER_COMMIT = 16 << 20
#: Bytes of memory that a change takes beside its text.
_CHANGE_BYTES = 200


@dataclass(frozen=True, slots=True)
class _Read:
    """An entry as it was read from the store."""

    position: LogPosition
    entry: Entry

    @property
    def bytes(self) -> int:
        """About the memory that it takes."""
        return self.entry.length + _CHANGE_BYTES * len(self.entry.commit.changes)


class Replica:
    """A directory that follows a log. Methods block; one thread at a time calls them, except `stop`."""

    def __init__(
        self,
        store: LogStore,
        directory: Path,
        ledger: FollowingTables,
        files: FollowedFiles,
        *,
        is_of_fleet: bool = False,
    ) -> None:
        self._store = store
        #: True if the first entry may hold a whole ledger. In a fleet, anybody who can write to the store begins logs.
        self._may_begin_large = not is_of_fleet
        self._directory = directory
        self._ledger = ledger
        self._files = files
        #: True once a store has failed in the middle of a snapshot.
        self._skips_snapshots = False
        self._stopped = threading.Event()
        self._last = self._own_last()
        #: True if this batch was begun without a log, and its first claim is to carry all that there is.
        self._is_unlogged = self._last is None and not ledger.is_untouched

    @property
    def last(self) -> Entry | None:
        """The last entry that was read; None: the log has none."""
        return self._last.entry if self._last is not None else None

    def _own_last(self) -> _Read | None:
        """Read again the last entry that this directory has replayed.

        Raises:
            LedgerError: This directory and the log are not of the same batch.
        """
        position = self._ledger.fact(LOG_POSITION)
        if position is None:
            return None
        encoded = self._store.read(position.entry)
        if encoded is None or digest(encoded) != position.digest:
            raise LedgerError(
                f"{self._directory}: has {position.entry + 1} entries of a shared log, and the log at replica.url"
                " does not have them. Name the log that this batch was begun with, or choose another --out"
            )
        return _Read(position, decode_head(encoded))

    def stop(self) -> None:
        """Let `catch_up` leave off soon: the process is about to end."""
        self._stopped.set()

    def catch_up(self) -> int:
        """Replay what has been appended since, and return the number of new entries; after `stop`, some of it.

        Raises:
            LogUnreachable: The store does not answer.
            LedgerError: The log does not continue what this directory has.
            OutputError: This machine cannot write.
        """
        if self._is_unlogged and not self._find_own_beginning():
            return 0
        begin = self._next
        if self._last is None and not self._skips_snapshots:
            self._begin_with_snapshot()
        some, size = list[_Read](), 0
        entries = self._checked(read_entries(self._store, self._next))
        while True:
            try:
                read = None if self._stopped.is_set() else next(entries, None)
            except LogUnreachable:
                self._replay(some)  # so that a store that fails often is caught up with all the same
                raise
            if read is not None:
                some.append(read)
                size += read.bytes
            if read is None or len(some) == ENTRIES_PER_COMMIT or size > BYTES_PER_COMMIT:
                self._replay(some)
                some, size = [], 0
            if read is None:
                return self._next - begin

    def check(self) -> None:
        """Check that what was replayed is a ledger; it looks at every row.

        Raises:
            LedgerError: Somebody else has written to the log.
        """
        self._ledger.check_rows()

    def _find_own_beginning(self) -> bool:
        """Return True if this directory has begun the log with all that it has, False if the log is empty.

        The process that claimed it died before it noted that, or the answer was lost.

        Raises:
            LedgerError: The log is of another batch.
        """
        encoded = self._store.read(0)
        if encoded is None:
            return False
        entry, own = decode_head(encoded), self._ledger.fact(LOG_CLAIM)
        if own is None or entry.owner.id != own.owner_id:
            raise LedgerError(
                f"{self._directory}: this batch was begun without a shared log, and replica.url names another batch's."
                " Name an empty place, run it without [replica], or choose another --out"
            )
        self._note_beginning(_Read(LogPosition(entry=0, digest=digest(encoded)), entry))
        return True

    def _note_beginning(self, read: _Read) -> None:
        with self._ledger.transaction():
            self._ledger.note_fact(LOG_POSITION, read.position)
        self._last, self._is_unlogged = read, False

    @property
    def _next(self) -> int:
        return self._last.position.entry + 1 if self._last is not None else 0

    def _begin_with_snapshot(self) -> None:
        """Begin with the newest snapshot that can be used, if there is one, instead of with entry 0.

        Raises:
            LogUnreachable: The store does not answer. Then all entries are replayed: what was read of them is kept.
        """
        copy = self._directory / COPY
        try:
            for snapshot in reversed(read_snapshots(self._store)[-MAX_TRIED:]):
                with suppress(LedgerError):  # an earlier one may be whole
                    if snapshot is not None and not self._stopped.is_set():
                        self._load(snapshot, copy)
                        return
        except LogUnreachable:
            self._skips_snapshots = True
            raise
        finally:
            with explaining(copy):
                copy.unlink(missing_ok=True)

    def _load(self, snapshot: Snapshot, copy: Path) -> None:
        """Take over the tables of a snapshot, and of the entries up to its position what they append to files.

        The entries come first: they tell how large the snapshot may be.

        Raises:
            LedgerError: These do not belong together, and nothing has changed.
        """
        check_entry(self._store, snapshot)
        lengths = dict(self._files.lengths)
        try:
            last, log_bytes = self._write_files(snapshot.position)
            fetch_snapshot(self._store, snapshot, copy, log_bytes, self._stopped)
            copied = self._ledger.read_copy(copy)
            if copied.position != snapshot.position:
                raise LedgerError("a snapshot is of another entry than it says")
            if any(copied.output_lengths.get(name, 0) != length for name, length in self._files.lengths.items()):
                raise LedgerError("a snapshot has other lengths of files than the log")
            self._ledger.load(copy)
        except BaseException:
            if self._ledger.fact(LOG_POSITION) is None:
                self._files.cut(lengths)
            raise
        self._last = last

    def _write_files(self, end: LogPosition) -> tuple[_Read, int]:
        """Write what the entries append to files, up to one of them; return that, and how many bytes all hold."""
        last, log_bytes = None, 0
        for last in islice(self._checked(read_entries(self._store, 0), with_changes=False), end.entry + 1):
            log_bytes += last.entry.length
            self._files.append(last.position.entry, last.entry.commit.files)
            if self._stopped.is_set():
                raise LedgerError("the process is about to end")
        self._files.flush()
        if last is None or last.position != end:
            raise LedgerError("a snapshot is of an entry that the log does not have")
        return last, log_bytes

    def _checked(self, encoded: Iterator[bytes], *, with_changes: bool = True) -> Iterator[_Read]:
        """Decode entries; each must name the one before it."""
        last = self._last
        for each in encoded:
            number = last.position.entry + 1 if last is not None else 0
            entry = decode(
                each, self._store.get_object, with_changes=with_changes, is_first=number == 0 and self._may_begin_large
            )
            if entry.previous != (last.position.digest if last is not None else ""):
                raise LedgerError(f"entry {number} of the shared log does not continue the entry before: it is damaged")
            last = _Read(LogPosition(entry=number, digest=digest(each)), entry)
            yield last

    def _replay(self, some: Sequence[_Read]) -> None:
        """Take over entries, in one commit."""
        if not some:
            return
        with self._ledger.transaction():
            if self._last is None and some[0].entry.commit.changes:  # all that a batch had without a log
                self._ledger.forget_output_lengths()
            for read in some:
                self._files.append(read.position.entry, read.entry.commit.files)
                self._ledger.replay(read.entry.commit)
            self._ledger.note_fact(LOG_POSITION, some[-1].position)
            self._files.flush()
        self._last = some[-1]

    def is_own(self, owner: Owner, host: str) -> bool:
        """True if a claim was made from this directory on this machine; that process is dead, since we hold its lock.

        Args:
            owner: made by the claim.
            host: name of this machine.
        """
        return self._ledger.fact(LOG_CLAIM) == LogClaim(owner_id=owner.id, host=host)

    def claim(self, owner: Owner, host: str, membership: Membership | None = None) -> OwnedLog | None:
        """Claim the log; None: somebody has appended another entry meanwhile.

        Raises:
            LogUnreachable: The store does not answer; the claim may have been appended.
            LedgerError: The log has a gap here.
            ConfigError: The store does not refuse what is there already.
        """
        if self._store.has_later(self._next) and self._store.read(self._next) is None:
            raise LedgerError(
                f"{self._directory}: the shared log lacks entry {self._next:,}, but has later ones. Was it removed, by"
                " a rule that deletes old objects? Put it back, or go on in the last owner's directory, on its machine"
            )
        self.check()
        with self._ledger.transaction():
            self._ledger.note_fact(LOG_CLAIM, LogClaim(owner_id=owner.id, host=host))
        previous = self._last.position.digest if self._last is not None else ""
        content = NOTHING
        if self._is_unlogged:
            begun = first_commit(self._directory, self._ledger, self._files.lengths)
            content = commit_content(begun, is_first=self._may_begin_large)
        for name, part in content.objects.items():
            self._store.put_object(name, part)
        encoded, sent_at = encode(EntryKind.CLAIM, owner, previous, content), boot_time()
        if not self._store.append(self._next, encoded):
            return None
        position = LogPosition(entry=self._next, digest=digest(encoded))
        if self._is_unlogged:
            self._note_beginning(_Read(position, Entry(kind=EntryKind.CLAIM, owner=owner, previous=previous)))
        return OwnedLog(self._store, owner, position, sent_at, membership)


@contextmanager
def open_replica(store: LogStore, directory: Path, *, is_of_fleet: bool = False) -> Iterator[Replica]:
    """Open a directory that follows a log: a new one, or one that has followed or owned it before.

    Args:
        store: of the log.
        directory: of the batch.
        is_of_fleet: True for a batch of a fleet, which has a log from its beginning.

    Raises:
        LedgerError: It is of another log's batch.
        OutputError: It cannot be written.
    """
    refuse_missing_ledger(directory)
    with ExitStack() as stack:
        ledger = stack.enter_context(open_following(directory))
        if ledger.fact(UNITED) is not None:
            raise LedgerError(
                f"{directory}: has the results of all parts of a batch in shards, and follows no log of its own; choose"
                " another directory"
            )
        lengths = ledger.output_lengths()
        files = FollowedFiles(directory, lengths)
        stack.callback(files.close)
        if len(lengths) < len(files.lengths):  # so that what a crash leaves in the files can be cut off
            with ledger.transaction():
                ledger.note_output_lengths(files.lengths)
        yield Replica(store, directory, ledger, files, is_of_fleet=is_of_fleet)
