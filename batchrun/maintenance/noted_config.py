"""The configuration and the command that a ledger notes for its batch; readable while a process runs the batch."""

import os
import shlex
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from batchrun.config import Config
from batchrun.config.batch_config import PATHS
from batchrun.config.replica_settings import ReplicaConfig
from batchrun.errors import ConfigError, LedgerError
from batchrun.ledger.facts import COMMAND, CONFIG, LOG_POSITION, READ_TO, SIGNATURE, TASK_ID
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.model import Command, TaskId, read_json, write_json
from batchrun.output.layout import LEDGER, OWN_CONFIG
from batchrun.output.sink import explaining
from batchrun.preflight.same_batch import signed_content
from batchrun.runtime.own_signature import is_own as is_signed
from batchrun.runtime.private_files import input_opener, is_confined, read_private

#: Bytes of a job file that are hashed at a time.
_PIECE_BYTES = 1 << 20


class _Noted(NamedTuple):
    """What is noted of a batch."""

    #: The ledger's configuration as JSON; None: the batch was not opened yet.
    config: Any
    #: What was given on this machine; None: nothing, or it cannot be read. Without a shared log it is the ledger's.
    given: Any
    task_id: TaskId
    #: True if the batch has a shared log.
    is_of_log: bool
    #: Of `given`; None: by a version that signed nothing.
    signature: Any
    #: What the batch was last run with; None: a program ran it.
    command: Command | None


def read_config(directory: Path, *, is_own: bool = False) -> tuple[Config, TaskId]:
    """Return the configuration that the batch was last opened with, and its task's id.

    Of a batch with a shared log it is what was given on this machine. If others can have written it, it names no file
    outside the directory: they would choose what is shown.

    Args:
        directory: of the batch.
        is_own: True if the directory is known to be this user's, as those of a worker are to the worker, but for those
            in its spool.

    Raises:
        LedgerError: the directory holds no batch, or its first opening failed.
    """
    noted = _read(directory)
    return _config_here(noted, directory, is_own=is_own), noted.task_id


def find_own_config(directory: Path) -> Config | None:
    """Return what `read_config` does of an own directory; None while the batch is being opened for the first time.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    noted = _read(directory)
    return None if noted.config is None else _config_here(noted, directory, is_own=True)


def why_unread(directory: Path) -> str | None:
    """Return why `read_config` leaves out the job file of a batch, as after "DIR "; None: it does not.

    Of a batch with a shared log, the copy of the job file in the directory is read.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    noted = _read(directory)
    return None if noted.is_of_log else _why_unsigned(noted.given, noted.task_id, noted.signature, directory)


def read_own_config(directory: Path, *, has_platform: bool = False) -> tuple[Config, TaskId]:
    """Return what `read_config` does, for a command that uses the token: nothing of it is from a shared log.

    Args:
        directory: of the batch.
        has_platform: True if the caller is a worker, which has its own platform and runs nothing. Of a batch in its
            spool, what others can have written names no file outside the directory, and no shared log.

    Raises:
        LedgerError: the directory holds no batch, or its first opening failed.
        ConfigError: only a shared log has the configuration, or the directory may be somebody else's.
    """
    noted = _read(directory)
    if noted.is_of_log and noted.given is None:
        raise ConfigError(
            f"{directory}: has its configuration from a shared log, which others can write to, so it gets no token."
            " Run the batch here first, with your own file: `batchrun run BATCH.toml`"
        )
    if not has_platform and noted.given is not None:
        refuse_unsigned(noted.given, noted.task_id, noted.signature, directory)
    return _config_here(noted, directory, is_own=True), noted.task_id


def refuse_unsigned(noted_config: Any, task_id: TaskId, signature: Any, directory: Path) -> None:
    """Refuse what a directory tells a command to do, unless this user has noted it on this machine.

    Raises:
        ConfigError: it may be somebody else's choice.
    """
    why = _why_unsigned(noted_config, task_id, signature, directory)
    if why is not None:
        raise ConfigError(
            f"{directory}: {why}. Its configuration may be somebody else's, who would"
            " choose who gets your token, what is read and what is run. If the batch is yours, run it here first, with"
            " your own file: `batchrun run BATCH.toml`"
        )


def _why_unsigned(noted_config: Any, task_id: TaskId, signature: Any, directory: Path) -> str | None:
    if isinstance(signature, str) and is_signed(signed_content(noted_config, task_id, directory), signature):
        return None
    if signature == "":
        return "was last run without a home that could keep a key (XDG_STATE_HOME may name another place for it)"
    return "was not last run by you on this machine and by this version, or it is a copy"


def _read(directory: Path) -> _Noted:
    with open_for_reading(directory) as ledger:
        config, signature = ledger.fact(CONFIG), ledger.fact(SIGNATURE)
        task_id, is_of_log = ledger.fact(TASK_ID) or TaskId(""), ledger.fact(LOG_POSITION) is not None
        command = ledger.fact(COMMAND)
    given: Any = config
    if is_of_log:  # the ledger has what another machine may have noted
        given = _given_here(directory)
        signature = given.pop(SIGNATURE.name, None) if isinstance(given, dict) else None
    return _Noted(
        config=config, given=given, task_id=task_id, is_of_log=is_of_log, signature=signature, command=command
    )


def _config_here(noted: _Noted, directory: Path, *, is_own: bool) -> Config:
    if noted.given is None and noted.is_of_log:
        return _confined(config_of(noted.config, directory), directory)
    # Before `config_of`, which adds keys to what is noted.
    is_spooled = is_confined(directory)
    if not is_own or is_spooled:
        is_own = _why_unsigned(noted.given, noted.task_id, noted.signature, directory) is None
    config = config_of(noted.given, directory)
    if not is_own:
        config = _confined(config, directory)
    # A spooled batch has no shared log.
    return config.model_copy(update={"replica": ReplicaConfig()}) if is_spooled else config


def _given_here(directory: Path) -> Any:
    """Return what was noted on this machine of a batch with a shared log; None: there is none, or it cannot be read."""
    try:
        return read_json(read_private(directory / OWN_CONFIG))
    except (OSError, ValueError):
        return None


def _confined(config: Config, directory: Path) -> Config:
    """Return a configuration without files outside a directory; the job file is the log's copy."""
    changes: dict[str, dict[str, Any]] = {}
    for key in PATHS:
        section, name = key.split(".")
        value = type(getattr(config, section)).model_fields[name].get_default(call_default_factory=True)
        changes.setdefault(section, {})[name] = value
    changes["output"]["dir"] = directory
    # Its ending says how the log's copy is read. There is nothing below a file, so that the copy is all that is read.
    jobs_file = config.jobs.file
    changes["jobs"]["file"] = jobs_file if str(jobs_file) == "-" else directory / LEDGER / jobs_file.name
    return config.model_copy(
        update={section: getattr(config, section).model_copy(update=fields) for section, fields in changes.items()}
    )


def config_of(noted: Any, directory: Path) -> Config:
    """Return the configuration that was noted for the batch in a directory.

    Raises:
        LedgerError: it is none: the first opening of the batch failed.
    """
    if isinstance(noted, dict) and isinstance(noted.get("api"), dict):
        # Versions without this key sent the token over plain http too; the Runs of their batches can still be aborted.
        noted["api"].setdefault("allow_plain_http", True)
        # They trimmed no cells, so that the lines of their job files are other jobs when they are trimmed.
        noted.get("jobs", {}).setdefault("trim", False)
        if noted.get("task", {}).get("id"):
            noted["task"] |= {"input": {}, "options": {}}  # they passed these over beside an id
    try:
        config = Config.model_validate_json(write_json(noted))
    except ValidationError as error:
        raise LedgerError(f"{directory / LEDGER}: holds no batch that was begun") from error
    output = config.output.model_copy(update={"dir": directory})
    return config.model_copy(update={"output": output})


def read_command(directory: Path) -> Command | None:
    """Return the command that the batch was last run with; None where a program ran it.

    In a batch with a shared log it is None: the command is shown to be pasted, and others can write to the log.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with open_for_reading(directory) as ledger:
        return ledger.fact(COMMAND) if ledger.fact(LOG_POSITION) is None else None


def is_read(directory: Path, file: Path) -> bool:
    """True if a batch reads a file: its configuration names it, or the command that it was last run with.

    So does it if the directory was moved or copied with the file, or the file begins with all that was read of the
    job file: of a worker's batch, only the copy that the worker has made is named.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    noted = _read(directory)
    sections = noted.given if isinstance(noted.given, dict) else {}
    named = [sections.get(key.split(".")[0], {}).get(key.split(".")[1]) for key in PATHS]
    before = sections.get("output", {}).get("dir")
    if isinstance(before, str):
        named += [str(directory / os.path.relpath(each, before)) for each in named if isinstance(each, str)]
    if noted.command is not None:
        named += [str(Path(noted.command.directory, word)) for word in _words(noted.command.line)]
    return any(_is_same_file(each, file) for each in named if isinstance(each, str)) or _has_jobs(directory, file)


def _has_jobs(directory: Path, file: Path) -> bool:
    with open_for_reading(directory) as ledger:
        read_to = ledger.fact(READ_TO)
    with explaining(file):
        if read_to is None or not read_to.offset or not file.is_file():
            return False
        text_hash, left = sha256(), read_to.offset
        with open(file, "rb", opener=input_opener) as opened:
            while left and (piece := opened.read(min(left, _PIECE_BYTES))):
                text_hash.update(piece)
                left -= len(piece)
    return not left and text_hash.digest() == read_to.fingerprint


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # of somebody else's ledger
        return []


def _is_same_file(named: str, file: Path) -> bool:
    try:
        return file.is_file() and file.samefile(named)
    except (OSError, ValueError):
        return False
