"""A batch's progress and results in words: the progress line, outcomes, costs, the use of slots. Formatting only."""

from collections import deque
from collections.abc import Sequence
from dataclasses import field

from batchrun.model import Ending, Outcome, Summary
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.words.number_words import counted, duration, money

#: The rate is averaged over this time, in seconds.
RATE_WINDOW_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressSnapshot:
    """The progress of a batch at one moment."""

    settled: int
    succeeded: int
    #: Approximate number of jobs in all; None: unknown.
    job_count: int | None
    live_runs: int
    postponed: int
    in_doubt: int
    cost_usd: float
    #: True if nothing more is started: the batch ends with its live Runs.
    is_stopping: bool = False


@dataclass(slots=True)
class Speed:
    """Settled jobs per second over the last RATE_WINDOW_S seconds."""

    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, now: float, settled: int) -> None:
        """Note the jobs that this process has settled until `now`, in seconds of a monotonic clock."""
        self._marks.append((now, settled))
        while len(self._marks) > 2 and now - self._marks[0][0] > RATE_WINDOW_S:
            self._marks.popleft()

    def per_s(self) -> float | None:
        """Return the rate; None while nothing was settled within the window."""
        if len(self._marks) < 2:
            return None
        (began, settled_then), (now, settled) = self._marks[0], self._marks[-1]
        return (settled - settled_then) / (now - began) if now > began and settled > settled_then else None


def progress_line(at: ProgressSnapshot, per_s: float | None, width: int | None = None) -> str:
    """Return one line: done, running, not succeeded, rate, time to go, cost.

    If it is longer than `width`, less important parts are left out: never what is done, the time to go, the cost.
    """
    left = _jobs_to_go(at)
    total = "" if at.job_count is None else f"/{max(at.job_count, at.settled):,}"
    # Each part with its rank: the highest is left out first.
    parts = [
        (0, f"{at.settled:,}{total} done"),
        (1, f"{at.live_runs:,} running"),
        (2, f"{at.settled - at.succeeded:,} not succeeded"),
        (4, f"{at.postponed:,} waiting to retry" if at.postponed else ""),
        (3, f"{at.in_doubt:,} in doubt" if at.in_doubt else ""),
        (5, f"{per_s:.3g}/s" if per_s is not None else ""),
        (0, f"{duration(left / per_s)} to go" if left > 0 and per_s is not None else ""),
        (0, money(at.cost_usd)),
        (6, "(not final)"),
    ]
    line, most = _joined(parts, 6), 6
    while most and width is not None and len(line) > width:
        most -= 1
        line = _joined(parts, most)
    return line


def _jobs_to_go(at: ProgressSnapshot) -> int:
    if at.is_stopping:
        return at.live_runs
    # Lines that repeat a job are counted as jobs before they are read: the end shows in that nothing runs any more.
    is_under_way = at.live_runs or at.postponed or at.in_doubt
    return (at.job_count or 0) - at.settled if is_under_way else 0


def _joined(parts: Sequence[tuple[int, str]], most: int) -> str:
    return " · ".join(part for rank, part in parts if part and rank <= most).replace(" · (", " (")


def outcome_counts(outcomes: dict[Outcome, int], empty_successes: int = 0) -> str:
    """Return the outcomes in words, successes first: `2,940 succeeded (412 with 0 items), 60 failed`."""
    parts = []
    for outcome in Outcome:
        if count := outcomes.get(outcome, 0):
            empty = f" ({empty_successes:,} with 0 items)" if outcome is Outcome.SUCCEEDED and empty_successes else ""
            parts.append(f"{count:,} {outcome.replace('_', ' ')}{empty}")
    return ", ".join(parts) or "no job settled"


def ending_words(ending: Ending) -> str:
    """Return in words how a process ended its batch."""
    return {
        Ending.FINISHED: "Finished",
        Ending.IN_DOUBT: "Finished, except for starts in doubt,",
        Ending.INTERRUPTED: "Stopped",
        Ending.REFUSED: "Stopped by the platform",
        Ending.TRIPPED: "Stopped by the breaker",
        Ending.OUT_OF_BUDGET: "Stopped at the budget",
        Ending.OUT_OF_TIME: "Stopped by deadlines.max_batch_s",
    }[ending]


def cost_words(summary: Summary) -> str:
    """Return the known cost, the number of Runs of unknown cost, which is not 0, and that of costs not final yet."""
    unknown = f" and {counted(summary.unknown_costs, 'Run')} of unknown cost" if summary.unknown_costs else ""
    not_final = f" (not final for {counted(summary.open_costs, 'Run')})" if summary.open_costs else ""
    return f"{money(summary.cost_usd)}{unknown}{not_final}"


def slot_words(summary: Summary) -> str:
    """Return how well this process used its slots: `99.6 % in use, refilled within 4 ms (99 % within 12 ms)`."""
    parts = []
    if summary.slot_use:  # without a Run there is nothing to measure
        parts.append(f"{100 * summary.slot_use:.1f} % in use")
    if summary.refill_p50_s is not None and summary.refill_p99_s is not None:
        half, most = _short(summary.refill_p50_s), _short(summary.refill_p99_s)
        parts.append(f"refilled within {half} (99 % within {most})")
    return ", ".join(parts)


def _short(seconds: float) -> str:
    """Return a duration that may be some milliseconds."""
    return f"{max(1, round(1000 * seconds))} ms" if seconds < 0.9995 else duration(seconds)


def skipped_words(summary: Summary) -> str:
    """Return how many lines of the job file are no jobs of their own."""
    return f"{counted(summary.duplicates, 'line')} with a job of another line"


def records_words(summary: Summary) -> str:
    """Return the number of jobs in records.jsonl; and of its lines, if earlier rounds have lines there too."""
    if not summary.earlier_records:
        return counted(summary.settled, "job")
    lines = summary.settled + summary.earlier_records
    return f"{counted(summary.settled, 'job')}, {lines:,} lines: {summary.earlier_records:,} of earlier rounds"
