"""When a batch began, and when its ledger noted anything last."""

from datetime import datetime

from batchrun.ledger.sqlite.connection import Connection
from batchrun.ledger.sqlite.row_values import time_of
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The first and the last moment of a batch."""

    #: The admission of its first job.
    began_at: datetime
    #: The latest time in the ledger, on this machine's clock or the platform's.
    last_noted_at: datetime


def times_of(connection: Connection) -> Times | None:
    """Return the first and the last moment of the batch; None if nothing was admitted yet."""
    began, last = connection.execute(
        "SELECT min(admitted_at), max(max(admitted_at), coalesce(max(settled_at), 0)) FROM job"
    ).fetchone()
    # The first admission of a job in a later round stands in its first round.
    earlier = connection.execute("SELECT min(admitted_at) FROM past_round").fetchone()[0]
    of_runs = connection.execute("SELECT max(max(intended_at), coalesce(max(finished_at), 0)) FROM attempt")
    if began is None:
        return None
    noted = of_runs.fetchone()[0] or 0.0
    with connection.decoding():
        return Times(began_at=time_of(min(began, earlier or began)), last_noted_at=time_of(max(last, noted)))
