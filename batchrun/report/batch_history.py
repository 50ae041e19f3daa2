"""The history of a batch over time, read from its ledger: done jobs, live Runs, costs; also while a process runs it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from operator import add
from pathlib import Path

from batchrun.ledger.sqlite.queries.run_and_queue_times import Duration
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.report.report_data import Distribution, distribution

#: Max intervals: more bars cannot be told apart on a screen.
MAX_INTERVALS = 150
#: Lengths of an interval at which a reader can count, in seconds.
_ROUND_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchHistory:
    """A batch in intervals of equal length, oldest first."""

    began_at: datetime
    interval_s: float
    #: Jobs that ended in each interval: of all rounds, so a retried job counts each time.
    succeeded: list[int]
    failed: list[int]
    #: Jobs that were done at the end of each interval, and those of them that did not succeed.
    done: list[int]
    not_succeeded: list[int]
    #: Average number of live Runs in each interval.
    live_runs: list[float]
    #: Costs of the Runs that had ended at the end of each interval, in US dollars.
    cost_usd: list[float]
    #: How long all Runs took that have ended, of all rounds and whatever interval is asked for; None: none has.
    run_times: Distribution | None


def read_history(
    directory: Path, *, is_open: bool, last_s: float | None = None, run_times: Distribution | None = None
) -> BatchHistory | None:
    """Return the history of an output directory; None if no job was admitted yet.

    A million jobs take about six seconds, most of them for `run_times`, and constant memory.

    Args:
        directory: of the ledger.
        is_open: True if a process runs the batch, so that its history goes on until now.
        last_s: only the last seconds; None: from the beginning.
        run_times: as another history of the same Runs has them; None: they are read.
    """
    with open_for_reading(directory) as ledger, ledger.snapshot():
        times = ledger.times()
        if times is None:
            return None
        until = datetime.now(UTC) if is_open else times.last_noted_at
        began = times.began_at if last_s is None else max(times.began_at, until - timedelta(seconds=last_s))
        interval_s = _interval_s((until - began).total_seconds())
        # Whole intervals of the clock, so that a bar does not change while time goes on.
        began = datetime.fromtimestamp(began.timestamp() // interval_s * interval_s, UTC)
        whole = int((until - began).total_seconds() // interval_s)
        # An interval that is not over yet would look like a sudden drop.
        intervals = max(1, whole if is_open else whole + 1)
        flow = ledger.done.flow(began, interval_s, intervals)
        not_succeeded = [ended - again for ended, again in zip(flow.failed, flow.reopened_failed, strict=True)]
        successes = [ended - again for ended, again in zip(flow.succeeded, flow.reopened_succeeded, strict=True)]
        return BatchHistory(
            began_at=began,
            interval_s=interval_s,
            succeeded=flow.succeeded[1:],
            failed=flow.failed[1:],
            live_runs=ledger.live_runs.averages(began, interval_s, intervals, until),
            done=list(accumulate(map(add, successes, not_succeeded)))[1:],
            not_succeeded=list(accumulate(not_succeeded))[1:],
            cost_usd=list(accumulate(flow.cost_usd))[1:],
            run_times=run_times or distribution(ledger, Duration.RUN),
        )


def _interval_s(length_s: float) -> float:
    """Return the length of an interval so that there are at most MAX_INTERVALS."""
    least_s = length_s / (MAX_INTERVALS - 2)
    return next((each for each in _ROUND_S if each >= least_s), least_s)
