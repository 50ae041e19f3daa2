"""The owner's end of a shared log: each commit is appended here before it happens on this machine.

An append is conditional: entry N, unless there is one. So a process that was overtaken, however long it slept, finds
its next number taken and stops. The lease serves the one thing that a log cannot fence, a start request: it may be
sent only while the last append is younger than the lease, and a claim waits for 1.5 leases of silence.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from batchrun.errors import LedgerError, LogUnreachable, OutputError, Superseded
from batchrun.ledger.shared_commits import Commit, LogPosition
from batchrun.ledger.shared_log.entries import (
    NOTHING,
    Content,
    EntryKind,
    Owner,
    commit_content,
    decode_head,
    digest,
    encode,
)
from batchrun.ledger.shared_log.log_store import LogStore
from batchrun.runtime.steady_time import boot_time

T = TypeVar("T")

#: Seconds between two tries to reach a store that does not answer: the first wait, and the longest.
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0
#: Seconds for which a process that is about to end tries to reach the store.
LAST_TRIES_S = 1.0
#: A heartbeat is appended once the last append is this part of a lease old.
HEARTBEAT_PART = 1 / 3
_FOUND_AGAIN = "The process that resumes the batch asks the platform for what the log lacks"


class Membership(Protocol):
    """The place of a process among those that carry out batches together, by id; no id is used twice."""

    @property
    def id(self) -> str:
        """Begins the id of an owner that is a member, before a dot."""

    def may_start(self) -> bool:
        """Return True if the others surely count this process as a member."""

    def has_left(self, member_id: str) -> bool:
        """Return True if a member has left, or its lease has ended: it starts nothing more, in any batch."""


class OwnedLog:
    """The log of a batch that this process has claimed. Methods block; several threads may call them.

    Args:
        store: of the log.
        owner: this process.
        last: the claim's position.
        confirmed_at: when the claim was sent, on the clock of `boot_time`.
        membership: of this process; None: it carries out its batches alone.
    """

    def __init__(
        self,
        store: LogStore,
        owner: Owner,
        last: LogPosition,
        confirmed_at: float,
        membership: Membership | None = None,
    ) -> None:
        self._store = store
        self._membership = membership
        self._owner = owner
        self._last = last
        #: When the last append was sent that the store has accepted.
        self._confirmed_at = confirmed_at
        self._appending = threading.Lock()
        #: Set once the process is about to end.
        self._ending = threading.Event()
        self._refused: OutputError | None = None
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why the store cannot be reached; empty: it can."""
        return self._trouble

    @property
    def refused(self) -> OutputError | None:
        """Why nothing more can be appended, as when another owner has taken the batch over; None: it can."""
        return self._refused

    def caution(self) -> str:
        """Return in words how the store can lose entries; empty: no way is known. Takes a second or two."""
        return self._store.caution()

    @property
    def last(self) -> LogPosition:
        """The last entry, which this process has appended."""
        return self._last

    def may_start(self) -> bool:
        has_lease = self._refused is None and boot_time() - self._confirmed_at < self._owner.lease_s
        return has_lease and (self._membership is None or self._membership.may_start())

    def append(self, commit: Commit) -> LogPosition:
        content = commit_content(commit)
        for name, part in content.objects.items():  # outside the lock: heartbeats go on while large parts are sent
            self._persist(partial(self._store.put_object, name, part))
        with self._appending:
            return self._append(EntryKind.COMMIT, content)

    def refuse_more(self) -> None:
        self._refused = self._refused or OutputError(
            "a commit reached the shared log but could not be written here. Run the same command again: it replays it"
        )

    def give_up_soon(self) -> None:
        self._ending.set()

    def beat(self) -> None:
        """Append a heartbeat if nothing was appended for a while, and nothing is being appended.

        Raises:
            Superseded: Another owner has taken the batch over.
        """
        if boot_time() - self._confirmed_at < self._owner.lease_s * HEARTBEAT_PART:
            return
        if self._appending.acquire(blocking=False):
            try:
                self._append(EntryKind.HEARTBEAT)
            finally:
                self._appending.release()

    def release(self) -> None:
        """Append that this process has left the batch, so that the next claim need not wait.

        Raises:
            OutputError: It could not be appended; the next claim waits.
        """
        self._ending.set()
        with self._appending:
            self._append(EntryKind.RELEASE)

    def _append(self, kind: EntryKind, content: Content = NOTHING) -> LogPosition:
        encoded = encode(kind, self._owner, self._last.digest, content)
        number = self._last.entry + 1
        sent_at = self._persist(partial(self._send, number, encoded, boot_time()))
        if sent_at is None:
            self._refused = Superseded(self._who_took_over(number))
            raise self._refused
        self._confirmed_at = sent_at
        self._last = LogPosition(entry=number, digest=digest(encoded))
        return self._last

    def _send(self, number: int, encoded: bytes, first_sent_at: float) -> float | None:
        """Send an entry; return when the try was sent that the store has accepted, or None if it has another entry."""
        sent_at = boot_time()
        # If the number is taken, this very entry may have taken it, in an earlier try whose answer was lost.
        if self._store.append(number, encoded):
            return sent_at
        taken = self._store.read(number)
        if taken is None:  # an earlier try is still under way in the store
            raise LogUnreachable(f"the store refuses entry {number}, and shows none with that number")
        # An earlier try was accepted, perhaps the first: another owner may have claimed the log since.
        return first_sent_at if taken == encoded else None

    def _persist(self, send: Callable[[], T]) -> T:
        """Call something until the store answers; return the result."""
        began_at, wait_s = boot_time(), FIRST_WAIT_S
        while True:
            if self._refused is not None:
                raise type(self._refused)(str(self._refused))
            try:
                result = send()
            except LogUnreachable as error:
                self._trouble = str(error)
                if self._ending.is_set() and boot_time() - began_at > LAST_TRIES_S:
                    self._refused = OutputError(f"the shared log cannot be reached: {error}. {_FOUND_AGAIN}")
                    raise self._refused from error
            except LedgerError as error:  # no wait mends it
                self._refused = error
                raise
            else:
                self._trouble = ""
                return result
            if self._ending.is_set():
                time.sleep(FIRST_WAIT_S)
            else:
                self._ending.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _who_took_over(self, number: int) -> str:
        """Return in words whose entry has the number that was ours."""
        name = "another process"
        try:
            taken = self._store.read(number)
            if taken is not None:
                name = decode_head(taken).owner.name
        except (LogUnreachable, LedgerError):
            pass
        return (
            f"{name} has taken the batch over, since nothing was heard of this process for 1.5 leases. The batch goes"
            " on there; this process has written nothing since, and starts nothing"
        )
