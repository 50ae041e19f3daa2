"""The configuration of a batch from a command's arguments, the same for every command that takes a batch."""

from pathlib import Path
from typing import Any

from batchrun.config import Config, load_config, parse_setting
from batchrun.errors import ConfigError


def load_batch_config(
    batch: Path | None,
    task: str | None,
    jobs: Path | None,
    out: Path | None,
    max_concurrent_runs: str | None,
    start_rate: float | None,
    limit: int | None,
    api_url: str | None,
    settings: list[str] | None,
    budget_usd: float | None = None,
) -> Config:
    """Return the configuration of a batch.

    Raises:
        ConfigError: the arguments name no batch, or the configuration is invalid.
    """
    if batch is None and (task is None or jobs is None):
        raise ConfigError("give a batch's TOML file, or --task and --jobs")
    flags: dict[str, Any] = {
        "task.id": task,
        "jobs.file": str(jobs) if jobs is not None else None,
        "output.dir": str(out) if out is not None else None,
        "limits.max_concurrent_runs": _number_or_auto(max_concurrent_runs),
        "limits.start_rate": start_rate,
        "limits.budget_usd": budget_usd,
        "jobs.limit": limit,
        "api.base_url": api_url,
    }
    given = dict(parse_setting(each) for each in settings or [])
    return load_config(batch, flags={**given, **{key: value for key, value in flags.items() if value is not None}})


def _number_or_auto(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.lstrip("-").isdecimal() else text
