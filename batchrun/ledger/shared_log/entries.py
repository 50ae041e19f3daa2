"""The entries of a shared log, and their bytes.

The format is documented in `docs/more-than-one-machine.md`, so that it can be read without batchrun. An entry is a JSON
line, the header, followed by the bytes that the commit appends to output files; all of it compressed with zstd.
Of a large commit the header names objects, which hold the rest of the line and the bytes.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, field
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from io import BufferedIOBase
from typing import Any

import orjson
import zstandard

from batchrun.errors import LedgerError
from batchrun.ledger.shared_commits import Commit, FileGrowth, Parameters
from batchrun.ledger.sqlite.schema_version import SCHEMA_VERSION
from batchrun.runtime.bounded_zstd import open_bounded
from batchrun.runtime.fast_dataclasses import dataclass, replace
from batchrun.runtime.free_memory import PARSED_BYTES_PER_BYTE, parsed_bytes

#: Of the format. A reader refuses a log with entries of a later version.
VERSION = 1
#: Max bytes of an entry in the log. A larger commit is in objects beside the log. NATS takes 1 MB by default.
MAX_ENTRY_BYTES = 512 << 10
#: Max bytes of an object. It must reach the store within the time of one request, also from a slow line.
MAX_OBJECT_BYTES = 4 << 20
#: Max bytes that an entry may hold, with its objects. A commit holds one value of 512 MB at most, and besides a part of
#: `limits.max_buffer_mb`, by default 64 MB.
MAX_CONTENT_BYTES = 1 << 30
#: Max bytes of memory that an entry's JSON may take, by reckoning: a change takes about 1 KB, and the largest commits
#: have some 100,000. The first entry may hold a whole ledger that was begun without a log: a job and its attempt take
#: 2.6 KB by reckoning and 500 bytes or more on the disk, of which there are 128 MB at most.
_MAX_PARSED_BYTES, _MAX_FIRST_PARSED_BYTES = 512 << 20, 1 << 30
#: Max bytes for files that are held with their entry. If there are more, they are decompressed as they are written,
#: piece by piece: the bytes of a piece.
_MAX_HELD_BYTES, _PIECE_BYTES = 16 << 20, 1 << 20
#: Longest lease of an owner, in seconds: a day.
_MAX_LEASE_S = 86_400.0
_MAX_OWNER_CHARS = 200
#: Max bytes of the line of an entry without its statements and changes, for which no memory is reckoned.
_MAX_SHORT_BYTES = 1 << 20
_IS_DIGEST = re.compile(r"[0-9a-f]{64}")
#: zstd's fastest level that is not "fast": an entry is compressed while others wait for its commit.
_LEVEL = 1


class EntryKind(StrEnum):
    """What an entry says."""

    #: A process has become the batch's owner.
    CLAIM = "claim"
    #: The owner has committed something.
    COMMIT = "commit"
    #: The owner is alive and has nothing else to say.
    HEARTBEAT = "heartbeat"
    #: The owner has left the batch: no wait is needed before the next claim.
    RELEASE = "release"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """A process that carries a batch out."""

    #: Random; each claim has another.
    id: str
    #: Host and process, for people.
    name: str
    #: For how long the owner may start Runs after its last append, in seconds.
    lease_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of a log."""

    kind: EntryKind
    #: The process that has appended it.
    owner: Owner
    #: SHA-256 of the entry before, as hexadecimal digits; empty in the first one.
    previous: str
    #: Of a COMMIT; and of the first claim of a batch that was begun without a log: all that there was. Else empty.
    commit: Commit = field(default_factory=Commit)
    #: Bytes of its commit, before it was compressed.
    length: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Content:
    """What a commit changes, as bytes: a JSON object, and what is appended to files."""

    line: bytes = b"{}"
    body: bytes = b""
    #: Parts of a large commit by their names; they must be stored before the entry that names them.
    objects: Mapping[str, bytes] = field(default_factory=dict)


#: Of an entry that is no commit.
NOTHING = Content()


def digest(encoded: bytes) -> str:
    """Return what the next entry names as its `previous`."""
    return sha256(encoded).hexdigest()


def commit_content(commit: Commit, *, is_first: bool = False) -> Content:
    """Return the bytes of a commit; those of a large one are objects beside the log.

    Args:
        commit: what is to be written.
        is_first: True for the first entry of a log.

    Raises:
        LedgerError: no reader takes a commit so large.
    """
    line = orjson.dumps(_commit_header(commit), default=_bytes_json)
    body = b"".join(growth.data for growth in commit.files.values())
    if len(line) + len(body) > MAX_CONTENT_BYTES or parsed_bytes(line) > _max_parsed(is_first):
        what_to_do = (
            "run it to its end without [replica]" if is_first else "lower limits.max_buffer_mb, and run it again"
        )
        raise LedgerError(
            f"a commit of {(len(line) + len(body)) >> 20:,} MB is too large for the shared log; {what_to_do}"
        )
    if len(line) + len(body) <= MAX_ENTRY_BYTES:
        return Content(line, body)
    compressed = _compress(line + b"\n" + body)
    if len(compressed) <= MAX_ENTRY_BYTES:
        return Content(line, body)
    view = memoryview(compressed)
    parts = [bytes(view[at : at + MAX_OBJECT_BYTES]) for at in range(0, len(view), MAX_OBJECT_BYTES)]
    names = [digest(part) for part in parts]
    return Content(orjson.dumps({"objects": names}), b"", dict(zip(names, parts, strict=True)))


def encode(kind: EntryKind, owner: Owner, previous: str, content: Content = NOTHING) -> bytes:
    """Return the bytes of an entry.

    Args:
        kind: of the entry.
        owner: who appends it.
        previous: SHA-256 of the entry before.
        content: of a commit.
    """
    header = orjson.dumps(
        {"v": VERSION, "tables": SCHEMA_VERSION, "kind": kind, "owner": asdict(owner), "previous": previous}
    )
    more = b"," + content.line[1:] if content.line != b"{}" else b"}"
    return _compress(header[:-1] + more + b"\n" + content.body)


def decode(
    encoded: bytes,
    get_object: Callable[[str], bytes | None],
    *,
    with_changes: bool = True,
    is_first: bool = False,
) -> Entry:
    """Return the entry that some bytes hold; `get_object` returns a part of a large one.

    Args:
        encoded: what `encode` has returned.
        get_object: returns an object of the log; None: there is none.
        with_changes: False leaves out what the commit changes in the tables; it is not looked at.
        is_first: True for the first entry of a log.

    Raises:
        LedgerError: The bytes are no entry, or a newer batchrun wrote them.
    """
    content = _split(encoded, is_first=is_first, with_changes=with_changes)
    with _explaining:
        entry = _head(content.header)
        if names := content.header.get("objects"):
            if len(names) > MAX_CONTENT_BYTES // MAX_OBJECT_BYTES + 1:
                raise ValueError("it names too many objects")
            if len(set(names)) < len(names):  # one object, named again and again, would fill the memory
                raise ValueError("it names an object twice")
            parts = b"".join(read_part(name, get_object) for name in names)
            content = _split(parts, is_first=is_first, with_changes=with_changes)
        if entry.kind is EntryKind.COMMIT or content.header.keys() & {"changes", "files"}:
            return replace(entry, commit=_commit(content, with_changes=with_changes), length=content.length)
        return entry


def decode_head(encoded: bytes) -> Entry:
    """Return an entry without its commit: nothing but who has appended it, after which one.

    Raises:
        LedgerError: as `decode` does.
    """
    content = _split(encoded, is_first=False, with_changes=False)
    with _explaining:
        return _head(content.header)


def _head(header: Any) -> Entry:
    if header["v"] > VERSION or header.get("tables", 0) > SCHEMA_VERSION:
        raise LedgerError("the shared log was written by a newer batchrun; use that one")
    owner = header["owner"]
    owner = _owner(owner["id"], owner["name"], owner["lease_s"])
    return Entry(kind=EntryKind(header["kind"]), owner=owner, previous=header["previous"])


class _Explaining:
    """Turns errors of another shape than an entry's into one in words. A generator would take a tenth of a replay."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _at: object) -> None:
        if isinstance(error, (AttributeError, KeyError, ValueError, TypeError, IndexError, OverflowError)):
            raise LedgerError(f"an entry of the shared log cannot be read: {error}") from error


_explaining = _Explaining()


@lru_cache(maxsize=1)  # one owner appends most entries in a row
def _owner(id_: Any, name: Any, lease_s: Any) -> Owner:
    match id_, name, lease_s:
        case str(), str(), int() | float() if 0 <= lease_s <= _MAX_LEASE_S:
            # On one line: the name is printed, and anybody who can write to the log may have chosen it.
            return Owner(id=id_, name=" ".join(name[:_MAX_OWNER_CHARS].split()), lease_s=lease_s)
    raise ValueError("its owner is none")


def read_part(name: Any, get_object: Callable[[str], bytes | None]) -> bytes:
    """Return an object that is named by its SHA-256.

    Raises:
        LedgerError: It is missing or damaged.
        ValueError: That is the name of none.
    """
    if not isinstance(name, str) or not _IS_DIGEST.fullmatch(name):
        raise ValueError(f"{str(name)[:100]!r} names no object")
    part = get_object(name)
    if part is None or digest(part) != name:
        raise LedgerError(f"the shared log lacks the object {name}, or it is damaged")
    return part


def _compress(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=_LEVEL).compress(content)


@dataclass(frozen=True, slots=True)
class _Split:
    """An entry, or a large commit, of which only the JSON line was read."""

    header: Any
    #: What follows.
    body: BufferedIOBase
    body_length: int
    #: Bytes of both.
    length: int


def _split(encoded: bytes, *, is_first: bool, with_changes: bool) -> _Split:
    try:
        content, size = open_bounded(encoded, MAX_CONTENT_BYTES)
        line = content.readline(_max_parsed(is_first) + 1)
        header = None if with_changes else _header_without_changes(line)
        return _Split(header or _header(line, _max_parsed(is_first)), content, size - len(line), size)
    except ValueError as error:
        raise LedgerError(f"an entry of the shared log cannot be read: it {error}") from error


def _header(line: bytes, max_parsed_bytes: int) -> Any:
    # Most lines are so short that what they hold need not be counted.
    if len(line) * PARSED_BYTES_PER_BYTE > max_parsed_bytes and (parsed := parsed_bytes(line)) > max_parsed_bytes:
        raise ValueError(f"would take {parsed >> 20:,} MB of memory")
    return orjson.loads(line)


def _header_without_changes(line: bytes) -> Any:
    """Return what a line says before its statements and after its changes; None: it is not laid out as `encode` does.

    These two are nearly all of it. Inside a text of JSON, each quotation mark has a backslash before it, so what is
    looked for is never found there.
    """
    begin, end = line.find(b',"statements":'), line.rfind(b',"files":')
    if not 0 < begin < end or len(line) - (end - begin) > _MAX_SHORT_BYTES:
        return None
    try:
        return orjson.loads(line[:begin] + line[end:])
    except ValueError:
        return None


def _max_parsed(is_first: bool) -> int:
    return _MAX_FIRST_PARSED_BYTES if is_first else _MAX_PARSED_BYTES


def _commit_header(commit: Commit) -> dict[str, Any]:
    """Return the JSON of a commit: each statement once, then its uses with their parameters, in order."""
    numbers: dict[str, int] = {}
    changes = [(numbers.setdefault(sql, len(numbers)), parameters) for sql, parameters in commit.changes]
    files = {name: [growth.offset, len(growth.data)] for name, growth in commit.files.items()}
    return {"statements": list(numbers), "changes": changes, "files": files}


def _commit(content: _Split, *, with_changes: bool) -> Commit:
    header = content.header
    changes = _changes(header["statements"], header["changes"]) if with_changes else ()
    named = header["files"]
    for name, (offset, length) in named.items():
        if not (type(offset) is type(length) is int and offset >= 0 and length >= 0):
            raise ValueError(f"what it appends to {name[:100]!r} has no place")
    if sum(length for _, length in named.values()) != content.body_length:
        raise ValueError("its bytes are not those that it names")
    is_large, files = content.body_length > _MAX_HELD_BYTES, {}
    for name, (offset, length) in named.items():
        if is_large:
            files[name] = FileGrowth(offset=offset, pieces=_pieces(content.body, length))
        else:
            files[name] = FileGrowth(offset=offset, data=content.body.read(length))
            if len(files[name].data) < length:
                raise ValueError("its bytes end early")
    return Commit(changes=changes, files=files)


def _pieces(body: BufferedIOBase, length: int) -> Iterator[bytes]:
    """Yield the next bytes of an entry, as they are asked for."""
    while length:
        with _explaining:
            if not (piece := body.read(min(length, _PIECE_BYTES))):
                raise ValueError("its bytes end early")
        length -= len(piece)
        yield piece


def _changes(statements: Sequence[str], uses: Any) -> list[tuple[str, Parameters]]:
    """Replace the number of its statement in each change by the statement. A second list would take as much memory."""
    if not all(isinstance(sql, str) for sql in statements):
        raise ValueError("a statement of it is no text")
    if not isinstance(uses, list):
        raise ValueError("its changes are no list")
    for at, (number, values) in enumerate(uses):
        uses[at] = (statements[number], _parameters(values))
    return uses


def _bytes_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    raise TypeError(f"{type(value)} is no value of a ledger")


def _parameters(values: Any) -> Parameters:
    if type(values) is dict:
        return {name: _parameter(value) for name, value in values.items()}
    if dict in map(type, values):
        return tuple([_parameter(value) for value in values])
    return tuple(values)


def _parameter(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if type(value) is dict else value
