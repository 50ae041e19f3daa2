"""The Summary of a batch, read from its ledger."""

from pathlib import Path

from batchrun.ledger.facts import DUPLICATES
from batchrun.ledger.sqlite.measures import SlowRun
from batchrun.ledger.sqlite.reader import LedgerReader, open_for_reading
from batchrun.model import Ending, Summary


def read_summary(directory: Path, ending: Ending) -> Summary:
    """Return the Summary of an output directory.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with open_for_reading(directory) as ledger, ledger.snapshot():
        return summary_of(ledger, directory, ending)


def summary_of(ledger: LedgerReader, directory: Path, ending: Ending) -> Summary:
    """Return the Summary of an open ledger."""
    totals = ledger.totals()
    return Summary(
        ending=ending,
        outcomes=ledger.count_outcomes(),
        duplicates=ledger.fact(DUPLICATES) or 0,
        open_jobs=totals.open_jobs,
        live_runs=totals.live_runs,
        in_doubt=totals.in_doubt,
        items=totals.items,
        earlier_records=totals.earlier_records,
        empty_successes=totals.empty_successes,
        cost_usd=totals.cost_usd,
        unknown_costs=totals.unknown_costs,
        open_costs=totals.open_costs,
        out_dir=str(directory),
    )


def slowest_run(directory: Path) -> SlowRun | None:
    """Return the Run that took longest; None if no Run has ended."""
    with open_for_reading(directory) as ledger:
        return next(iter(ledger.measures.slowest(1)), None)
