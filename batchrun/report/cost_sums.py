"""The costs of a batch, summed by group, day and outcome; readable while another process runs the batch."""

from collections.abc import Iterator
from dataclasses import asdict
from heapq import nlargest
from itertools import count
from pathlib import Path

from batchrun.errors import ConfigError
from batchrun.ledger.protocol import CostRow
from batchrun.ledger.sqlite.queries.cost_groups import COST_COLUMNS
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.model import JsonObject, write_json
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSums:
    """Sums by some columns, and the sum of all."""

    #: The columns, as in `shared` of each row.
    by: list[str]
    rows: list[CostRow]
    total: CostRow


NO_COSTS = CostRow(shared=(), runs=0, cost_usd=0.0, derived_usd=0.0, unknown_costs=0, open_costs=0)


def cost_columns(by: str) -> list[str]:
    """Return the columns that commas separate.

    Raises:
        ConfigError: a column does not exist.
    """
    names = list(dict.fromkeys(by.split(",")))
    if unknown := [name for name in names if name not in COST_COLUMNS]:
        raise ConfigError(f"--by {unknown[0]}: give {', '.join(COST_COLUMNS)}, or several of them with commas")
    return names


def highest_costs(directory: Path, names: list[str], most: int) -> JsonObject:
    """Return CostSums with the `most` rows of the highest costs, and the number of other rows, as JSON.

    Memory does not grow with the number of rows.
    """
    seen = count()
    with open_for_reading(directory) as ledger, ledger.snapshot():
        counted = (row for row, _ in zip(ledger.costs.by(names), seen, strict=False))
        highest = nlargest(most, counted, key=lambda row: row.cost_usd)
        total = ledger.costs.total()
    return {**asdict(CostSums(by=names, rows=highest, total=total)), "other_rows": next(seen) - len(highest)}


def total_costs(directory: Path) -> CostRow:
    """Return the costs of all ended Runs of all rounds, in one sum."""
    with open_for_reading(directory) as ledger:
        return ledger.costs.total()


def cost_sums_json(directory: Path, names: list[str]) -> Iterator[bytes]:
    """Yield CostSums as JSON, row by row: there may be as many groups as jobs.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with open_for_reading(directory) as ledger, ledger.snapshot():
        yield b'{"by":%s,"rows":[' % write_json(names)
        for number, row in enumerate(ledger.costs.by(names)):
            yield (b"," if number else b"") + write_json(asdict(row))
        yield b'],"total":%s}' % write_json(asdict(ledger.costs.total()))
