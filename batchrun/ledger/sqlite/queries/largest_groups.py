"""The groups with the most jobs, largest first, and how many jobs each of them has by outcome."""

from batchrun.ledger.sqlite.connection import Connection
from batchrun.model import Outcome
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCount:
    """The number of jobs in one group."""

    group: str | None
    outcomes: dict[Outcome, int]
    open_jobs: int

    @property
    def jobs(self) -> int:
        """All jobs of the group."""
        return self.open_jobs + sum(self.outcomes.values())


class GroupCounts:
    """The groups in a ledger."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def largest(self, limit: int) -> list[GroupCount]:
        """Return the groups with the most jobs: the largest first, equal ones by name.

        Jobs without a group form one of them; bad lines belong to none.
        """
        rows = self._db.execute(
            'WITH largest AS (SELECT "group" AS name FROM job WHERE key IS NOT NULL GROUP BY 1'
            ' ORDER BY count(*) DESC, 1 LIMIT ?) SELECT "group", outcome, count(*) FROM job'
            ' JOIN largest ON largest.name IS job."group" WHERE key IS NOT NULL GROUP BY 1, 2 ORDER BY 1',
            (limit,),
        )
        groups: dict[str | None, dict[Outcome | None, int]] = {}
        with self._db.decoding():
            for name, outcome, count in rows:
                groups.setdefault(name, {})[Outcome(outcome) if outcome is not None else None] = count
        found = [
            GroupCount(
                group=name,
                outcomes={outcome: count for outcome, count in of_group.items() if outcome is not None},
                open_jobs=of_group.get(None, 0),
            )
            for name, of_group in groups.items()
        ]
        return sorted(found, key=lambda each: -each.jobs)

    def count(self) -> int:
        """Return the number of named groups."""
        count: int = self._db.execute('SELECT count(DISTINCT "group") FROM job').fetchone()[0]
        return count
