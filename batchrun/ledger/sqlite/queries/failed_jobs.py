"""Jobs that did not succeed: which ones a Selection selects, and their kinds of failure."""

from collections.abc import Sequence
from dataclasses import fields

import orjson

from batchrun.ledger.protocol import FailureKind, FailureKinds, SettledJob
from batchrun.ledger.sqlite.connection import Connection
from batchrun.ledger.sqlite.row_values import SETTLED_COLUMNS, check_settled, settled_job_of
from batchrun.model import Selection

#: The rows of `job` that a Selection selects; each of its fields is a parameter: a JSON list or NULL.
SELECTED = """
    key IS NOT NULL AND outcome IS NOT NULL
    AND iif(:outcomes IS NULL, outcome != 'succeeded', outcome IN (SELECT value FROM json_each(:outcomes)))
    AND (:error_types IS NULL OR error_type IN (SELECT value FROM json_each(:error_types)))
    AND (:groups IS NULL OR "group" IN (SELECT value FROM json_each(:groups)))
    AND (:keys IS NULL OR key IN (SELECT value FROM json_each(:keys)))
    AND (:failures IS NULL
        OR failure_id(outcome, error_type, exit_code, error_message) IN (SELECT value FROM json_each(:failures)))
"""
_ENDED = (
    "(SELECT outcome, error_type, exit_code, error_message FROM job WHERE key IS NOT NULL UNION ALL"
    " SELECT outcome, error_type, exit_code, error_message FROM past_round)"
)
#: Every value that jobs have or had, for each field of a Selection that names some.
_KNOWN = {
    "keys": "SELECT key FROM job WHERE key IS NOT NULL",
    "groups": 'SELECT "group" FROM job WHERE "group" IS NOT NULL',
    "error_types": f"SELECT error_type FROM {_ENDED} WHERE error_type IS NOT NULL",
    "failures": (
        f"SELECT failure_id(outcome, error_type, exit_code, error_message) FROM {_ENDED} WHERE outcome != 'succeeded'"
    ),
}


class FailedJobs:
    """The failures in a ledger."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    def kinds(self, selection: Selection, limit: int) -> FailureKinds:
        """Group the selected jobs by kind of failure, and return the `limit` most frequent kinds."""
        rows = self._db.execute(
            "WITH kind AS (SELECT failure_id(outcome, error_type, exit_code, error_message) AS id, count(*) AS jobs,"
            f" min(id) AS sample FROM job WHERE {SELECTED} GROUP BY 1)"
            " SELECT id, jobs, sample, count(*) OVER (), sum(jobs) OVER () FROM kind ORDER BY jobs DESC, sample"
            " LIMIT :limit",
            {**parameters(selection), "limit": limit},
        ).fetchall()
        return FailureKinds(
            kinds=[FailureKind(id=row[0], count=row[1], sample=self._settled(row[2])) for row in rows],
            kinds_in_all=rows[0][3] if rows else 0,
            jobs_in_all=rows[0][4] if rows else 0,
        )

    def count(self, selection: Selection) -> int:
        """Count the selected jobs."""
        row = self._db.execute(f"SELECT count(*) FROM job WHERE {SELECTED}", parameters(selection)).fetchone()
        count: int = row[0]
        return count

    def unknown(self, part: str, values: Sequence[str]) -> list[str]:
        """Return those among some values of a field of Selection that no job has or had in any round."""
        rows = self._db.execute(
            f"SELECT value FROM json_each(?) WHERE value NOT IN ({_KNOWN[part]})",
            (orjson.dumps(list(values)).decode(),),
        )
        return [row[0] for row in rows]

    def _settled(self, job_id: int) -> SettledJob:
        row = self._db.execute(
            f"SELECT {SETTLED_COLUMNS} FROM job JOIN job AS it USING (id) WHERE job.id = ?", (job_id,)
        ).fetchone()
        with self._db.decoding():
            check_settled(row)
            return settled_job_of(row)


def parameters(selection: Selection) -> dict[str, str | None]:
    """Return the parameters of `SELECTED`."""
    given = {field.name: getattr(selection, field.name) for field in fields(selection)}
    return {name: None if values is None else orjson.dumps(list(values)).decode() for name, values in given.items()}
