"""The embedded server: the Apify API v2 on this machine, as far as tasks, Runs and their storages need it.

It shares no code with `batchrun.apify`, so that a mistake of one side cannot hide the same mistake of the other. Names
are imported at their first use, so that a batch on another platform does not load the server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchrun.server.accounts.account_book import refuse_anothers_directory
    from batchrun.server.app import Server, open_server
    from batchrun.server.content.demo_pages import DEMO_MODULES
    from batchrun.server.faults.fault_file import Faults, load_faults
    from batchrun.server.http.exposure import exposure_warning
    from batchrun.server.settings import AccountSettings, InlineActor, InlineContext, ServerSettings

__all__ = [
    "DEMO_MODULES", "AccountSettings", "Faults", "InlineActor", "InlineContext", "Server", "ServerSettings",
    "exposure_warning", "load_faults", "open_server", "refuse_anothers_directory",
]  # fmt: skip

_HOMES = {
    "batchrun.server.accounts.account_book": ("refuse_anothers_directory",),
    "batchrun.server.app": ("Server", "open_server"),
    "batchrun.server.content.demo_pages": ("DEMO_MODULES",),
    "batchrun.server.http.exposure": ("exposure_warning",),
    "batchrun.server.faults.fault_file": ("Faults", "load_faults"),
    "batchrun.server.settings": ("AccountSettings", "InlineActor", "InlineContext", "ServerSettings"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'batchrun.server' has no attribute {name!r}")
