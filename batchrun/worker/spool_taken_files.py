"""How a file of the spool is known again, also once its batch was deleted: what has run does not run again."""

import os
from hashlib import sha256
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, ValidationError

from batchrun.config.text_bounds import parse_toml, read_bounded
from batchrun.output.atomic_write import replace_file
from batchrun.output.sink import explaining, sync_directory
from batchrun.runtime.private_files import input_opener, private_opener, read_private
from batchrun.worker.submission import BatchState, Submission

#: Notes from which on old ones of files that are gone are dropped, 10 MB; most bytes that are read.
_MAX_NOTES, _MAX_BYTES = 100_000, 256 << 20
#: Bytes of a file that are read at a time, and how often at most: a tenth of a second, in which no other is taken.
_PIECE_BYTES, _MAX_PIECES = 1 << 20, 64


class TakenFile(BaseModel):
    """A file as it was when its batch was deleted."""

    model_config = ConfigDict(frozen=True)

    #: Relative to the spool.
    name: PurePosixPath
    signature: str
    #: As `beginning_of` gives it.
    beginning: str | None = None
    is_cancelled: bool = False


class TakenFiles:
    """Notes of deleted batches, by the names of their files: one line of JSON each, the last one of a name counts.

    A file that is absent keeps its note: its disk may only be unmounted.

    Methods raise:
        OutputError: the notes cannot be read or written.
    """

    def __init__(self, file: Path, spool: Path) -> None:
        self._file, self._spool = file, spool
        self._known: dict[PurePosixPath, TakenFile] = {}

    def load(self) -> None:
        with explaining(self._file):
            if not self._file.exists():
                return
            lines = read_private(self._file, _MAX_BYTES).splitlines()
        for line in lines:
            self._read(line)
        if len(lines) > _MAX_NOTES:
            old = [*self._known.values()][: -_MAX_NOTES // 2]
            gone = {each.name for each in old if not (self._spool / each.name).exists()}
            self._known = {name: each for name, each in self._known.items() if name not in gone}
            replace_file(self._file, [_line(each) for each in self._known.values()], is_durable=True)

    def _read(self, line: bytes) -> None:
        try:
            taken = TakenFile.model_validate_json(line)
        except ValidationError:
            return  # its process was killed before it deleted the batch
        self._known.pop(taken.name, None)
        self._known[taken.name] = taken

    def get(self, name: PurePosixPath) -> TakenFile | None:
        return self._known.get(name)

    def note(self, submission: Submission) -> None:
        """Keep the file of a batch that is about to be deleted, if it has begun or was cancelled. Blocks."""
        is_cancelled = submission.state is BatchState.CANCELLED
        if submission.spooled is None or submission.signature is None:
            return
        if submission.begun_at is not None or is_cancelled:
            self.add(
                TakenFile(
                    name=submission.spooled,
                    signature=submission.signature,
                    beginning=submission.beginning,
                    is_cancelled=is_cancelled,
                )
            )

    def add(self, taken: TakenFile) -> None:
        """Note a file, in the place of what was noted of its name. Blocks."""
        with explaining(self._file):
            with open(self._file, "ab", opener=private_opener) as opened:
                opened.write(_line(taken))
                opened.flush()
                os.fsync(opened.fileno())
            sync_directory(self._file.parent)
        self._known[taken.name] = taken


def _line(taken: TakenFile) -> bytes:
    # The line's end comes first: the one before may be incomplete, of a process that was killed.
    return f"\n{taken.model_dump_json()}".encode()


def beginning_of(file: Path, before: str | None = None) -> str | None:
    """Return what a file begins with, and what the job file does that it names: `SIZE-DIGEST` of each. Blocks.

    Args:
        file: of the spool.
        before: what was returned before: of as many bytes as then; None: of all.

    Returns:
        None: one of them cannot be read.
    """
    files = [file, *_named_by(file)]
    sizes = _sizes_in(before) if before is not None else [None] * len(files)
    parts = [_digest_of(*each) for each in zip(files, sizes, strict=False)]
    return None if None in parts else " ".join(filter(None, parts))


def _named_by(file: Path) -> list[Path]:
    """Return the job file that a batch file names; none: it names none, or it is no batch file."""
    if file.suffix.lower() != ".toml":
        return []
    try:
        jobs = parse_toml(read_bounded(file).decode()).get("jobs")
    except (OSError, ValueError):
        return []
    name = jobs.get("file") if isinstance(jobs, dict) else None
    return [file.parent / name] if isinstance(name, str) else []


def _sizes_in(beginning: str) -> list[int]:
    return [int(part.partition("-")[0]) for part in beginning.split()]


def _digest_of(file: Path, size: int | None) -> str | None:
    """Return size and digest of a file's first bytes: of all, or of pieces from everywhere, up to their end."""
    digest = sha256()
    try:
        with open(file, "rb", opener=input_opener) as opened:
            if size is None:
                size = os.fstat(opened.fileno()).st_size
            last = [size - _PIECE_BYTES] if size > _PIECE_BYTES * _MAX_PIECES else []
            for at in (*range(0, size, max(_PIECE_BYTES, size // _MAX_PIECES)), *last):
                opened.seek(at)
                digest.update(opened.read(min(_PIECE_BYTES, size - at)))
    except (OSError, ValueError):
        return None
    return f"{size}-{digest.hexdigest()}"


def is_same_file(before: Submission | TakenFile, file: Path, signature: str) -> bool:
    """True if a file begins with all that the one before held: it has grown or was touched, or is a copy. Blocks.

    The inode would not tell: editors change that of a file, and a file system gives that of a removed file to the next.
    """
    if signature == before.signature:
        return True
    if before.beginning is not None:
        # Of an empty file nothing could run twice.
        return all(_sizes_in(before.beginning)) and beginning_of(file, before.beginning) in (before.beginning, None)
    # It was taken by an earlier version.
    inode, *content = (before.signature or "").split("-", 2)
    inode_now, *content_now = signature.split("-", 2)
    return inode == inode_now or content == content_now
