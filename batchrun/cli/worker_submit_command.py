"""`batchrun worker submit`: send a batch file, or a profile's name and a job file, to a worker."""

import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import orjson

from batchrun.cli.batch_waiting import show_order
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.terminal import say
from batchrun.cli.worker_commands import call_worker
from batchrun.config import load_config, parse_setting
from batchrun.errors import ConfigError, OutputError
from batchrun.worker.worker_client import WorkerClient, WorkerUnreachable

#: The key whose file is sent as the form field `schema`.
_SCHEMA = "output.expect_item_schema"


def submit_batch(
    batch: Path | None,
    profile: str | None,
    jobs: Path | None,
    options: Mapping[str, str | float | None],
    settings: list[str],
    *,
    key: str | None,
    is_again: bool,
    is_awaited: bool,
    is_json: bool,
    data: Path,
    url: str | None,
    where: str,
) -> None:
    """Submit a batch file, or a profile and a job file; options are its name, weight and priority.

    With the same `key` it is submitted once; by default, that follows from the content and the name. With `is_again` it
    is submitted in any case. `where` are the flags that lead to the worker.

    Raises:
        ConfigError: neither is given, or the batch file is invalid; nothing was sent.
    """
    if (batch is None) == (profile is None) or (batch is None and jobs is None):
        raise ConfigError("give either a batch's TOML file, or --profile and --jobs")
    given = dict(parse_setting(each) for each in settings)
    with _kept(jobs) as given_jobs:
        if batch is None:
            texts, job_file = {"profile": str(profile), **_schema_field(given.pop(_SCHEMA, None))}, given_jobs
        else:
            texts, job_file = _batch_file(batch, given, given_jobs)
        texts |= {"settings": orjson.dumps(given).decode(), **({"name": batch.stem} if batch is not None else {})}
        texts |= {field: str(value) for field, value in options.items() if value not in (None, "")}
        if key is None:
            key = uuid.uuid4().hex if is_again else _content_key(texts, job_file)
        call_worker(data, url, partial(_submit, texts, job_file, key, is_awaited, is_json, where))


def _content_key(texts: Mapping[str, str], jobs: Path | None) -> str:
    """Return an idempotency key for what a batch does, and its name: all but weight and priority."""
    content = sha256(orjson.dumps(sorted(item for item in texts.items() if item[0] not in ("weight", "priority"))))
    if jobs is not None:
        try:
            with jobs.open("rb") as opened:
                content.update(file_digest(opened, "sha256").digest())
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", file=jobs) from error
    return f"content-{content.hexdigest()}"


@contextmanager
def _kept(jobs: Path | None) -> Iterator[Path | None]:
    """Yield the job file; stdin is copied to a temporary file, so that it can be sent again."""
    if jobs is None or str(jobs) != "-":
        yield jobs
        return
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as kept:
        try:
            shutil.copyfileobj(sys.stdin.buffer, kept)
            kept.flush()
        except OSError as error:
            raise OutputError(f"stdin cannot be copied to {kept.name}: {error.strerror}") from error
        yield Path(kept.name)


def _batch_file(file: Path, given: dict[str, Any], jobs: Path | None) -> tuple[dict[str, str], Path]:
    """Return the form fields of a batch file, and its job file; check the file before anything is sent.

    A setting that names a file becomes the field that brings it.
    """
    flags = {**given, **({"jobs.file": str(jobs)} if jobs is not None else {})}
    config = load_config(file, flags=flags, environ={})
    if str(config.jobs.file) == "-":
        raise ConfigError("is stdin; give --jobs - for that", key="jobs.file", file=file)
    given.pop(_SCHEMA, None)
    return {"config": _text(file), **_schema_field(config.output.expect_item_schema)}, config.jobs.file


def _schema_field(file: object) -> dict[str, str]:
    return {} if file is None else {"schema": _text(Path(str(file)))}


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=file) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", file=file) from error


async def _submit(
    texts: dict[str, str],
    jobs: Path | None,
    key: str,
    is_awaited: bool,
    is_json: bool,
    where: str,
    client: WorkerClient,
) -> ExitCode:
    try:
        batch, is_known = await client.submit(texts, jobs, key=key)
    except WorkerUnreachable as error:
        if not error.was_sent:
            raise
        again = f"submit it again with --key {key}, and it runs once"
        raise OutputError(f"{error}; it may have taken the batch: {again}") from error
    if is_known:
        say("This was submitted before, with the same content and name; --again submits it once more")
    return await show_order(batch, client, is_awaited=is_awaited, is_json=is_json, where=where)
