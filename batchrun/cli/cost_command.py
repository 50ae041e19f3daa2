"""`batchrun cost DIR`: the cost of a batch's Runs, by group, day and outcome."""

import csv
import sys
from collections.abc import Iterable
from pathlib import Path

from batchrun.errors import ConfigError
from batchrun.ledger.protocol import CostRow
from batchrun.ledger.sqlite.reader import COST_COLUMNS, open_for_reading
from batchrun.report.progress_words import money
from batchrun.report.terminal_text import one_line, table_lines

_SUMS = ("runs", "cost_usd", "derived_usd", "unknown_cost_runs", "not_final_runs")
_HEADINGS = ("runs", "cost", "of it derived", "unknown", "not final")
_CELL_CHARS = 60


def show_cost(directory: Path, by: str, *, as_csv: bool) -> None:
    """Print the cost of a batch, summed by the columns in `by`, which commas separate.

    Raises:
        ConfigError: a column does not exist.
        LedgerError: there is no ledger, or it is damaged.
    """
    names = list(dict.fromkeys(by.split(",")))
    if unknown := [name for name in names if name not in COST_COLUMNS]:
        raise ConfigError(f"--by {unknown[0]}: give {', '.join(COST_COLUMNS)}, or several of them with commas")
    show = _write_csv if as_csv else _print_table
    with open_for_reading(directory) as ledger, ledger.snapshot():
        show(names, ledger.costs(names), ledger.total_costs())


def _write_csv(names: list[str], rows: Iterable[CostRow], total: CostRow) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow([*names, *_SUMS])
    for row in rows:
        out.writerow([*(cell if cell is not None else "" for cell in row.shared), *_sums(row)])
    out.writerow(["total", *[""] * (len(names) - 1), *_sums(total)])


def _sums(row: CostRow) -> list[int | float]:
    return [row.runs, row.cost_usd, row.derived_usd, row.unknown_costs, row.open_costs]


def _print_table(names: list[str], rows: Iterable[CostRow], total: CostRow) -> None:
    table = [[*names, *_HEADINGS]]
    table += [_cells(row.shared, row) for row in rows]
    table.append(_cells(("total", *[""] * (len(names) - 1)), total))
    for line in table_lines(table, len(names)):
        print(line)


def _cells(shared: tuple[str | None, ...], row: CostRow) -> list[str]:
    names = [one_line(cell, _CELL_CHARS) if cell is not None else "-" for cell in shared]
    counts = [f"{row.unknown_costs:,}", f"{row.open_costs:,}"]
    return [*names, f"{row.runs:,}", money(row.cost_usd), money(row.derived_usd), *counts]
