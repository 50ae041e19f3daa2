"""The configuration of a submission: its batch file or profile, its settings, and the worker's own tables."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchrun.config import Config, load_config
from batchrun.config.worker_config import WorkerConfig
from batchrun.errors import ConfigError
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.submission import Submission

#: Tables that the worker's configuration decides.
_WORKER_TABLES = ("api", "server")
_IS_PROFILE = re.compile(r"[\w.-]{1,100}")


def config_of(
    submission: Submission, directory: DataDirectory, worker: WorkerConfig, environ: Mapping[str, str]
) -> Config:
    """Return the configuration of a submission.

    Raises:
        ConfigError: the file cannot be read or is invalid, or it names another platform than the worker's.
    """
    file = _batch_file(submission, directory)
    config = load_config(file, flags=_flags(submission, directory), environ=environ)
    for section in _WORKER_TABLES:
        wanted, given = getattr(worker, section), getattr(config, section)
        is_default = given == type(given)()
        if section in config.model_fields_set and not is_default and given != wanted:
            raise ConfigError(
                "belongs to the worker: all its batches run on one platform. Leave the table out, or submit this batch"
                " to a worker with this table in its worker.toml",
                key=section,
                file=file,
            )
    budget_usd = worker.limits.budget_usd
    limits = config.limits
    if limits.budget_usd is None and budget_usd is not None:
        limits = limits.model_copy(update={"budget_usd": budget_usd})
    return config.model_copy(update={"api": worker.api, "server": worker.server, "limits": limits})


def _batch_file(submission: Submission, directory: DataDirectory) -> Path:
    if submission.profile is not None:
        return profile_file(directory, submission.profile)
    if submission.batch_file is not None:
        return directory.of(submission.id) / submission.batch_file
    assert submission.spooled is not None, "a submission has its own batch file or a profile"
    return directory.spool / submission.spooled


def _flags(submission: Submission, directory: DataDirectory) -> dict[str, Any]:
    """Return what overrides the batch file: the submission's settings, and the paths of its files."""
    flags: dict[str, Any] = {**submission.settings, "output.dir": str(directory.out_dir(submission))}
    if submission.jobs_file is not None:
        flags["jobs.file"] = str(directory.of(submission.id) / submission.jobs_file)
    elif submission.spooled is not None and submission.profile is not None:
        flags["jobs.file"] = str(directory.spool / submission.spooled)
    return flags


def profile_file(directory: DataDirectory, name: str) -> Path:
    """Return the batch file of a profile.

    Raises:
        ConfigError: there is no such profile.
    """
    file = directory.profiles / f"{name}.toml"
    if not _IS_PROFILE.fullmatch(name) or not file.is_file():
        known = sorted(each.stem for each in directory.profiles.glob("*.toml"))
        there = f"there are {', '.join(known)}" if known else "there is none yet"
        raise ConfigError(f"there is no profile {name!r} in {directory.profiles}; {there}", key="profile")
    return file
