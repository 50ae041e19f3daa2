"""The configuration of a worker: `worker.toml` in its data directory, under the environment, under flags."""

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from batchrun.config.load import as_config_error, read_settings
from batchrun.config.sections import AccountLimitsConfig, ApiConfig, Section, ServerConfig

#: In the data directory.
FILE_NAME = "worker.toml"
#: Address of a worker's HTTP API.
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8421


class WorkerLimitsConfig(AccountLimitsConfig):
    """What all batches of a worker have together."""

    budget_usd: Annotated[float, Field(gt=0)] | None = None
    """Most that all batches that the worker keeps may cost together, in US dollars."""


class ServiceConfig(Section):
    """The worker itself."""

    host: Annotated[str, Field(min_length=1)] = DEFAULT_HOST
    """Address that the HTTP API listens at."""
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    """Its port; 0 takes a free one."""
    drain_s: Annotated[float, Field(ge=0)] = 60.0
    """How long SIGTERM waits for live Runs; those that are live then are noted and go on."""
    keep_finished_days: Annotated[float, Field(ge=0)] | None = None
    """Batches that ended so many days ago are deleted; default: never. Those of the spool keep their files."""
    log_level: Literal["debug", "info", "warning"] = "info"
    """Least level of the lines in worker.log and in the batches' logs; "debug" tells of each Run that is started."""
    traces: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Where traces are sent (OTLP over HTTP, as to http://127.0.0.1:4318/v1/traces); takes the extra `otel`. Default: \
nowhere, unless OTEL_EXPORTER_OTLP_ENDPOINT is set."""
    max_open_batches: Annotated[int, Field(ge=1)] = 50
    """Most batches that are carried out side by side; others wait, first come, first served."""


class WorkerConfig(Section):
    """A worker, whole."""

    api: ApiConfig = ApiConfig()
    server: ServerConfig = ServerConfig()
    limits: WorkerLimitsConfig = WorkerLimitsConfig()
    worker: ServiceConfig = ServiceConfig()


def load_worker_config(
    data_dir: Path,
    *,
    flags: Mapping[str, Any] = types.MappingProxyType({}),
    environ: Mapping[str, str] | None = None,
) -> WorkerConfig:
    """Read a worker's configuration; without a file, every key has its default.

    Args:
        data_dir: holds `worker.toml`, if there is one; its paths are relative to it.
        flags: values by dotted key, before everything else.
        environ: the environment; BATCHRUN_SECTION__KEY comes before the file, of keys that a worker has.

    Raises:
        ConfigError: naming the file and every dotted key that is wrong.
    """
    file = data_dir / FILE_NAME
    found = file if file.exists() else None
    values, given = read_settings(found, flags=flags, environ=environ, known=_has_key)
    try:
        return WorkerConfig.model_validate(values)
    except ValidationError as error:
        raise as_config_error(error, found, given, WorkerConfig) from None


def _has_key(key: str) -> bool:
    """Whether a key is a worker's; the same environment may set keys of its batches."""
    section, _, name = key.partition(".")
    field = WorkerConfig.model_fields.get(section)
    model = field.annotation if field is not None else None
    return name in getattr(model, "model_fields", {})
