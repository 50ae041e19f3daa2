"""The report of a batch as a file: made from the ledger and samples of the job file, written atomically."""

import os
from contextlib import suppress
from pathlib import Path

from batchrun.config import Config
from batchrun.model import Summary
from batchrun.output.sink import explain
from batchrun.report.report_figures import read_figures
from batchrun.report.report_page import SAMPLES, compose
from batchrun.report.sent_overrides import sent_overrides

#: Max characters of an override in a report.
_MAX_SENT_CHARS = 1000


def make_report(directory: Path, config: Config, own_summary: Summary | None = None) -> str:
    """Return the report of a batch as HTML, also while another process runs the batch.

    Args:
        directory: the output directory.
        config: the configuration with which the batch was last opened.
        own_summary: the Summary of this process, if this process has just run the batch.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    figures = read_figures(directory, own_summary)
    sent = sent_overrides(config, figures.failures.kinds[:SAMPLES], _MAX_SENT_CHARS)
    return compose(figures, directory, config, sent)


def write_report(file: Path, page: str) -> None:
    """Write a report; on an error the file stays as it was.

    Raises:
        OutputError: the file cannot be written; nothing of the attempt is left.
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
