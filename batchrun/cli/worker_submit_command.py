"""`batchrun worker submit`: send a batch file, or a profile's name and a job file, to a worker."""

import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import anyio
import orjson
import typer
from pydantic import ValidationError

from batchrun.cli.exit_codes import ExitCode, exit_code_of_state
from batchrun.cli.json_output import print_json
from batchrun.cli.plan_lines import plan_lines, print_plan
from batchrun.cli.submitted_batch import show_order
from batchrun.cli.terminal import answer, say, say_lines
from batchrun.config import load_config, parse_setting
from batchrun.config.load import as_config_error
from batchrun.errors import ConfigError, OutputError
from batchrun.output.atomic_write import replace_text
from batchrun.runtime.shell_command import shell_command
from batchrun.worker.shard_limits import refuse_indivisible
from batchrun.worker.submission import FILES, Submission, digest_of
from batchrun.worker.submission_config import stored_job_file
from batchrun.worker.submission_store import SubmissionStore
from batchrun.worker.worker_client import WorkerClient, WorkerUnreachable

#: The key whose file is sent as the form field `schema`.
_SCHEMA = "output.expect_item_schema"


@contextmanager
def batch_form(
    batch: Path | None,
    profile: str | None,
    jobs: Path | None,
    options: Mapping[str, str | float | None],
    settings: list[str],
) -> Iterator[tuple[dict[str, str], Path | None]]:
    """Yield the form fields and the job file of a batch file, or of a profile and a job file.

    Options are its name, weight, priority and number of shards.

    Raises:
        ConfigError: neither is given, or the batch file is invalid; nothing was sent.
    """
    if (batch is None) == (profile is None) or (batch is None and jobs is None):
        raise ConfigError("give either a batch's TOML file, or --profile and --jobs")
    given = dict(parse_setting(each) for each in settings)
    with _kept(jobs) as given_jobs:
        if batch is None:
            texts, job_file = {"profile": str(profile), **_schema_field(given.pop(_SCHEMA, None))}, given_jobs
            if jobs is not None and job_file == jobs:  # stdin has no name
                texts["name"] = jobs.name.split(".")[0]
        else:
            texts, job_file = _batch_file(batch, given, given_jobs)
            texts["name"] = batch.stem
        texts["settings"] = orjson.dumps(given, option=orjson.OPT_SORT_KEYS).decode()
        texts |= {field: str(value) for field, value in options.items() if value not in (None, "")}
        yield texts, job_file


async def submit_batch(
    texts: dict[str, str],
    jobs: Path | None,
    key: str | None,
    is_again: bool,
    is_planned: bool,
    is_confirmed: bool,
    is_awaited: bool,
    is_json: bool,
    where: Sequence[str],
    client: WorkerClient,
) -> ExitCode:
    """Submit a form, once per `key`; by default, that follows from the content and the name.

    Args:
        texts: the form's fields.
        jobs: the job file.
        key: any text.
        is_again: submit it in any case.
        is_planned: first show its plan, and ask.
        is_confirmed: do not ask.
        is_awaited: show its progress until it rests.
        is_json: print it as JSON.
        where: the flags that lead to the worker.
        client: of the worker.

    Raises:
        ConfigError: the answer was no, there is no terminal to ask at, or lines would fail.
    """
    if is_planned:
        await _show_plan_and_ask(texts, jobs, client, is_confirmed=is_confirmed)
    if key is None:
        key = uuid.uuid4().hex if is_again else _content_key(texts, _file_digest(jobs))
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


async def _show_plan_and_ask(
    texts: dict[str, str], jobs: Path | None, client: WorkerClient, *, is_confirmed: bool
) -> None:
    plan = await client.plan(texts, jobs)
    say_lines(plan_lines(plan))
    if plan.would_fail:
        raise ConfigError("nothing was submitted: lines of the job file would fail")
    if is_confirmed:
        return
    if not sys.stdin.isatty():
        raise ConfigError("Submit this batch? There is no terminal to ask at: --yes submits it")
    if not await anyio.to_thread.run_sync(lambda: typer.confirm("Submit this batch?", err=True)):
        raise ConfigError("nothing was submitted")


async def plan_batch_of_worker(
    texts: dict[str, str], jobs: Path | None, shown: int, is_json: bool, client: WorkerClient
) -> ExitCode:
    """Print the plan of a form, with the inputs of its first jobs; submit nothing."""
    plan = await client.plan(texts, jobs, shown=shown)
    return print_plan(plan, is_json=is_json)


def _content_key(texts: Mapping[str, str], jobs_digest: bytes) -> str:
    """Return an idempotency key for what a batch does, and its name: all but weight and priority."""
    content = sha256(orjson.dumps(sorted(item for item in texts.items() if item[0] not in ("weight", "priority"))))
    content.update(jobs_digest)
    return f"content-{content.hexdigest()}"


def _file_digest(jobs: Path | None) -> bytes:
    """Return the SHA-256 of a job file; of none, no byte."""
    if jobs is None:
        return b""
    try:
        with jobs.open("rb") as opened:
            return file_digest(opened, "sha256").digest()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=jobs) from error


def put_on_list(
    url: str,
    texts: dict[str, str],
    jobs: Path | None,
    key: str | None,
    is_again: bool,
    is_planned: bool,
    is_awaited: bool,
    is_json: bool,
) -> ExitCode:
    """Put a batch on a fleet's list, from which a worker takes it.

    Args:
        url: of the fleet's store.
        texts: the form's fields.
        jobs: the job file.
        key: any text.
        is_again: submit it in any case.
        is_planned: refused, since no worker is asked.
        is_awaited: show its progress until it rests, whichever worker has it.
        is_json: print it as JSON.

    Raises:
        ConfigError: the form has no batch file, or a plan is wanted.
    """
    if is_planned:
        raise ConfigError("--plan asks a worker, and --fleet asks none: leave out one of them")
    if "config" not in texts or jobs is None:
        raise ConfigError("--fleet takes a batch's TOML file: no worker is asked for a profile")
    from batchrun.cli.fleet_waiting import wait_on_list  # noqa: PLC0415 - most batches go to a worker
    from batchrun.ledger.shared_log.log_store import open_part  # noqa: PLC0415
    from batchrun.worker.fleet.fleet import list_batch, store_files  # noqa: PLC0415
    from batchrun.worker.fleet.fleet_list import LIST_LOG, FleetList  # noqa: PLC0415

    jobs_digest = _file_digest(jobs)
    key = key or (uuid.uuid4().hex if is_again else _content_key(texts, jobs_digest))
    submission = _listed_submission(texts, jobs, jobs_digest, key)
    with tempfile.TemporaryDirectory() as directory, open_part(url, LIST_LOG) as store:
        for field, name in FILES.items():
            if field in texts:
                replace_text(Path(directory) / name, texts[field])
        if submission.shards is not None:
            flags = {**submission.settings, "jobs.file": str(jobs.resolve())}
            refuse_indivisible(load_config(Path(directory) / FILES["config"], flags=flags), submission.shards)
        batches = FleetList(store)
        files = store_files(batches, submission, Path(directory), jobs.resolve())
        listed = list_batch(batches, submission, files).submission
    is_known = listed.id != submission.id
    _refuse_other_content(listed, submission)
    say(f"{listed.name} ({listed.id}): {'was submitted before' if is_known else 'on the list of the fleet'}")
    if is_awaited:
        try:
            listed = wait_on_list(url, listed.id)
        except KeyboardInterrupt:
            cancel = shell_command("batchrun", "worker", "cancel", listed.id)
            say(f"{listed.name} goes on in the fleet; `{cancel}` at any worker stops it")
            raise
    if is_json:
        print_json(listed.model_dump(mode="json"), is_indented=True)
    else:
        answer(listed.id)
    if not is_awaited:
        return ExitCode.SUCCEEDED
    return exit_code_of_state(listed.state, listed.cause, has_succeeded=not listed.counts.failed)


def _refuse_other_content(listed: Submission, submission: Submission) -> None:
    if listed.id != submission.id and listed.has_other_content(submission.content_digest):
        raise ConfigError(f"--key: has submitted batch {listed.id}, with other content; give another one")


def _listed_submission(texts: Mapping[str, str], jobs: Path, jobs_digest: bytes, key: str) -> Submission:
    jobs_file, stem = stored_job_file(jobs.name)
    submission = Submission(
        id=SubmissionStore.new_id(),
        name=texts.get("name") or stem,
        created_at=datetime.now(UTC),
        batch_file=FILES["config"],
        jobs_file=jobs_file,
        schema_file=FILES["schema"] if "schema" in texts else None,
        settings=orjson.loads(texts["settings"]),
        idempotency_key=key,
        content_digest=digest_of(texts, jobs_file, jobs_digest.hex()),
    )
    try:
        given = ("weight", "priority", "shards")
        return submission.but(**{field: texts[field] for field in given if field in texts})
    except ValidationError as error:
        raise as_config_error(error, None, {}, Submission) from None


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
