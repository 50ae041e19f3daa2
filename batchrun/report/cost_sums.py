"""The cost of a batch's Runs in all rounds, summed by group, day or outcome."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from batchrun.ledger.protocol import CostRow
from batchrun.ledger.sqlite.reader import open_for_reading


def read_costs(directory: Path, by: Sequence[str], use: Callable[[Iterable[CostRow], CostRow], None]) -> None:
    """Pass a batch's costs and their total to `use`, from one snapshot of the ledger.

    Args:
        directory: the output directory.
        by: columns to sum by: names of COST_COLUMNS.
        use: takes the rows (one pass) and the total, which equals the Summary's cost to the cent.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with open_for_reading(directory) as ledger, ledger.snapshot():
        use(ledger.costs(by), ledger.total_costs())
