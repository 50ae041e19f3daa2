"""A batch that is handed in as a form: its parts read one by one, its job file straight to the disk."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import anyio
import orjson
from aiohttp import BodyPartReader, web

from batchrun.jobs import is_job_file
from batchrun.output.sink import explain, sync_directory
from batchrun.worker.http.error_envelope import Refused

#: What a field other than the job file may weigh.
MAX_FIELD_BYTES = 1 << 20
BATCH_FILE = "batch.toml"
_PIECE_BYTES = 1 << 18
_FIELDS = frozenset({"config", "profile", "name", "weight", "priority", "settings"})


@dataclass(slots=True)
class Form:
    """What a form says."""

    #: The text fields, by name.
    texts: dict[str, str] = field(default_factory=dict)
    #: The job file's name in the batch's directory; None: none came.
    jobs_file: str | None = None
    #: The name that whoever sent it gave it, without what tells its format.
    jobs_stem: str | None = None
    #: Whether a batch is made of it.
    is_kept: bool = False

    def number(self, name: str, kind: type[int] | type[float]) -> Any:
        """Return a field as a number; None where it is missing.

        Raises:
            Refused: it is none.
        """
        text = self.texts.get(name)
        if text is None:
            return None
        try:
            return kind(text)
        except ValueError:
            raise Refused(400, "bad-value", f"{name}: {text[:100]!r} is not a number") from None

    def settings(self) -> dict[str, Any]:
        """Return the settings, by dotted key.

        Raises:
            Refused: they are no JSON object.
        """
        try:
            settings = orjson.loads(self.texts.get("settings", "{}"))
        except orjson.JSONDecodeError as error:
            raise Refused(400, "bad-value", f"settings: is not JSON: {error}") from None
        if not isinstance(settings, dict):
            raise Refused(400, "bad-value", 'settings: send an object by dotted key, like {"limits.start_rate": 5}')
        return settings


@asynccontextmanager
async def uploaded(request: web.Request, directory: Path) -> AsyncIterator[Form]:
    """Read a form into a new directory; unless it is kept, nothing of it is left after the block.

    Raises:
        Refused: it is no such form.
        OutputError: the disk does not take it.
    """
    if request.content_type != "multipart/form-data":
        raise Refused(415, "unsupported-media-type", "hand a batch in as multipart/form-data")
    try:
        await anyio.Path(directory).mkdir()
    except OSError as error:
        raise explain(error, directory) from error
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
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise Refused(400, "bad-form", "a part of the form is a form itself")
            await _take(part, form, directory)
    except (ValueError, AssertionError, RuntimeError) as error:  # what the parser says of a form that is none
        raise Refused(400, "bad-form", f"the form cannot be read: {error}") from None
    if form.texts.get("config") is not None:
        await _write_batch_file(directory / BATCH_FILE, form.texts["config"])


async def _take(part: BodyPartReader, form: Form, directory: Path) -> None:
    name = part.name or ""
    if name == "jobs":
        if form.jobs_file is not None:
            raise Refused(400, "bad-form", "jobs: there is one already; a batch has one job file")
        await _take_jobs(part, form, directory)
        return
    if name not in _FIELDS:
        raise Refused(
            400, "bad-form", f"{name[:100]!r} is no part of a batch; there are {', '.join(sorted(_FIELDS))}, jobs"
        )
    if name in form.texts:
        raise Refused(400, "bad-form", f"{name}: is there twice")
    form.texts[name] = await _text(part, name)


async def _text(part: BodyPartReader, name: str) -> str:
    read = bytearray()
    while piece := await part.read_chunk(_PIECE_BYTES):
        read += piece
        if len(read) > MAX_FIELD_BYTES:
            raise Refused(413, "body-too-large", f"{name}: is larger than {MAX_FIELD_BYTES:,} bytes")
    try:
        return read.decode()
    except UnicodeDecodeError:
        raise Refused(400, "bad-value", f"{name}: is not UTF-8 text") from None


async def _take_jobs(part: BodyPartReader, form: Form, directory: Path) -> None:
    given = PurePath(part.filename or "jobs.jsonl").name
    if not is_job_file(given):
        raise Refused(
            400,
            "bad-value",
            f"jobs: {given[:100]!r} is no job file; there are .jsonl .ndjson .json .csv .tsv, each also .gz .zst",
        )
    suffixes = "".join(
        PurePath(given).suffixes[-2:] if given.endswith((".gz", ".zst")) else PurePath(given).suffixes[-1:]
    )
    form.jobs_file, form.jobs_stem = f"jobs{suffixes}", given.removesuffix(suffixes)
    file = directory / form.jobs_file
    try:
        async with await anyio.open_file(file, "wb") as opened:
            while piece := await part.read_chunk(_PIECE_BYTES):
                await opened.write(piece)
            await opened.flush()
            await anyio.to_thread.run_sync(os.fsync, opened.wrapped.fileno())
    except OSError as error:
        raise explain(error, file) from error


async def _write_batch_file(file: Path, text: str) -> None:
    def write() -> None:
        with file.open("w", encoding="utf-8", newline="") as opened:
            opened.write(text)
            opened.flush()
            os.fsync(opened.fileno())
        sync_directory(file.parent)

    try:
        await anyio.to_thread.run_sync(write)
    except OSError as error:
        raise explain(error, file) from error
