"""Keeps commands that write a file from writing over another one, which a batch may have or read."""

from pathlib import Path

from batchrun.errors import ConfigError
from batchrun.maintenance.noted_config import is_read
from batchrun.output.layout import LEDGER, is_own_file, is_own_name
from batchrun.worker.data_directory import is_of_worker


def refuse_no_html(file: Path) -> None:
    """Refuse to write a report to a file whose name does not end like one: a batch file is easily named instead.

    Raises:
        ConfigError: so it does.
    """
    if file.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{file}: a report is HTML; give it a name that ends with .html")


def refuse_file_of_batch(directory: Path, file: Path) -> None:
    """Refuse to write over a file of a batch, be it this one or another.

    Raises:
        ConfigError: a batch writes it into its directory, or this one reads it, as its job file; or it is a worker's.
        LedgerError: there is no ledger, or it is damaged.
    """
    if is_own_file(directory, file):
        raise ConfigError(f"{file}: is written by the batch itself; choose another name")
    is_in_batch = (file.parent / LEDGER).exists()
    if is_own_name(file.name) and is_in_batch:
        raise ConfigError(f"{file}: is written by another batch; choose another name")
    if not is_in_batch and is_of_worker(file):
        raise ConfigError(f"{file}: is one of a worker's own files; choose another name")
    if is_read(directory, file):
        raise ConfigError(f"{file}: is read by the batch itself; choose another name")
