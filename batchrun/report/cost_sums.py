"""What a batch's Runs cost, of all rounds, summed by what they share."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from batchrun.ledger.protocol import CostRow
from batchrun.ledger.sqlite.reader import open_for_reading


def read_costs(directory: Path, by: Sequence[str], tell: Callable[[Iterable[CostRow], CostRow], None]) -> None:
    """Hand out a batch's costs, row for row, and their total, all of one moment.

    Args:
        directory: the output directory.
        by: what the Runs of a row share: names of COST_COLUMNS.
        tell: takes the rows, which can be read once, and the total: to the cent what the Summary says.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with open_for_reading(directory) as ledger, ledger.snapshot():
        tell(ledger.costs(by), ledger.total_costs())
