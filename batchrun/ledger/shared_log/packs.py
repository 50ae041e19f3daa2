"""Packs: objects that repeat many entries of a log each, so that a long log is read with few requests.

The owner makes them behind its commits. Entries are never removed, and a log is whole without its packs. A heartbeat
every few seconds makes some 90,000 entries a week: one by one, a bucket would deliver them within minutes.
"""

import threading
from collections.abc import Iterator
from itertools import islice

import orjson

from batchrun.errors import LedgerError
from batchrun.ledger.shared_log.log_store import LogStore
from batchrun.ledger.shared_log.read_ahead import read_ahead, read_up_to_the_end

#: Entries of a pack; pack N holds those from N times that on.
ENTRIES_PER_PACK = 500
#: Larger entries are left out of packs and read one by one, so that a pack has 16 MB at most.
MAX_PACKED_BYTES = 32 << 10
#: Packs that are read at once.
_PACKS_AT_ONCE = 4
#: Entries that are read at once for a new pack: few, so that commits are not held up.
_READS_FOR_PACK = 4
_VERSION = 1
#: Max bytes of the first line of a pack: it has 500 numbers of up to five digits.
_MAX_LINE_BYTES = 1 << 14


def pack_name(number: int) -> str:
    """Return the name of a pack, which is part of the documented format."""
    return f"pack-{number:09}"


def read_entries(store: LogStore, number: int) -> Iterator[bytes]:
    """Yield the entries of a log from one on, in order, up to the last one that there is.

    Raises:
        LogUnreachable: The store does not answer.
        LedgerError: A pack is damaged.
    """
    while True:
        if number % ENTRIES_PER_PACK == 0:
            packs = read_up_to_the_end(
                lambda pack: store.get_object(pack_name(pack)), number // ENTRIES_PER_PACK, _PACKS_AT_ONCE
            )
            for pack in packs:
                yield from _unpacked(store, number, pack)
                number += ENTRIES_PER_PACK
        left = ENTRIES_PER_PACK - number % ENTRIES_PER_PACK
        for entry in islice(store.read_from(number), left):
            yield entry
            number += 1
            left -= 1
        if left:
            return


def _unpacked(store: LogStore, number: int, pack: bytes) -> Iterator[bytes]:
    """Yield the entries of a pack, the first of which has a number; those that it leaves out are read."""
    line, _, entries = pack.partition(b"\n")
    lengths = _lengths(line)
    if len(lengths) != ENTRIES_PER_PACK or sum(lengths) != len(entries) or min(lengths) < 0:
        name = pack_name(number // ENTRIES_PER_PACK)
        raise LedgerError(f"the object {name} of the shared log is damaged. Remove it: the log is whole without it")
    left_out = read_ahead(store.read, [number + n for n, length in enumerate(lengths) if length == 0])
    at = 0
    for length in lengths:
        entry = entries[at : at + length] if length else next(left_out)
        if entry is None:
            raise LedgerError("the shared log lacks an entry in the middle: it is damaged")
        yield entry
        at += length


def _lengths(line: bytes) -> list[int]:
    """Return the lengths that the first line of a pack names; none if it cannot be read."""
    if len(line) > _MAX_LINE_BYTES:
        return []
    try:
        header = orjson.loads(line)
        return [int(length) for length in header["lengths"]] if header["v"] == _VERSION else []
    except (ValueError, KeyError, TypeError):
        return []


class Packer:
    """Makes the packs that a log lacks, one at a time. Methods block; `stop` may be called by another thread."""

    def __init__(self, store: LogStore) -> None:
        self._store = store
        #: The next pack; None: it is not known which one is missing.
        self._next: int | None = None
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Leave off soon: the process is about to end."""
        self._stopped.set()

    def make_next(self, entries: int) -> bool:
        """Make the next missing pack of a log with a number of entries; return False if none was made.

        Raises:
            LogUnreachable: The store does not answer.
        """
        complete = entries // ENTRIES_PER_PACK
        if self._next is None:
            number = complete
            while number > 0 and self._store.get_object(pack_name(number - 1)) is None:
                number -= 1
            self._next = number  # not before: a store that fails midway is searched again from the end
        if self._next >= complete:
            return False
        content = self._content(self._next)
        if content is None:
            return False
        self._store.put_object(pack_name(self._next), content)
        self._next += 1
        return True

    def _content(self, pack: int) -> bytes | None:
        begin, entries = pack * ENTRIES_PER_PACK, list[bytes]()
        for entry in read_ahead(self._store.read, range(begin, begin + ENTRIES_PER_PACK), _READS_FOR_PACK):
            if self._stopped.is_set():
                return None
            entries.append(entry if entry is not None and len(entry) <= MAX_PACKED_BYTES else b"")
        header = {"v": _VERSION, "lengths": [len(entry) for entry in entries]}
        return orjson.dumps(header, option=orjson.OPT_APPEND_NEWLINE) + b"".join(entries)
