"""`batchrun cost DIR`: the cost of a batch's Runs, by group, day and outcome."""

import os
from pathlib import Path

from batchrun.cli.cost_table import show_costs
from batchrun.cli.event_loop import run_async
from batchrun.cli.terminal import say
from batchrun.errors import BatchrunError
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.maintenance.noted_config import read_config
from batchrun.maintenance.refresh_costs import read_open_costs
from batchrun.output.lock import holder
from batchrun.report.cost_sums import cost_columns
from batchrun.report.output_files.costs_jsonl import write_costs
from batchrun.runtime.logs import silence
from batchrun.words.number_words import counted


def show_cost(directory: Path, by: str, *, as_csv: bool) -> None:
    """Print the cost of a batch, summed by the columns in `by`, which commas separate.

    If no process runs the batch, costs that are not final are read first. costs.jsonl is written again.

    Raises:
        ConfigError: a column does not exist.
        LedgerError: there is no ledger, or it is damaged.
    """
    names = cost_columns(by)
    update_costs(directory)
    with open_for_reading(directory) as ledger, ledger.snapshot():
        show_costs(names, ledger.costs.by(names), ledger.costs.total(), as_csv=as_csv)


def update_costs(directory: Path) -> None:
    """Read costs that are not final, if no process runs the batch, and write costs.jsonl; say what hinders it."""
    with open_for_reading(directory) as ledger:
        count = ledger.costs.total().open_costs
    try:
        # An embedded server ends with its batch, and would start the batch's live Runs again.
        if count and holder(directory) is None and not read_config(directory)[0].api.is_embedded:
            _read_open_costs(directory, count)
        write_costs(directory)
    except BatchrunError as error:
        say(f"Note: {error}")


def _read_open_costs(directory: Path, count: int) -> None:
    silence()
    say(f"Reading costs that are not final yet, of {counted(count, 'Run')}")
    run_async(read_open_costs, directory, os.environ)
