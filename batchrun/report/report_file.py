"""The report of a batch, made from the ledger and samples of the job file."""

from pathlib import Path

from batchrun.config import Config
from batchrun.model import Summary
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
