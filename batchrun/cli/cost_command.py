"""`batchrun cost DIR`: the cost of a batch's Runs, by group, day and outcome."""

import csv
import os
import sys
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

from batchrun.cli.event_loop import run_async
from batchrun.cli.terminal import answer, say
from batchrun.errors import BatchrunError, ConfigError
from batchrun.ledger.protocol import CostRow
from batchrun.ledger.sqlite.reader import COST_COLUMNS, open_for_reading
from batchrun.maintenance.noted_config import read_config
from batchrun.maintenance.open_costs import read_open_costs
from batchrun.output.lock import holder
from batchrun.report.number_words import counted, money
from batchrun.report.output_files.costs_jsonl import write_costs
from batchrun.report.terminal_text import one_line, table_lines
from batchrun.runtime.logs import silence

_SUMS = ("runs", "cost_usd", "derived_usd", "unknown_cost_runs", "not_final_runs")
_HEADINGS = ("runs", "cost", "of it derived", "unknown", "not final")
_CELL_CHARS = 60
#: A spreadsheet may take a cell that begins with one of these for a formula.
_FORMULA_STARTS = "=+-@\t\r"


def show_cost(directory: Path, by: str, *, as_csv: bool) -> None:
    """Print the cost of a batch, summed by the columns in `by`, which commas separate.

    If no process runs the batch, costs that are not final are read first. costs.jsonl is written again.

    Raises:
        ConfigError: a column does not exist.
        LedgerError: there is no ledger, or it is damaged.
    """
    names = list(dict.fromkeys(by.split(",")))
    if unknown := [name for name in names if name not in COST_COLUMNS]:
        raise ConfigError(f"--by {unknown[0]}: give {', '.join(COST_COLUMNS)}, or several of them with commas")
    update_costs(directory)
    show = _write_csv if as_csv else _print_table
    with open_for_reading(directory) as ledger, ledger.snapshot():
        show(names, ledger.costs(names), ledger.total_costs())


def update_costs(directory: Path) -> None:
    """Read costs that are not final, if no process runs the batch, and write costs.jsonl; say what hinders it."""
    with open_for_reading(directory) as ledger:
        count = ledger.total_costs().open_costs
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


def _write_csv(names: list[str], rows: Iterable[CostRow], total: CostRow) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow([*names, *_SUMS])
    for row in rows:
        out.writerow([*map(_text_cell, row.shared), *_sums(row)])
    out.writerow(["total", *[""] * (len(names) - 1), *_sums(total)])


def _text_cell(text: str | None) -> str:
    """Return other people's text as a cell that a spreadsheet does not take for a formula."""
    return f"'{text}" if text and text[0] in _FORMULA_STARTS else text or ""


def _sums(row: CostRow) -> list[int | str]:
    return [row.runs, _plain(row.cost_usd), _plain(row.derived_usd), row.unknown_costs, row.open_costs]


def _plain(usd: float) -> str:
    """Return a number without an exponent, which spreadsheets may not read."""
    return format(Decimal(repr(usd)), "f")


def _print_table(names: list[str], rows: Iterable[CostRow], total: CostRow) -> None:
    table = [[*names, *_HEADINGS]]
    table += [_cells(row.shared, row) for row in rows]
    table.append(_cells(("total", *[""] * (len(names) - 1)), total))
    for line in table_lines(table, len(names)):
        answer(line)


def _cells(shared: tuple[str | None, ...], row: CostRow) -> list[str]:
    names = [one_line(cell, _CELL_CHARS) if cell is not None else "-" for cell in shared]
    counts = [f"{row.unknown_costs:,}", f"{row.open_costs:,}"]
    return [*names, f"{row.runs:,}", money(row.cost_usd), money(row.derived_usd), *counts]
