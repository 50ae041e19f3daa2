"""The form of a submitted batch: its parts are read one by one, the job file straight to the disk."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePath
from typing import Any

import anyio
from aiohttp import BodyPartReader, web

from batchrun.config.text_bounds import MAX_KEY_PARTS, parse_json
from batchrun.jobs import is_job_file
from batchrun.output.sink import explaining, sync_directory
from batchrun.runtime.free_space import has_room
from batchrun.runtime.private_files import private_opener
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.request_context import BODY_TIMEOUT_S, MIN_BYTES_PER_S, refuse_encoding, too_slow
from batchrun.worker.submission import FILES, digest_of
from batchrun.worker.submission_config import stored_job_file

#: Max bytes of a text: one of 1 MiB can take tomllib seconds and 150 MB.
MAX_TEXT_BYTES = 1 << 18
#: Max bytes of another field, apart from the job file.
MAX_VALUE_BYTES = 1 << 12
_PIECE_BYTES = 1 << 18
_TEXTS = frozenset({"config", "schema", "settings"})
_FIELDS = _TEXTS | {"profile", "name", "weight", "priority", "shards"}


@dataclass(slots=True)
class Form:
    """The content of a form; a field that cannot be read is Refused."""

    #: The text fields, by name.
    texts: dict[str, str] = field(default_factory=dict)
    #: The job file's name in the batch's directory; None: the form has none.
    jobs_file: str | None = None
    #: The job file's name at the client, without its format.
    jobs_stem: str | None = None
    #: SHA-256 of the job file.
    jobs_digest: str = ""
    #: True if its batch was submitted: its files stay.
    is_kept: bool = False

    def number(self, name: str, kind: type[int] | type[float]) -> Any:
        """Return a field as a number; None if it is missing."""
        text = self.texts.get(name)
        if text is None:
            return None
        try:
            return kind(text)
        except ValueError:
            raise Refused(400, "bad-value", f"{name}: {text[:100]!r} is not a number") from None

    @property
    def digest(self) -> str:
        """SHA-256 of what the batch does."""
        return digest_of(self.texts, self.jobs_file, self.jobs_digest)

    def settings(self) -> dict[str, Any]:
        """Return the settings, by dotted key."""
        try:
            settings = parse_json(self.texts.get("settings", "{}"))
        except ValueError as error:
            raise Refused(400, "bad-value", f"settings: {error}") from None
        if not isinstance(settings, dict):
            raise Refused(400, "bad-value", 'settings: send an object by dotted key, like {"limits.start_rate": 5}')
        if any(key.count(".") >= MAX_KEY_PARTS for key in settings):
            raise Refused(400, "bad-value", f"settings: a key has more than {MAX_KEY_PARTS} parts")
        return settings


@asynccontextmanager
async def uploaded(request: web.Request, directory: Path) -> AsyncIterator[Form]:
    """Read a form into a new directory, which is deleted after the block unless `is_kept` is set.

    Raises:
        Refused: the form is invalid.
        OutputError: its files cannot be written.
    """
    refuse_encoding(request)
    if request.content_type != "multipart/form-data":
        raise Refused(415, "unsupported-media-type", "submit a batch as multipart/form-data")
    with explaining(directory):
        await anyio.Path(directory).mkdir(mode=0o700)
    form = Form()
    try:
        await _read(request, form, directory)
        yield form
    finally:
        if not form.is_kept:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))


async def _read(request: web.Request, form: Form, directory: Path) -> None:
    try:
        with anyio.fail_after(BODY_TIMEOUT_S) as limit:
            async for part in await request.multipart():
                if not isinstance(part, BodyPartReader):
                    raise Refused(400, "bad-form", "a part of the form is a form itself")
                await _take(part, form, directory, limit)
    except TimeoutError:
        raise too_slow() from None
    except (ValueError, AssertionError, RuntimeError) as error:  # the parser's errors
        raise Refused(400, "bad-form", f"the form cannot be read: {error}"[:500]) from None
    for field_name, file_name in FILES.items():
        if field_name in form.texts:
            await _write_text(directory / file_name, form.texts[field_name])


async def _take(part: BodyPartReader, form: Form, directory: Path, limit: anyio.CancelScope) -> None:
    name = part.name or ""
    if name == "jobs":
        if form.jobs_file is not None:
            raise Refused(400, "bad-form", "jobs: appears twice; a batch has one job file")
        await _take_jobs(_pieces(part, limit), part.filename, form, directory)
        return
    if name not in _FIELDS:
        raise Refused(
            400, "bad-form", f"{name[:100]!r} is not a field of a batch; choose from {', '.join(sorted(_FIELDS))}, jobs"
        )
    if name in form.texts:
        raise Refused(400, "bad-form", f"{name}: appears twice")
    form.texts[name] = await _text(_pieces(part, limit), name)


async def _pieces(part: BodyPartReader, limit: anyio.CancelScope) -> AsyncIterator[bytes]:
    """Yield a part's content; what arrives extends the time limit."""
    while piece := await part.read_chunk(_PIECE_BYTES):
        limit.deadline += len(piece) / MIN_BYTES_PER_S
        yield piece


async def _text(pieces: AsyncIterator[bytes], name: str) -> str:
    read = bytearray()
    most = MAX_TEXT_BYTES if name in _TEXTS else MAX_VALUE_BYTES
    async for piece in pieces:
        read += piece
        if len(read) > most:
            raise Refused(413, "body-too-large", f"{name}: is larger than {most:,} bytes")
    try:
        return read.decode()
    except UnicodeDecodeError:
        raise Refused(400, "bad-value", f"{name}: is not UTF-8 text") from None


async def _take_jobs(pieces: AsyncIterator[bytes], name: str | None, form: Form, directory: Path) -> None:
    given = PurePath(name or "jobs.jsonl").name
    if not is_job_file(given):
        raise Refused(
            400,
            "bad-value",
            f"jobs: {given[:100]!r} is not a job file; use .jsonl .ndjson .json .csv .tsv, each also .gz .zst",
        )
    form.jobs_file, form.jobs_stem = stored_job_file(given)
    file = directory / form.jobs_file
    with explaining(file):
        digest = sha256()
        async with await anyio.open_file(file, "wb", opener=private_opener) as opened:
            async for piece in pieces:
                if not await anyio.to_thread.run_sync(has_room, directory, len(piece)):
                    raise Refused(507, "disk-full", "the worker's disk is almost full; free some space there")
                digest.update(piece)
                await opened.write(piece)
            await opened.flush()
            await anyio.to_thread.run_sync(os.fsync, opened.wrapped.fileno())
        form.jobs_digest = digest.hexdigest()


async def _write_text(file: Path, text: str) -> None:
    def write() -> None:
        with open(file, "w", encoding="utf-8", newline="", opener=private_opener) as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        sync_directory(file.parent)

    with explaining(file):
        await anyio.to_thread.run_sync(write)
