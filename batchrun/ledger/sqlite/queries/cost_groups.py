"""What ended Runs have cost, of all rounds: in one sum, summed by columns, and each by itself."""

from collections.abc import Iterator, Sequence
from typing import Any

from batchrun.ledger.protocol import CostRow, RunCost
from batchrun.ledger.sqlite.connection import Connection
from batchrun.ledger.sqlite.row_values import cost_source_of
from batchrun.model import JobKey, RunId

_COSTS = (
    "count(*), total(attempt.cost_usd), total(iif(attempt.cost_source = 'derived', attempt.cost_usd, 0)),"
    " total(attempt.cost_usd IS NULL), total(attempt.cost_is_final = 0)"
)
# The plus keeps SQLite off the index of run_id, which would double the time for a million rows.
_PAID = "attempt.state = 'ended' AND +attempt.run_id IS NOT NULL"
#: The columns by which costs can be summed, by their names on the command line.
COST_COLUMNS = {
    "group": 'job."group"',
    "day": "date(attempt.finished_at, 'unixepoch')",
    "outcome": "coalesce(past_round.outcome, job.outcome, 'open')",
}


class CostGroups:
    """The costs in a ledger."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def by(self, columns: Sequence[str]) -> Iterator[CostRow]:
        """Yield the costs, summed by names of COST_COLUMNS, in one pass."""
        names = ", ".join(COST_COLUMNS[name] for name in columns)
        rows = self._db.execute(
            f"SELECT {_COSTS}, {names} FROM attempt JOIN job ON job.id = attempt.job_id"
            " LEFT JOIN past_round ON past_round.job_id = attempt.job_id AND past_round.round = attempt.round"
            f" WHERE {_PAID} GROUP BY {names} ORDER BY {names}"
        )
        return map(_cost_row, rows)

    def total(self) -> CostRow:
        """Return the costs in one sum."""
        return _cost_row(self._db.execute(f"SELECT {_COSTS} FROM attempt WHERE {_PAID}").fetchone())

    def of_runs(self) -> Iterator[RunCost]:
        """Yield the cost of each Run, in order of admission and in one pass."""
        rows = self._db.execute(
            "SELECT job.key, job.line, attempt.round, attempt_no, run_id, cost_usd, cost_source, cost_is_final"
            f" FROM attempt JOIN job ON job.id = attempt.job_id WHERE {_PAID} ORDER BY job_id, attempt_no"
        )
        return (
            RunCost(
                key=JobKey(row[0]),
                line=row[1],
                round=row[2],
                attempt_no=row[3],
                run_id=RunId(row[4]),
                cost_usd=row[5],
                cost_source=cost_source_of(row[6]),
                cost_is_final=bool(row[7]),
            )
            for row in rows
        )


def _cost_row(row: Sequence[Any]) -> CostRow:
    return CostRow(
        runs=row[0],
        cost_usd=row[1],
        derived_usd=row[2],
        unknown_costs=int(row[3]),
        open_costs=int(row[4]),
        shared=tuple(row[5:]),
    )
