"""The configuration of a batch or a worker, validated and frozen, and the policies that it describes.

The token is not part of it: `read_token` takes it from the environment or from a separate file.
"""

from batchrun.config.api_token import read_token
from batchrun.config.batch_settings import (
    AccountLimitsConfig,
    ApiConfig,
    Config,
    LimitsConfig,
    OutputConfig,
    ServerConfig,
    TaskConfig,
)
from batchrun.config.load import load_api, load_config, parse_setting

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
