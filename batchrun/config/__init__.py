"""One frozen, validated configuration of a batch.

The token is not part of it: secrets come from the environment or a file of their own (`read_token`).
"""

from batchrun.config.load import load_api, load_config, parse_setting, read_token
from batchrun.config.sections import (
    AccountLimitsConfig,
    ApiConfig,
    Config,
    LimitsConfig,
    OutputConfig,
    ServerConfig,
    TaskConfig,
)

__all__ = [
    "AccountLimitsConfig",
    "ApiConfig",
    "Config",
    "LimitsConfig",
    "OutputConfig",
    "ServerConfig",
    "TaskConfig",
    "load_api",
    "load_config",
    "parse_setting",
    "read_token",
]
