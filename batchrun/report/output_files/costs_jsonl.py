"""costs.jsonl: the costs of a batch's Runs as they are known now, a line for each Run.

A record has the costs known when its job was settled, some seconds before they are final. This file has those that
count. It is derived from the ledger and replaced whole.
"""

from pathlib import Path

from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.model import json_line
from batchrun.output.atomic_write import replace_file
from batchrun.output.layout import COSTS


def write_costs(directory: Path) -> None:
    """Write the costs of all Runs that have ended, in order of their jobs; another process may run the batch.

    Raises:
        OutputError: the file cannot be written; the old one is unchanged.
        LedgerError: there is no ledger, or it is damaged.
    """
    with open_for_reading(directory) as ledger, ledger.snapshot():
        replace_file(directory / COSTS, (json_line(cost) for cost in ledger.costs.of_runs()))
