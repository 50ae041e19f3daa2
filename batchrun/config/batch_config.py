"""The configuration of a batch: all its tables. Defaults of a policy stand beside it, in `policy/`."""

from pathlib import Path
from typing import Self

from pydantic import model_validator

from batchrun.config.api_settings import ApiConfig
from batchrun.config.breaker_settings import BreakerConfig
from batchrun.config.deadlines_settings import DeadlinesConfig
from batchrun.config.file_paths import path_keys, relative_to
from batchrun.config.groups_settings import GroupConfig
from batchrun.config.jobs_settings import JobsConfig
from batchrun.config.limits_settings import LimitsConfig
from batchrun.config.notify_settings import NotifyConfig
from batchrun.config.output_settings import OutputConfig
from batchrun.config.replica_settings import ReplicaConfig
from batchrun.config.retry_settings import RetryConfig
from batchrun.config.run_settings import RunConfig
from batchrun.config.section import Name, Section
from batchrun.config.server_settings import ServerConfig
from batchrun.config.task_settings import TaskConfig
from batchrun.model import JsonObject


class Config(Section):
    """The configuration of a batch."""

    api: ApiConfig = ApiConfig.model_construct()
    task: TaskConfig
    jobs: JobsConfig
    input: JsonObject = {}
    """Constants under every override."""
    run: RunConfig = RunConfig.model_construct()
    limits: LimitsConfig = LimitsConfig.model_construct()
    retry: RetryConfig = RetryConfig.model_construct()
    deadlines: DeadlinesConfig = DeadlinesConfig.model_construct()
    breaker: BreakerConfig = BreakerConfig.model_construct()
    groups: dict[Name, GroupConfig] = {}
    """By `@group`; other groups have weight 1 and no limit."""
    output: OutputConfig = OutputConfig.model_construct()
    server: ServerConfig = ServerConfig.model_construct()
    replica: ReplicaConfig = ReplicaConfig.model_construct()
    notify: NotifyConfig = NotifyConfig.model_construct()

    @model_validator(mode="after")
    def _has_a_lease_below_the_horizon(self) -> Self:
        if self.replica.url is not None and self.replica.lease_s >= self.limits.start_horizon_s:
            raise ValueError("replica.lease_s must be less than limits.start_horizon_s")
        return self

    def as_noted(self) -> JsonObject:
        """Return the configuration as JSON with absolute paths, so that it can be read in any directory."""
        noted: JsonObject = self.model_dump(mode="json")
        for key in PATHS:
            section, name = key.split(".")
            noted[section][name] = relative_to(Path.cwd(), noted[section][name])
        return noted

    @property
    def out_dir(self) -> Path:
        """The batch's output directory; `load_config` has filled it in."""
        assert self.output.dir is not None, "load_config fills it in"
        return self.output.dir


#: Keys that hold paths: in a file they are relative to it, in flags to the current directory.
PATHS = path_keys(Config)
