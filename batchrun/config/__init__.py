"""The configuration of a batch or a worker, validated and frozen, and the policies that it describes.

The token is not part of it: `read_token` takes it from the environment or from a separate file.
"""

from batchrun.config.api_settings import ApiConfig
from batchrun.config.api_token import read_token
from batchrun.config.batch_config import Config
from batchrun.config.limits_settings import AccountLimitsConfig, LimitsConfig
from batchrun.config.load import load_api, load_config, parse_setting
from batchrun.config.output_settings import OutputConfig
from batchrun.config.server_settings import ServerConfig
from batchrun.config.task_settings import TaskConfig

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
