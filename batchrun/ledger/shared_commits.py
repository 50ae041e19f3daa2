"""What a commit changes, for a log that other machines replay; the log itself is in `ledger/shared_log`."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Protocol

from batchrun.errors import OutputError
from batchrun.runtime.fast_dataclasses import dataclass

#: A statement's parameters, by position or by name.
Parameters = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileGrowth:
    """The bytes that a commit appends to an output file."""

    #: Length of the file before.
    offset: int
    data: bytes = b""
    #: In place of `data`, in an entry that is too large to be held: read once, and file by file in their order.
    pieces: Iterable[bytes] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One commit of a ledger: what it changes in the tables, and what it appends to output files, by name."""

    #: SQL and parameters of every statement that changes something, in order.
    changes: Sequence[tuple[str, Parameters]] = ()
    files: Mapping[str, FileGrowth] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPosition:
    """The last entry of a shared log that a ledger has."""

    #: Number of the entry, from 0.
    entry: int
    #: Its SHA-256, as hexadecimal digits.
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogClaim:
    """The last claim of a shared log that a process in this directory has tried."""

    #: Of the owner that it would have made.
    owner_id: str
    #: Name of the machine.
    host: str


class CommitLog(Protocol):
    """Where a ledger's commits are noted before they happen on this machine."""

    @property
    def trouble(self) -> str:
        """Why the log cannot be reached; empty: it can."""

    @property
    def refused(self) -> OutputError | None:
        """Why nothing more can be appended: another owner has taken the batch over, say; None: it can."""

    def append(self, commit: Commit) -> LogPosition:
        """Append a commit, and return its position once the log has it. Blocks as long as the log is out of reach.

        Raises:
            Superseded: Another owner has taken the batch over.
            OutputError: The log is out of reach, and the process is about to end.
        """

    def may_start(self) -> bool:
        """Return True if this process surely owns the batch."""

    def refuse_more(self) -> None:
        """Append nothing more: a commit is in the log and could not be made here."""

    def give_up_soon(self) -> None:
        """Stop waiting for a log that is out of reach: the process is about to end."""
