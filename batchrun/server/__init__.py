"""The embedded server: the Apify API v2 as far as tasks, runs and their storages need it, on this machine.

It shares no code with `batchrun.apify`, so that a mistake of one side cannot hide the other's.
"""

from batchrun.server.app import Server, open_server
from batchrun.server.demo import DEMO_MODULES
from batchrun.server.exposure import exposure_warning
from batchrun.server.misbehaviour_config import Faults, load_faults
from batchrun.server.settings import AccountSettings, InlineActor, InlineContext, ServerSettings

__all__ = [
    "DEMO_MODULES",
    "AccountSettings",
    "Faults",
    "InlineActor",
    "InlineContext",
    "Server",
    "ServerSettings",
    "exposure_warning",
    "load_faults",
    "open_server",
]  # fmt: skip
