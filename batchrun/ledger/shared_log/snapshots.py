"""Snapshots: objects with the ledger as of an entry, so that a take-over need not carry out all statements before it.

The owner makes them behind its commits, from a copy of its ledger. Entries are never removed, and a log is whole
without its snapshots. One is used only by a directory that has nothing yet, if all its parts are there and undamaged,
and the log has the entry that it names: that entry's hash stands for all entries before it.
"""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import zstandard

from batchrun.errors import LedgerError
from batchrun.ledger.shared_commits import LogPosition
from batchrun.ledger.shared_log.entries import digest, read_part
from batchrun.ledger.shared_log.log_store import LogStore
from batchrun.ledger.shared_log.read_ahead import read_ahead
from batchrun.ledger.sqlite.ledger_copy import COPY, copy_ledger
from batchrun.ledger.sqlite.schema_version import SCHEMA_VERSION
from batchrun.output.layout import LEDGER
from batchrun.output.sink import explaining
from batchrun.runtime.bounded_zstd import decompress_bounded
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.free_space import has_room
from batchrun.runtime.private_files import private_opener

#: Bytes of a ledger below which none is made: some 50,000 jobs, which are replayed within 3 s.
MIN_BYTES = 16 << 20
#: The next one is made of a ledger that is larger by this factor: all of them together are five times the last one.
GROWTH = 1.25
#: Bytes of a ledger in one object, before it is compressed.
PIECE_BYTES = 8 << 20
#: Max bytes of a snapshot's ledger: for each byte that the entries before it hold, and besides. A ledger is smaller
#: than its entries; a forged one could fill any disk.
MAX_BYTES_PER_LOG_BYTE = 4
MAX_BYTES_WITHOUT_LOG = 64 << 20
#: Max parts of a snapshot: of a ledger of 256 GB.
_MAX_PARTS = 1 << 15
#: Max snapshots that are looked at; GROWTH makes 44 of such a ledger.
_MAX_SNAPSHOTS = 100
#: Snapshots that are tried, the last one first, before all entries are replayed.
MAX_TRIED = 3
#: Parts that are read at once.
_PARTS_AT_ONCE = 4
_VERSION = 1
#: Characters of a part's name, a SHA-256.
_NAME_CHARS = 64
#: Max bytes of what a snapshot says besides the names of its parts.
_MORE_BYTES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The object that names the parts of a snapshot."""

    #: The last entry that it has.
    position: LogPosition
    #: The names of its parts, in order, as they were found: a piece of the ledger's file each, compressed.
    parts: Sequence[Any]


def snapshot_name(number: int) -> str:
    """Return the name of a snapshot, which is part of the documented format."""
    return f"snapshot-{number:09}"


def read_snapshots(store: LogStore) -> list[Snapshot | None]:
    """Return the snapshots of a log by their numbers; None for one that this batchrun cannot use.

    Raises:
        LogUnreachable: The store does not answer.
    """
    found: list[Snapshot | None] = []
    while len(found) < _MAX_SNAPSHOTS and (content := store.get_object(snapshot_name(len(found)))) is not None:
        found.append(_decoded(content))
    return found


def _decoded(content: bytes) -> Snapshot | None:
    if len(content) > _MAX_PARTS * (_NAME_CHARS + len('"",')) + _MORE_BYTES:
        return None
    try:
        fields = orjson.loads(content)
    except ValueError:
        return None
    match fields:
        case {"v": version, "tables": tables, "entry": int(entry), "digest": str(hash_), "parts": [*parts]} if (
            (version, tables) == (_VERSION, SCHEMA_VERSION)
            and entry >= 0
            and len(parts) <= _MAX_PARTS
            and all(isinstance(part, str) and len(part) == _NAME_CHARS for part in parts)
            and len(set(parts)) == len(parts)  # one small object, named again and again, would fill any disk
        ):
            return Snapshot(position=LogPosition(entry=entry, digest=hash_), parts=parts)
    return None


def check_entry(store: LogStore, snapshot: Snapshot) -> None:
    """Check that the log has the entry that a snapshot names as its last.

    Raises:
        LogUnreachable: The store does not answer.
        LedgerError: It has another one, or none.
    """
    entry = store.read(snapshot.position.entry)
    if entry is None or digest(entry) != snapshot.position.digest:
        raise LedgerError("a snapshot is of another log")


def fetch_snapshot(store: LogStore, snapshot: Snapshot, copy: Path, log_bytes: int, stopped: threading.Event) -> None:
    """Write a snapshot into a file.

    Args:
        store: of the log.
        snapshot: one of its snapshots.
        copy: the file.
        log_bytes: how many bytes the entries hold that the snapshot stands for.
        stopped: set once the process is about to end.

    Raises:
        LogUnreachable: The store does not answer.
        LedgerError: A part is missing or damaged, or there are too many; or the process is about to end.
        OutputError: The file cannot be written.
    """
    size = len(snapshot.parts) * PIECE_BYTES
    if size > MAX_BYTES_WITHOUT_LOG + MAX_BYTES_PER_LOG_BYTE * log_bytes:
        raise LedgerError("a snapshot is much larger than its log")
    if not has_room(copy.parent, size):
        raise LedgerError("a snapshot finds no room on the disk")
    with explaining(copy):
        copy.unlink(missing_ok=True)
        with open(copy, "xb", opener=private_opener) as file:
            for piece in read_ahead(partial(_piece, store), snapshot.parts, _PARTS_AT_ONCE):
                if stopped.is_set():
                    raise LedgerError("the process is about to end")
                file.write(piece)


def _piece(store: LogStore, name: Any) -> bytes:
    try:
        return decompress_bounded(read_part(name, store.get_object), PIECE_BYTES)
    except ValueError as error:
        raise LedgerError(f"a part of a snapshot cannot be read: it {error}") from error


class SnapshotMaker:
    """Makes snapshots of the owner's ledger as it grows. Methods block; `stop` may be called by another thread."""

    def __init__(self, store: LogStore, directory: Path) -> None:
        self._store = store
        self._directory = directory
        #: The number of the next one; None: it is not known which ones there are.
        self._next: int | None = None
        #: Length of the ledger below which none is made.
        self._min_bytes = MIN_BYTES
        #: Parts of the last one, which the store has: they need not be sent again.
        self._stored = frozenset[str]()
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Leave off soon: the process is about to end."""
        self._stopped.set()

    def make_next(self) -> bool:
        """Make a snapshot if the ledger has grown enough; return False if none was made.

        Raises:
            LogUnreachable: The store does not answer.
            OutputError: The ledger cannot be copied.
        """
        with explaining(self._directory):
            size = (self._directory / LEDGER).stat().st_size
            if size < self._min_bytes or not has_room(self._directory, size):
                return False
        if self._next is None:
            self._look()
            return self.make_next()
        copy = self._directory / COPY
        try:
            position = copy_ledger(self._directory).position
            parts = self._put_parts(copy)
        finally:
            with explaining(copy):
                copy.unlink(missing_ok=True)
        if parts is None or position is None:
            return False
        fields = {"v": _VERSION, "tables": SCHEMA_VERSION, "entry": position.entry, "digest": position.digest}
        self._store.put_object(snapshot_name(self._next), orjson.dumps(fields | {"parts": parts}))
        self._next += 1
        self._min_bytes = int(size * GROWTH)
        return True

    def _look(self) -> None:
        """Find out which snapshots earlier owners have made, and of ledgers of what length."""
        found = read_snapshots(self._store)
        self._next = len(found)
        parts = max((len(each.parts) for each in found if each is not None), default=0)
        self._min_bytes = max(self._min_bytes, int(parts * PIECE_BYTES * GROWTH))

    def _put_parts(self, copy: Path) -> list[str] | None:
        """Store the pieces of a copy; return their names, or None if the process is about to end."""
        names = []
        compressor = zstandard.ZstdCompressor(level=1)
        with explaining(copy), open(copy, "rb", opener=private_opener) as file:
            while piece := file.read(PIECE_BYTES):
                if self._stopped.is_set():
                    return None
                part = compressor.compress(piece)
                names.append(digest(part))
                if names[-1] not in self._stored:
                    self._store.put_object(names[-1], part)
        self._stored = frozenset(names)
        return names
