"""How many jobs were settled in each round, and how many attempts all rounds took."""

from batchrun.ledger.sqlite.connection import Connection
from batchrun.model import Outcome
from batchrun.runtime.fast_dataclasses import dataclass

#: Max rounds of a batch: readers go through all of them.
MAX_ROUNDS = 10_000


def checked_round(number: int) -> int:
    """Return the number of a round.

    Raises:
        ValueError: there are more rounds than any batch has.
    """
    if number > MAX_ROUNDS:
        raise ValueError(f"a job is in round {number:,}")
    return number


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """The number of attempts of all rounds."""

    #: Attempts that started a Run.
    runs: int
    #: Attempts that were not the first of their job in its round.
    repeated: int


class RoundCounts:
    """The rounds in a ledger."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def settled_jobs(self) -> list[dict[Outcome, int]]:
        """Return the number of jobs that were settled in each round, by outcome, from round 1 on."""
        rows = self._db.execute(
            "SELECT round, outcome, count(*) FROM (SELECT round, outcome FROM job WHERE outcome IS NOT NULL"
            " UNION ALL SELECT round, outcome FROM past_round) GROUP BY 1, 2"
        ).fetchall()
        with self._db.decoding():
            last = max((row[0] for row in rows), default=0)
            found: list[dict[Outcome, int]] = [{} for _ in range(checked_round(last))]
            for number, outcome, count in rows:
                found[number - 1][Outcome(outcome)] = count
        return found

    def attempts(self) -> Attempts:
        """Count the attempts."""
        made, runs, first = self._db.execute(
            "SELECT count(*), count(run_id), (SELECT count(*) FROM (SELECT 1 FROM attempt GROUP BY job_id, round))"
            " FROM attempt"
        ).fetchone()
        return Attempts(runs=runs, repeated=made - first)
