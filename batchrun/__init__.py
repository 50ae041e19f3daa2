"""Carry out a file of inputs as Apify task runs: bounded, durable, never started twice.

The public names are those in `__all__`. Each is imported when it is first used: a process that needs one small module
of this package, as a bundled Actor does, must not wait for the whole engine.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from batchrun.version import __version__

if TYPE_CHECKING:
    from batchrun.batch.open_batch import open_batch, run_batch
    from batchrun.batch.opening_facts import Opening
    from batchrun.batch.running_batch import Batch
    from batchrun.config import Config, load_config
    from batchrun.errors import BatchRefused, BatchrunError, ConfigError, JobFileError, OutputError
    from batchrun.model import Outcome, Record, Selection, Summary

__all__ = [
    "Batch",
    "BatchRefused",
    "BatchrunError",
    "Config",
    "ConfigError",
    "JobFileError",
    "Opening",
    "Outcome",
    "OutputError",
    "Record",
    "Selection",
    "Summary",
    "__version__",
    "load_config",
    "open_batch",
    "run_batch",
]

_HOMES = {
    "batchrun.batch.running_batch": ("Batch",),
    "batchrun.batch.open_batch": ("open_batch", "run_batch"),
    "batchrun.config": ("Config", "load_config"),
    "batchrun.errors": ("BatchRefused", "BatchrunError", "ConfigError", "JobFileError", "OutputError"),
    "batchrun.model": ("Outcome", "Record", "Selection", "Summary"),
    "batchrun.batch.opening_facts": ("Opening",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'batchrun' has no attribute {name!r}")
