"""The list of a fleet's batches: a log of what was submitted and what has become of it; files are objects beside it.

A later entry of a batch replaces an earlier one, unless an owner has written it that another one had replaced before.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, Self

import structlog
import zstandard
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from batchrun.config.text_bounds import MAX_KEY_PARTS
from batchrun.errors import LedgerError, OutputError
from batchrun.ledger.shared_log.log_store import LogStore
from batchrun.output.sink import explaining
from batchrun.runtime.bounded_zstd import decompress_bounded
from batchrun.runtime.free_space import has_room
from batchrun.runtime.private_files import private_opener
from batchrun.worker.fleet.sharded_order import ShardedOrder
from batchrun.worker.submission import FILES, Submission

#: Name of the list's log within the fleet's place.
LIST_LOG = "list"
#: Bytes of a file that one object holds.
PIECE_BYTES = 8 << 20
#: Max pieces of a job file; the other files have one.
MAX_PIECES = 2000
#: Max characters of the id of a batch in shards: its parts have longer ones.
MAX_ID = 60
#: Max bytes of an entry: settings are 256 KB at most.
_MAX_ENTRY_BYTES = 4 << 20
#: Max characters of a batch's name (200, and what tells it from its namesakes), of its keys, and of a worker's name.
_MAX_NAME, _MAX_KEY, _MAX_WORKER = 250, 250, 1_000
_BATCH_FILE, _SCHEMA_FILE = FILES["config"], FILES["schema"]
_IS_JOB_FILE = re.compile(r"jobs\.(jsonl|ndjson|json|csv|tsv)(\.(gz|zst))?", re.IGNORECASE)

#: A SHA-256.
ObjectName = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

_log = structlog.get_logger()


class ListedBatch(BaseModel):
    """A batch, as the list has it. Others may have written it: no field leads out of the batch's directory.

    Raises:
        ValidationError: One does.
    """

    model_config = ConfigDict(frozen=True)

    v: Literal[1] = 1
    submission: Submission
    #: Its files by name in the batch's directory: the objects that hold them, in order.
    files: dict[str, list[ObjectName]] = {}
    #: Number of the page on which the owner that has written this took the batch; -1: it had none.
    taken_at: Annotated[int, Field(ge=-1, le=2**53)] = -1
    #: The worker that has written this, for people: its name and address.
    worker: Annotated[str, AfterValidator(lambda worker: " ".join(worker[:_MAX_WORKER].split()))] = ""
    #: What the page counts of it as spent for good while it rests, in millionths of a US dollar: with what its Runs may
    #: cost whose cost is not final. None: an earlier version has written this.
    spent_micro_usd: Annotated[int, Field(ge=0, le=2**53)] | None = None
    #: True: it was deleted, with its parts, for good.
    deleted: bool = False
    #: Of a batch in shards: what its parts are to obey, oldest first.
    orders: list[ShardedOrder] = []

    @model_validator(mode="after")
    def _could_be_submitted(self) -> Self:
        batch = self.submission
        if len(batch.name) > _MAX_NAME or not batch.name.isprintable():
            raise ValueError(f"a name has at most {_MAX_NAME} printable characters")
        retry_id = batch.retry.id if batch.retry is not None else None
        ordered = [order.retry.id for order in self.orders if order.retry is not None]
        keys = (batch.idempotency_key, batch.content_digest, batch.retried, retry_id, *ordered)
        if any(key is not None and len(key) > _MAX_KEY for key in keys):
            raise ValueError(f"a key or a digest has at most {_MAX_KEY} characters")
        if any(key.count(".") >= MAX_KEY_PARTS for key in batch.settings):
            raise ValueError(f"a setting has at most {MAX_KEY_PARTS} parts")
        return self

    @model_validator(mode="after")
    def _has_own_files_only(self) -> Self:
        batch, jobs = self.submission, self.submission.jobs_file
        if batch.profile is not None or batch.spooled is not None or batch.batch_file != _BATCH_FILE:
            raise ValueError(f"a batch of a fleet has a file of its own, {_BATCH_FILE}")
        if jobs is not None and not _IS_JOB_FILE.fullmatch(jobs):
            raise ValueError("is no job file: use .jsonl .ndjson .json .csv .tsv, each also .gz .zst")
        if batch.schema_file not in (None, _SCHEMA_FILE):
            raise ValueError(f"the schema of a batch of a fleet is called {_SCHEMA_FILE}")
        if self.files.keys() != {_BATCH_FILE, batch.schema_file, jobs} - {None}:
            raise ValueError("its files are not those that it names")
        if any(len(names) > (MAX_PIECES if file == jobs else 1) for file, names in self.files.items()):
            raise ValueError("a file is larger than a fleet carries: 16 GB of jobs, 8 MB of anything else")
        if batch.shards is not None and (batch.part_of is not None or len(batch.id) > MAX_ID):
            raise ValueError("a part of a batch has no parts")
        return self

    @property
    def part_ids(self) -> list[str]:
        """The ids of the batches that carry out one in shards."""
        return [f"{self.submission.id}-{number}" for number in range(1, (self.submission.shards or 0) + 1)]

    def parts(self) -> Iterator[Self]:
        """Yield the batches that carry out one in shards, as they are when it has just been submitted."""
        whole = self.submission
        for number, part_id in enumerate(self.part_ids, start=1):
            part = whole.but(
                id=part_id,
                name=f"{whole.name[:200]}-{number}of{whole.shards}",
                settings={**whole.settings, "jobs.shard": [number, whole.shards]},
                shards=None,
                part_of=whole.id,
                idempotency_key=None,
                content_digest=None,
            )
            yield type(self)(submission=part, files=self.files)


#: Returns the entry to append, given what the list has; None: none is to be appended.
Decide = Callable[[Mapping[str, ListedBatch]], ListedBatch | None]


class FleetList:
    """The list. Methods block; one thread at a time calls `read` and `append`.

    Raises:
        LogUnreachable: The store does not answer. An entry may have been appended all the same: `read` shows it.
        LedgerError: An object is damaged. An entry that is damaged, or of another program, is logged and skipped.
    """

    def __init__(self, store: LogStore) -> None:
        self._store = store
        self._next = 0
        self._batches: dict[str, ListedBatch] = {}
        #: Ids of the batches that were deleted, and of their parts.
        self.deleted: set[str] = set()

    def read(self) -> Mapping[str, ListedBatch]:
        """Return all batches by id, as the newest entries have them."""
        for encoded in self._store.read_from(self._next):
            try:
                self._note(_decode(encoded))
            except LedgerError as error:  # the batches of the other entries go on
                _log.error("fleet_entry_skipped", entry=self._next, reason=str(error))
            self._next += 1
        return self._batches

    def _note(self, entry: ListedBatch) -> None:
        """Let an entry replace the one before it.

        Raises:
            LedgerError: It is none of a worker: with it, a batch in shards would not have all its parts.
        """
        batch = entry.submission.id
        known = self._batches.get(batch)
        if batch in self.deleted or (known is not None and entry.taken_at < known.taken_at):
            return
        parts = entry.part_ids
        self._check_parts(entry, parts)
        if entry.deleted:
            self.deleted |= {batch, *parts}
            for each in (batch, *parts):
                self._batches.pop(each, None)
            return
        self._batches[batch] = entry
        if not self._batches.keys() >= set(parts):  # an order for the batch leaves its parts as they are
            for part in entry.parts():
                self._batches.setdefault(part.submission.id, part)

    def _check_parts(self, entry: ListedBatch, parts: Sequence[str]) -> None:
        submission = entry.submission
        known = self._batches.get(submission.id)
        if known is not None and _kinship(known.submission) != _kinship(submission):
            raise LedgerError(f"it makes something else of {submission.id}: a part, or a batch in other shards")
        if entry.deleted and submission.part_of in self._batches:
            raise LedgerError(f"it deletes {submission.id}, a part of {submission.part_of}, which is deleted as one")
        others = {each: self._batches.get(each) for each in parts}
        if any(other is not None and other.submission.part_of != submission.id for other in others.values()):
            raise LedgerError(f"a part of {submission.id} is a batch by itself")
        if not self.deleted.isdisjoint(parts):
            raise LedgerError(f"a part of {submission.id} was deleted before it")

    @property
    def length(self) -> int:
        """The number of entries that were read."""
        return self._next

    def append(self, decide: Decide) -> ListedBatch | None:
        """Append an entry, and return it; `decide` is called again if another one has come first."""
        while (entry := decide(self.read())) is not None:
            if self._store.append(
                self._next, zstandard.compress(entry.model_dump_json(exclude_defaults=True).encode())
            ):
                return entry
        return None

    def put_file(self, file: Path) -> list[str]:
        """Store a file, and return the names of its objects."""
        names = []
        with explaining(file), open(file, "rb", opener=private_opener) as opened:
            while piece := opened.read(PIECE_BYTES):
                encoded = zstandard.compress(piece)
                names.append(sha256(encoded).hexdigest())
                self._store.put_object(names[-1], encoded)
        return names

    def get_file(self, names: list[str], file: Path) -> None:
        """Write a file that is stored under these names; a file that is there is left as it is.

        Raises:
            OutputError: It cannot be written, or would fill the disk.
        """
        if file.exists():
            return
        beside = file.with_name(f".{file.name}.new")
        with explaining(file):
            try:
                with open(beside, "wb", opener=private_opener) as opened:
                    for number, name in enumerate(names):
                        if not has_room(file.parent, (len(names) - number) * PIECE_BYTES):
                            raise OutputError(f"{file}: the disk is too full for it")
                        opened.write(self._piece(name))
                beside.replace(file)
            finally:
                with suppress(FileNotFoundError):
                    beside.unlink()

    def _piece(self, name: str) -> bytes:
        encoded = self._store.get_object(name)
        if encoded is None or sha256(encoded).hexdigest() != name:
            raise LedgerError(f"the fleet's store lacks the object {name}, or it is damaged")
        try:
            return decompress_bounded(encoded, PIECE_BYTES)
        except ValueError as error:
            raise LedgerError(f"the object {name} of the fleet's store {error}") from error


def _kinship(submission: Submission) -> tuple[int | None, str | None]:
    """Return what never changes of a batch: its shards, and of which batch it is one."""
    return submission.shards, submission.part_of


def _decode(encoded: bytes) -> ListedBatch:
    try:
        return ListedBatch.model_validate_json(decompress_bounded(encoded, _MAX_ENTRY_BYTES))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(each) for each in first["loc"])
        raise LedgerError(f"an entry of the fleet's list cannot be read: {where}: {first['msg']}"[:500]) from error
    except ValueError as error:
        raise LedgerError(f"an entry of the fleet's list cannot be read: it {error}") from error
