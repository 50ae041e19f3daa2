"""The entries of a shared log, and their bytes.

The format is documented in `docs/more-than-one-machine.md`, so that it can be read without batchrun. An entry is a JSON
line, the header, followed by the bytes that the commit appends to output files; all of it compressed with zstd.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any

import orjson
import zstandard

from batchrun.errors import LedgerError
from batchrun.ledger.shared_commits import Commit, FileGrowth, Parameters

#: Of the format. A reader refuses a log with entries of a later version.
VERSION = 1
#: Max bytes of an entry in the log. The body of a larger one is an object beside the log. NATS takes 1 MB by default.
MAX_ENTRY_BYTES = 512 << 10
#: Max bytes that an entry or its object may hold. A commit holds as much as `limits.max_buffer_mb` at most, by default
#: 256 MB.
MAX_CONTENT_BYTES = 1 << 30
#: zstd's fastest level that is not "fast": an entry is compressed while others wait for its commit.
_LEVEL = 1
_of_thread = threading.local()


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
    #: Empty unless `kind` is COMMIT.
    commit: Commit = field(default_factory=Commit)


@dataclass(frozen=True, slots=True)
class Encoded:
    """The bytes of an entry, and of the object beside the log that holds its body, if it is a large one."""

    entry: bytes
    object_name: str = ""
    object: bytes = b""


def digest(encoded: bytes) -> str:
    """Return what the next entry names as its `previous`."""
    return sha256(encoded).hexdigest()


def encode(entry: Entry) -> Encoded:
    """Return the bytes of an entry."""
    header: dict[str, Any] = {
        "v": VERSION,
        "kind": entry.kind,
        "owner": asdict(entry.owner),
        "previous": entry.previous,
    }
    if entry.kind is EntryKind.COMMIT:
        header |= _commit_header(entry.commit)
    body = b"".join(growth.data for growth in entry.commit.files.values())
    encoded = _compressed(header, body)
    if len(encoded) <= MAX_ENTRY_BYTES:
        return Encoded(encoded)
    name = digest(encoded)
    small = {key: header[key] for key in ("v", "kind", "owner", "previous")}
    return Encoded(_compressed({**small, "object": name}, b""), name, encoded)


def decode(encoded: bytes, get_object: Callable[[str], bytes | None]) -> Entry:
    """Return the entry that some bytes hold; `get_object` returns the object with the body of a large one.

    Raises:
        LedgerError: The bytes are no entry, or a newer batchrun wrote them.
    """
    header, body = _split(encoded)
    if name := header.get("object"):
        large = get_object(name)
        if large is None or digest(large) != name:
            raise LedgerError(f"an entry of the shared log lacks its object {name}, or the object is damaged")
        header, body = _split(large)
    try:
        kind = EntryKind(header["kind"])
        commit = _commit(header, body) if kind is EntryKind.COMMIT else Commit()
        return Entry(kind=kind, owner=Owner(**header["owner"]), previous=header["previous"], commit=commit)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise LedgerError(f"an entry of the shared log cannot be read: {error}") from error


def _compressed(header: Mapping[str, Any], body: bytes) -> bytes:
    line = orjson.dumps(header, option=orjson.OPT_APPEND_NEWLINE, default=_bytes_json)
    return zstandard.ZstdCompressor(level=_LEVEL).compress(line + body)


def _decompress(encoded: bytes) -> bytes:
    """Decompress with one decompressor per thread, since making one takes longer than most entries."""
    if not hasattr(_of_thread, "decompressor"):
        _of_thread.decompressor = zstandard.ZstdDecompressor()
    if zstandard.frame_content_size(encoded) > MAX_CONTENT_BYTES:
        raise ValueError(f"it holds more than {MAX_CONTENT_BYTES >> 20} MB")
    decompressed: bytes = _of_thread.decompressor.decompress(encoded)
    return decompressed


def _split(encoded: bytes) -> tuple[Any, bytes]:
    try:
        line, _, body = _decompress(encoded).partition(b"\n")
        header = orjson.loads(line)
        is_newer = header["v"] > VERSION
    except (zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
        raise LedgerError(f"an entry of the shared log cannot be read: {error}") from error
    if is_newer:
        raise LedgerError("the shared log was written by a newer batchrun; use that one")
    return header, body


def _commit_header(commit: Commit) -> dict[str, Any]:
    """Return the JSON of a commit: each statement once, then its uses with their parameters, in order."""
    numbers: dict[str, int] = {}
    changes = [(numbers.setdefault(sql, len(numbers)), parameters) for sql, parameters in commit.changes]
    files = {name: [growth.offset, len(growth.data)] for name, growth in commit.files.items()}
    return {"statements": list(numbers), "changes": changes, "files": files}


def _commit(header: Mapping[str, Any], body: bytes) -> Commit:
    statements = header["statements"]
    changes = [(statements[number], _parameters(values)) for number, values in header["changes"]]
    files, at = {}, 0
    for name, (offset, length) in header["files"].items():
        files[name] = FileGrowth(offset=offset, data=body[at : at + length])
        at += length
    if at != len(body):
        raise ValueError("its bytes are not those that it names")
    return Commit(changes=changes, files=files)


def _bytes_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    raise TypeError(f"{type(value)} is no value of a ledger")


def _parameters(values: Sequence[Any] | Mapping[str, Any]) -> Parameters:
    if isinstance(values, Mapping):
        return {name: _parameter(value) for name, value in values.items()}
    return tuple([_parameter(value) if type(value) is dict else value for value in values])


def _parameter(value: Any) -> Any:
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value
