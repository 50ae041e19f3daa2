"""What identifies a batch: its settings and the lines that were read. Others are refused in its output directory."""

from pathlib import Path
from typing import Any

import orjson

from batchrun.account.task import Task
from batchrun.apify.wire import AccountInfo
from batchrun.config import Config
from batchrun.errors import AnotherBatch, ConfigError, JobFileError, SeveralLines
from batchrun.jobs import JobFile, ReadPoint
from batchrun.ledger.facts import ACCOUNT, COMMAND, CONFIG, IDENTITY, SECRETS, SIGNATURE, TASK_ID
from batchrun.ledger.protocol import ReadTo
from batchrun.ledger.sqlite.reader import LedgerReader
from batchrun.ledger.sqlite.tables import LedgerTables
from batchrun.model import Command, JsonObject, TaskId, read_json, write_json
from batchrun.output.atomic_write import replace_file
from batchrun.output.layout import OWN_CONFIG
from batchrun.policy.secret_fields import SecretFields
from batchrun.runtime.birth_time import birth_time_ns
from batchrun.runtime.own_signature import sign
from batchrun.words.number_words import counted


def check_identity(
    ledger: LedgerTables, config: Config, task: Task, account: AccountInfo, command: Command | None
) -> None:
    """Compare the batch's identity with the ledger's, and note identity, account, configuration and command.

    Raises:
        AnotherBatch: the ledger holds another batch; the message names every difference.
    """
    identity = refuse_other_settings(ledger, config, task.id)
    # Through JSON too.
    noted_config: JsonObject = read_json(write_json(config.as_noted()))
    signature = sign(signed_content(noted_config, task.id, config.out_dir))
    with ledger.transaction():
        ledger.note_fact(IDENTITY, identity)
        ledger.note_fact(TASK_ID, task.id)
        if account.id:
            ledger.note_fact(ACCOUNT, account.id)
        ledger.note_fact(CONFIG, noted_config)
        if ledger.log is None:
            ledger.note_fact(SIGNATURE, signature)
        if command is not None:
            ledger.note_fact(COMMAND, command)
    if ledger.log is not None:
        replace_file(config.out_dir / OWN_CONFIG, [write_json({**noted_config, SIGNATURE.name: signature})])


def refuse_other_settings(ledger: LedgerReader, config: Config, task_id: TaskId | None) -> JsonObject:
    """Compare the batch's identity with the ledger's; return the batch's.

    Args:
        ledger: of the batch.
        config: of the batch.
        task_id: None: it is not compared.

    Raises:
        AnotherBatch: the ledger holds another batch; the message names every difference.
    """
    # Through JSON, as the ledger holds it: a date of the TOML becomes text.
    identity: JsonObject = read_json(write_json(_identity(config, task_id)))
    noted = ledger.fact(IDENTITY) or {}
    if task_id is None:
        noted.pop("task", None)
    if "jobs.quote" not in noted and noted.get("jobs.delimiter") is None:
        noted.pop("jobs.delimiter", None)  # noted by a version that did not note which one it had recognised
    noted = {"jobs.shard": None, **noted}  # earlier versions knew no parts
    masked = (ledger.fact(SECRETS) or SecretFields(None)).masked
    differences = [
        f"  {name}: begun with {masked(noted[name])!r}, now {masked(value)!r}"
        for name, value in identity.items()
        if name in noted and not ledger.is_empty and noted[name] != value
    ]
    if differences:
        advice = "Restore these settings to resume it, or choose another --out for a new batch"
        raise AnotherBatch(SeveralLines([f"{config.out_dir}: holds another batch:", *differences, advice]))
    return identity


def signed_content(noted_config: JsonObject, task_id: TaskId, directory: Path) -> bytes:
    """Return what commands on the directory obey, to be signed by the user who has given it.

    The directory is a part of it: somebody who has had it could send a copy back, in which the jobs are others. A file
    system may give the inode of a removed directory to the copy, which is younger.
    """
    place = [directory.stat().st_ino, birth_time_ns(directory)]
    return write_json([noted_config, task_id, *place], orjson.OPT_SORT_KEYS)


def check_limit(ledger: LedgerReader, config: Config) -> None:
    """Check that no open job lies beyond `jobs.limit`: every job that was admitted is carried out.

    Raises:
        ConfigError: some do.
    """
    limit = config.jobs.limit
    if limit is not None and (beyond := ledger.open_beyond(limit)):
        raise ConfigError(
            f"this batch has {counted(beyond, 'open job')} beyond the first {limit:,}, which a limit cannot withdraw;"
            " leave it out, or choose another --out",
            key="jobs.limit",
        )


def refuse_changed_lines(job_file: JobFile, read_to: ReadTo | None, config: Config) -> ReadPoint | None:
    """Check that the lines which earlier processes have read are in the job file as they were; return where they end.

    Args:
        job_file: of the batch, open.
        read_to: what the ledger notes of these lines; None: none was read.
        config: of the batch.

    Raises:
        JobFileError: they have changed.
    """
    if read_to is None:
        return None
    point = ReadPoint(offset=read_to.offset, line=read_to.line, fingerprint=read_to.fingerprint)
    if not job_file.is_as_read(point):
        raise JobFileError(
            f"was changed in its first {point.line} lines since this batch was begun; only appending is"
            " possible. Restore it, or choose another --out for the new file",
            file=config.jobs.file,
        )
    return point


def _identity(config: Config, task_id: TaskId | None) -> dict[str, Any]:
    """Return all settings on which a job's key, content or Run depends."""
    jobs = config.jobs
    return {
        "task": task_id,
        "jobs.file": jobs.file.name,
        "jobs.format": jobs.format,
        "jobs.encoding": jobs.encoding,
        "jobs.delimiter": jobs.delimiter,
        "jobs.quote": jobs.quote,
        "jobs.trim": jobs.trim,
        "jobs.empty": jobs.empty,
        "jobs.key": jobs.key,
        "jobs.group": jobs.group,
        "jobs.meta": jobs.meta,
        "jobs.template": jobs.template,
        "jobs.matrix": jobs.matrix,
        "jobs.merge": jobs.merge,
        "jobs.shard": jobs.shard,
        "input": config.input,
    }
