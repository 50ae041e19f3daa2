"""The configuration of a worker: flags before the environment before `worker.toml` in its data directory."""

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from batchrun.config.api_settings import ApiConfig
from batchrun.config.limits_settings import AccountLimitsConfig
from batchrun.config.load import as_config_error, read_settings
from batchrun.config.notify_settings import NotifyConfig
from batchrun.config.section import Section
from batchrun.config.server_settings import ServerConfig
from batchrun.errors import ConfigError
from batchrun.runtime.private_files import is_absent, refuse_anothers, stat_in_place

#: The file's name in the data directory.
FILE_NAME = "worker.toml"
#: Where a worker's HTTP API listens by default.
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8421


#: What of `[worker]` is read at the start only, beside the whole of `[api]` and `[server]`.
_START_ONLY = frozenset({"host", "port", "log_level", "traces", "fleet", "lease_s"})
_START_ONLY_TABLES = ("api", "server")


class WorkerLimitsConfig(AccountLimitsConfig):
    """Limits of all batches of a worker together."""

    budget_usd: Annotated[float, Field(gt=0)] | None = None
    """Most that all batches of the worker may cost together, in US dollars."""


#: States in which batches can be deleted by themselves. Those that a person has paused, or that have stopped, wait.
RetainedState = Literal["finished", "cancelled", "failed", "tripped", "out_of_budget"]
_OVER: tuple[RetainedState, ...] = ("finished", "cancelled", "failed")


class ServiceConfig(Section):
    """The worker itself."""

    host: Annotated[str, Field(min_length=1)] = DEFAULT_HOST
    """Address that the HTTP API listens at."""
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    """Its port; 0 takes a free one."""
    drain_s: Annotated[float, Field(ge=0)] = 60.0
    """Seconds that SIGTERM waits for live Runs; those still live then go on, and the next start resumes them."""
    keep_finished_days: Annotated[float, Field(ge=0)] | None = None
    """Days after which ended batches are deleted; default: never. Batches of the spool keep their files."""
    keep_days: dict[RetainedState, Annotated[float, Field(ge=0)]] = {}
    """Days by state, like { failed = 90, tripped = 30 }, after which batches that rest in it are deleted."""
    keep_mb: dict[RetainedState, Annotated[int, Field(ge=0)]] = {}
    """Megabytes by state that all batches in it take together; the oldest are deleted first."""
    log_level: Literal["debug", "info", "warning"] = "info"
    """Least level of lines in worker.log and in the batches' logs; "debug" has a line for each started Run."""
    traces: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """Where traces are sent (OTLP over HTTP, as to http://127.0.0.1:4318/v1/traces); takes the extra `otel`. Default: \
nowhere, unless OTEL_EXPORTER_OTLP_ENDPOINT is set."""
    fleet: Annotated[str, Field(min_length=1)] | None = None
    """Where the workers of a fleet keep their batches: s3://, gs://, az://, nats://host:4222/name, file:///path."""
    lease_s: Annotated[float, Field(gt=0)] = 20.0
    """In a fleet: seconds of silence after which this worker starts no Run; others replace it after 1.5 times that."""
    max_open_batches: Annotated[int, Field(ge=1)] = 50
    """Most batches that are carried out at the same time; others wait in the order in which they came."""

    def days_kept(self) -> dict[str, float]:
        """Return after how many days batches are deleted, by state; those in other states stay."""
        kept = self.keep_finished_days
        days: dict[str, float] = dict.fromkeys(_OVER, kept) if kept is not None else {}
        days.update(self.keep_days.items())
        return days


class WorkerConfig(Section):
    """The configuration of a worker."""

    api: ApiConfig = ApiConfig.model_construct()
    server: ServerConfig = ServerConfig.model_construct()
    limits: WorkerLimitsConfig = WorkerLimitsConfig.model_construct()
    worker: ServiceConfig = ServiceConfig.model_construct()
    notify: NotifyConfig = NotifyConfig.model_construct()


def changed_while_running(old: WorkerConfig, new: WorkerConfig) -> tuple[WorkerConfig, list[str]]:
    """Return what the configuration of a running worker becomes, and the changed keys that wait for its next start."""
    kept = {name: getattr(old.worker, name) for name in _START_ONLY}
    tables = {name: getattr(old, name) for name in _START_ONLY_TABLES}
    now = new.model_copy(update={**tables, "worker": new.worker.model_copy(update=kept)})
    later = [
        f"{table}.{name}"
        for table in (*_START_ONLY_TABLES, "worker")
        for name in type(getattr(now, table)).model_fields
        if getattr(getattr(now, table), name) != getattr(getattr(new, table), name)
    ]
    return now, later


def load_worker_config(
    data_dir: Path | None,
    *,
    flags: Mapping[str, Any] = types.MappingProxyType({}),
    environ: Mapping[str, str] | None = None,
) -> WorkerConfig:
    """Read a worker's configuration; without a file, as without a data directory, every key has its default.

    Flags by dotted key override BATCHRUN_SECTION__KEY of the environment, which override the file. Paths in the file
    are relative to the data directory. Variables for keys that a worker lacks are ignored.

    Raises:
        ConfigError: it names the file and every dotted key that is wrong.
    """
    found = None if data_dir is None or is_absent(data_dir / FILE_NAME) else data_dir / FILE_NAME
    if found is not None:
        refuse_planted(found)
    values, given = read_settings(found, flags=flags, environ=environ, known=_has_key)
    try:
        return WorkerConfig.model_validate(values)
    except ValidationError as error:
        raise as_config_error(error, found, given, WorkerConfig) from None


def refuse_planted(file: Path) -> None:
    """Refuse a configuration that another user has put into the data directory while it was open to him.

    Raises:
        ConfigError: he would choose the platform that gets the token, and the files that are read.
    """
    try:
        refuse_anothers(file, stat_in_place(file))
    except OSError as error:
        raise ConfigError(error.strerror or str(error), file=file) from error


def _has_key(key: str) -> bool:
    """True if a worker has this key; the same environment may set keys of its batches."""
    section, _, name = key.partition(".")
    field = WorkerConfig.model_fields.get(section)
    model = field.annotation if field is not None else None
    return name in getattr(model, "model_fields", {})
