"""The configuration of a submission: its batch file or profile, its settings, and the worker's own tables.

A submission may name its own files only. A profile and the environment are the operator's: they may name any file.
"""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path, PurePath
from stat import S_ISREG
from typing import Any

from batchrun.config import Config, load_config
from batchrun.config.batch_config import PATHS
from batchrun.config.load import ENVIRONMENT_PREFIX, read_settings
from batchrun.config.notify_settings import NotifyConfig
from batchrun.config.worker_config import WorkerConfig, refuse_planted
from batchrun.errors import ConfigError
from batchrun.runtime.private_files import stat_in_place
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.shard_limits import refuse_indivisible, with_part_of_limits
from batchrun.worker.submission import Submission

#: Tables that the worker's configuration decides, and why: a submission could name another platform, a program to run,
#: or an address inside the worker's network.
_WORKER_TABLES = {
    "api": "all its batches run on one platform",
    "server": "all its batches run on one platform",
    "notify": "it notifies people of all its batches",
}
#: Most memory for decompressing each batch's job file, in megabytes: `zstd -19` needs as much.
MAX_WINDOW_MB = 8
#: Form fields that bring files, by the key that would name them.
_FORM_FIELDS = {"jobs.file": "jobs", "output.expect_item_schema": "schema"}
_IS_PROFILE = re.compile(r"[\w.-]{1,100}")


def config_of(
    submission: Submission, directory: DataDirectory, worker: WorkerConfig, environ: Mapping[str, str]
) -> Config:
    """Return the configuration of a submission.

    Raises:
        ConfigError: the file cannot be read or is invalid, or it names another platform than the worker's, or a file
            that is not the submission's.
    """
    file = _batch_file(submission, directory)
    own = _own_paths(submission, directory)
    flags = {**deepcopy(submission.settings), **{key: str(path) for key, path in own.items()}}
    # Its own paths are set below once more: a whole table among the settings must not move them.
    config = _with_paths(load_config(file, flags=flags, environ=_without_worker_tables(environ)), own)
    for section, why in _WORKER_TABLES.items():
        wanted, given = getattr(worker, section), getattr(config, section)
        is_default = given == type(given)()
        if section in config.model_fields_set and not is_default and given != wanted:
            raise ConfigError(
                f"belongs to the worker: {why}. Leave the table out, or submit this batch to a worker with this table"
                " in its worker.toml",
                key=section,
                file=file,
            )
    if config.replica.url is not None:
        raise ConfigError(
            "a worker's batches have no shared log; leave the table out, or run this batch by itself: `batchrun run`",
            key="replica",
            file=file,
        )
    budget_usd = worker.limits.budget_usd
    limits = config.limits
    if limits.budget_usd is None and budget_usd is not None:
        limits = limits.model_copy(update={"budget_usd": budget_usd})
    window_mb = min(config.jobs.max_window_mb, MAX_WINDOW_MB)
    # Its notifications are the worker's: alone, in its directory, it has none.
    tables = {
        "api": worker.api,
        "server": worker.server,
        "notify": NotifyConfig(),
        "limits": limits,
        "jobs": config.jobs.model_copy(update={"max_window_mb": window_mb}),
    }
    config = config.model_copy(update=tables)
    _check_paths(config, submission, directory, environ)
    if submission.shards is not None:
        refuse_indivisible(config, submission.shards)
    return config if submission.part_of is None else with_part_of_limits(config)


def _without_worker_tables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the worker's tables: they are not what a submission asks for."""
    of_worker = tuple(f"{ENVIRONMENT_PREFIX}{section}__".upper() for section in _WORKER_TABLES)
    return {name: text for name, text in environ.items() if not name.upper().startswith(of_worker)}


def stored_job_file(name: str) -> tuple[str, str]:
    """Return the name under which a submission keeps a job file, and the file's name without its format."""
    suffixes = PurePath(name).suffixes
    kept = "".join(suffixes[-2:] if name.endswith((".gz", ".zst")) else suffixes[-1:])
    return f"jobs{kept}", name.removesuffix(kept)


def _batch_file(submission: Submission, directory: DataDirectory) -> Path:
    if submission.profile is not None:
        return profile_file(directory, submission.profile)
    if submission.batch_file is not None:
        return directory.of(submission.id) / submission.batch_file
    assert submission.spooled is not None, "a submission has its own batch file or a profile"
    return directory.spool / submission.spooled


def _own_paths(submission: Submission, directory: DataDirectory) -> dict[str, Path]:
    """Return the paths that are decided here, by key: the output directory and the files that were submitted."""
    own = {"output.dir": directory.out_dir(submission)}
    if submission.jobs_file is not None:
        own["jobs.file"] = directory.of(submission.id) / submission.jobs_file
    elif submission.spooled is not None and submission.profile is not None:
        own["jobs.file"] = directory.spool / submission.spooled
    if submission.schema_file is not None:
        own["output.expect_item_schema"] = directory.of(submission.id) / submission.schema_file
    return own


def _with_paths(config: Config, paths: Mapping[str, Path]) -> Config:
    for key, path in paths.items():
        section, name = key.split(".")
        config = config.model_copy(update={section: getattr(config, section).model_copy(update={name: path})})
    return config


def _check_paths(config: Config, submission: Submission, directory: DataDirectory, environ: Mapping[str, str]) -> None:
    """Refuse a path outside the batch's directory or the spool, unless the profile or the environment names it."""
    is_spooled = submission.spooled is not None
    base = directory.spool if is_spooled else directory.of(submission.id)
    profile = None if submission.profile is None else profile_file(directory, submission.profile)
    operators, _ = read_settings(profile, flags={}, environ=environ)
    for key, value in _paths(config):
        section, name = key.split(".")
        if value == operators.get(section, {}).get(name):
            continue
        for path in value if isinstance(value, list) else [value]:
            if not _is_inside(path, base):
                raise ConfigError(_not_its_own(key, path, is_spooled=is_spooled), key=key)


def _paths(config: Config) -> Iterator[tuple[str, Any]]:
    for key in PATHS:
        section, name = key.split(".")
        value = getattr(getattr(config, section), name)
        if section not in _WORKER_TABLES and value is not None:
            yield key, value


def _is_inside(path: Path, base: Path) -> bool:
    try:
        return path.resolve().is_relative_to(base.resolve())
    except (OSError, RuntimeError, ValueError):  # its symbolic links form a ring, or no file can have this name
        return False


def _not_its_own(key: str, path: Path, *, is_spooled: bool) -> str:
    if is_spooled:
        return f"{path} is outside the spool; move it beside the batch file, or use `batchrun worker submit`"
    field = _FORM_FIELDS.get(key)
    how = f"send it as the form field {field}, as `batchrun worker submit` does" if field else "leave the key out"
    return f"{str(path)[:500]} is not a file of this batch; {how}"


def profile_file(directory: DataDirectory, name: str) -> Path:
    """Return the batch file of a profile.

    Raises:
        ConfigError: there is no such profile, or it is a link that cannot be followed.
    """
    file = directory.profiles / f"{name}.toml"
    try:
        is_there = _IS_PROFILE.fullmatch(name) is not None and S_ISREG(stat_in_place(file).st_mode)
    except FileNotFoundError:
        is_there = False
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=file, key="profile") from error
    if not is_there:
        known = sorted(each.stem for each in directory.profiles.glob("*.toml"))
        there = f"there are {', '.join(known)}" if known else "there is none yet"
        raise ConfigError(f"there is no profile {name!r} in {directory.profiles}; {there}", key="profile")
    refuse_planted(file)
    return file
