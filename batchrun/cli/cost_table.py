"""The costs of a batch as a table or as CSV, for `cost` of a directory and of a worker's batch."""

import csv
import sys
from collections.abc import Iterable, Sequence
from decimal import Decimal

from batchrun.cli.terminal import answer_lines
from batchrun.ledger.protocol import CostRow
from batchrun.words.number_words import money
from batchrun.words.terminal_text import one_line, spreadsheet_text, table_lines

_SUMS = ("runs", "cost_usd", "derived_usd", "unknown_cost_runs", "not_final_runs")
_HEADINGS = ("runs", "cost", "of it derived", "unknown", "not final")
_CELL_CHARS = 60


def show_costs(names: Sequence[str], rows: Iterable[CostRow], total: CostRow, *, as_csv: bool) -> None:
    """Print sums by some columns, and the total."""
    (_write_csv if as_csv else _print_table)(list(names), rows, total)


def _write_csv(names: list[str], rows: Iterable[CostRow], total: CostRow) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow([*names, *_SUMS])
    for row in rows:
        out.writerow([*(spreadsheet_text(text or "") for text in row.shared), *_sums(row)])
    out.writerow(["total", *[""] * (len(names) - 1), *_sums(total)])


def _sums(row: CostRow) -> list[int | str]:
    return [row.runs, _plain(row.cost_usd), _plain(row.derived_usd), row.unknown_costs, row.open_costs]


def _plain(usd: float) -> str:
    """Return a number without an exponent, which spreadsheets may not read."""
    return format(Decimal(repr(usd)), "f")


def _print_table(names: list[str], rows: Iterable[CostRow], total: CostRow) -> None:
    table = [[*names, *_HEADINGS]]
    table += [_cells(row.shared, row) for row in rows]
    table.append(_cells(("total", *[""] * (len(names) - 1)), total))
    answer_lines(table_lines(table, len(names)))


def _cells(shared: tuple[str | None, ...], row: CostRow) -> list[str]:
    names = [one_line(cell, _CELL_CHARS) if cell is not None else "-" for cell in shared]
    counts = [f"{row.unknown_costs:,}", f"{row.open_costs:,}"]
    return [*names, f"{row.runs:,}", money(row.cost_usd), money(row.derived_usd), *counts]
