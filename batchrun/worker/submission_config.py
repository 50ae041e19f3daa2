"""From a submission to its configuration: its batch file or profile, its settings, and what the worker decides."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchrun.config import Config, load_config
from batchrun.config.worker_config import WorkerConfig
from batchrun.errors import ConfigError
from batchrun.worker.submission import Submission
from batchrun.worker.submission_store import Layout

#: Tables of a batch file that are the worker's affair.
_WORKERS_OWN = ("api", "server")
_IS_PROFILE = re.compile(r"[\w.-]{1,100}")


def config_of(submission: Submission, layout: Layout, worker: WorkerConfig, environ: Mapping[str, str]) -> Config:
    """Return what a submission is carried out with.

    Raises:
        ConfigError: the file cannot be read, or says what cannot be; or the platform of another worker.
    """
    file = _batch_file(submission, layout)
    config = load_config(file, flags=_flags(submission, layout), environ=environ)
    for section in _WORKERS_OWN:
        wanted, given = getattr(worker, section), getattr(config, section)
        if section in config.model_fields_set and not _is_default(given) and given != wanted:
            raise ConfigError(
                "is the worker's: all its batches run on one platform. Leave the table out, or hand this batch to a"
                " worker that has it in its worker.toml",
                key=section,
                file=file,
            )
    budget_usd = worker.limits.budget_usd
    limits = config.limits
    if limits.budget_usd is None and budget_usd is not None:
        limits = limits.model_copy(update={"budget_usd": budget_usd})
    return config.model_copy(update={"api": worker.api, "server": worker.server, "limits": limits})


def _is_default(section: Any) -> bool:
    return bool(section == type(section)())


def _batch_file(submission: Submission, layout: Layout) -> Path:
    if submission.profile is not None:
        return profile_file(layout, submission.profile)
    if submission.batch_file is not None:
        return layout.of(submission.id) / submission.batch_file
    assert submission.spooled is not None, "a submission has a batch file, its own or a profile's"
    return layout.spool / submission.spooled


def _flags(submission: Submission, layout: Layout) -> dict[str, Any]:
    """Return what comes before the batch file: the settings that came with the submission, and where things lie."""
    flags: dict[str, Any] = {**submission.settings, "output.dir": str(layout.out_dir(submission))}
    if submission.jobs_file is not None:
        flags["jobs.file"] = str(layout.of(submission.id) / submission.jobs_file)
    elif submission.spooled is not None and submission.profile is not None:
        flags["jobs.file"] = str(layout.spool / submission.spooled)
    return flags


def profile_file(layout: Layout, name: str) -> Path:
    """Return the file of a profile.

    Raises:
        ConfigError: there is none of that name.
    """
    file = layout.profiles / f"{name}.toml"
    if not _IS_PROFILE.fullmatch(name) or not file.is_file():
        known = sorted(each.stem for each in layout.profiles.glob("*.toml"))
        there = f"there are {', '.join(known)}" if known else "there is none yet"
        raise ConfigError(f"there is no profile {name!r} in {layout.profiles}; {there}", key="profile")
    return file
