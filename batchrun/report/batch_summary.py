"""The Summary of a batch, read from its ledger."""

from dataclasses import asdict
from pathlib import Path

from batchrun.ledger.facts import DUPLICATES
from batchrun.ledger.sqlite.measures import SlowRun
from batchrun.ledger.sqlite.reader import LedgerReader, open_for_reading
from batchrun.model import Ending, Summary


def read_summary(directory: Path, ending: Ending) -> Summary:
    """Return the Summary of an output directory."""
    with open_for_reading(directory) as ledger, ledger.snapshot():
        return summary_of(ledger, directory, ending)


def summary_of(ledger: LedgerReader, directory: Path, ending: Ending) -> Summary:
    """Return the Summary of an open ledger."""
    return Summary(
        **asdict(ledger.totals()),
        ending=ending,
        outcomes=ledger.count_outcomes(),
        duplicates=ledger.fact(DUPLICATES) or 0,
        out_dir=str(directory),
    )


def slowest_run(directory: Path) -> SlowRun | None:
    """Return the Run that took longest; None if no Run has ended."""
    with open_for_reading(directory) as ledger:
        return next(iter(ledger.measures.slowest(1)), None)
