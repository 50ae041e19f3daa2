"""What a batch has come to, read from its ledger."""

from dataclasses import dataclass
from pathlib import Path

from batchrun.ledger.commit import DUPLICATES
from batchrun.ledger.ledger import open_for_reading
from batchrun.model import Ending, Summary


def read_summary(directory: Path, ending: Ending) -> Summary:
    """Add up an output directory's ledger.

    Raises:
        LedgerError: there is none, or it is damaged.
    """
    with open_for_reading(directory) as ledger:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowJob:
    """A job and how long its Run took."""

    key: str
    run_s: float


def slowest_job(directory: Path) -> SlowJob | None:
    """Return the job whose Run took longest; None before any Run has ended."""
    with open_for_reading(directory) as ledger:
        slowest = ledger.slowest()
    return None if slowest is None else SlowJob(key=slowest[0], run_s=slowest[1])
