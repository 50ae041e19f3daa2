"""The report of a batch as a file: the ledger's figures and samples of the job file, put together and written whole."""

import os
from contextlib import suppress
from pathlib import Path

from batchrun.config import Config
from batchrun.model import Summary
from batchrun.output.sink import explain
from batchrun.report.report_figures import read_figures
from batchrun.report.report_page import SAMPLES, compose
from batchrun.report.sent_overrides import sent_overrides

#: Characters of an override that are read for a report.
_MAX_SENT_CHARS = 1000


def make_report(directory: Path, config: Config, own_summary: Summary | None = None) -> str:
    """Return the report of a batch, also while another process runs it.

    Args:
        directory: the output directory.
        config: what the batch was last opened with.
        own_summary: of the process that has just worked on the batch, when that is this one.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    figures = read_figures(directory, own_summary)
    sent = sent_overrides(config, figures.failures.kinds[:SAMPLES], _MAX_SENT_CHARS)
    return compose(figures, directory, config, sent)


def write_report(file: Path, page: str) -> None:
    """Write a report so that the file is there whole, or is what it was before.

    Raises:
        OutputError: the disk does not take it; nothing of it is left.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        with beside.open("w", encoding="utf-8", newline="\n") as opened:
            opened.write(page)
        beside.replace(file)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise explain(error, file) from error
