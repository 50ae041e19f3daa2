"""How a worker's batch comes to rest: in which state, why, and with which counts."""

from typing import NamedTuple

from batchrun.batch.running_batch import Batch
from batchrun.errors import is_out_of_memory, is_out_of_threads
from batchrun.model import Ending, Summary
from batchrun.runtime.shell_command import shell_command
from batchrun.worker.submission import BatchCounts, BatchState, StopCause, Submission


def resting_state(wanted: BatchState, ended_as: BatchState, *, is_begun: bool, is_draining: bool) -> BatchState | None:
    """Return the state in which a batch rests, given how it ended and the state last asked for; None: under way."""
    if wanted is BatchState.CANCELLING:
        # A batch that has begun and cannot be opened may have live Runs: show that instead of "cancelled".
        is_hidden = ended_as in (BatchState.FAILED, BatchState.STOPPED) and is_begun
        return ended_as if is_hidden else BatchState.CANCELLED
    if ended_as is BatchState.PAUSED and wanted is not BatchState.PAUSING:
        assert is_draining or wanted is BatchState.QUEUED, "a batch pauses only if asked to"
        return None  # resumed at once, or by the next start of the worker
    return ended_as


class Rest(NamedTuple):
    """A state in which a batch rests, why in words, and what has stopped it if it is `stopped`."""

    state: BatchState
    reason: str = ""
    cause: StopCause | None = None


def rest_after(ending: Ending, batch: Submission) -> Rest:
    """Return how a batch rests that ended by itself."""
    resume = command_for("resume", batch)
    match ending:
        case Ending.FINISHED:
            return Rest(BatchState.FINISHED)
        case Ending.INTERRUPTED:
            return Rest(BatchState.PAUSED)
        case Ending.TRIPPED:
            why = "the breaker has stopped it: too many jobs did not succeed"
            return Rest(BatchState.TRIPPED, f"{why}; `{resume}` resumes it")
        case Ending.OUT_OF_BUDGET:
            more = f"`{command_for('limits', batch)} --set budget_usd=…` raises it, `{resume}` resumes"
            return Rest(BatchState.OUT_OF_BUDGET, f"the budget does not allow the next start; {more}")
        case Ending.OUT_OF_TIME:
            return Rest(BatchState.STOPPED, "deadlines.max_batch_s is over", StopCause.DEADLINE)
        case Ending.IN_DOUBT:
            resolve = shell_command("batchrun", "worker", "resolve", batch.id)
            return Rest(BatchState.STOPPED, f"starts are in doubt; decide about them with `{resolve}`", StopCause.DOUBT)
        case Ending.REFUSED:
            raise AssertionError("a batch that is refused raises BatchRefused")


def command_for(order: str, batch: Submission) -> str:
    """Return the command that gives an order for a batch, or for that of which this one is a part."""
    return shell_command("batchrun", "worker", order, batch.part_of or batch.id)


def counts_at_end(batch: Batch, summary: Summary) -> BatchCounts:
    """Return the counts of a batch that is being closed."""
    jobs = batch.opening.job_count
    return BatchCounts(
        jobs=summary.settled if summary.ending is Ending.FINISHED else jobs,
        outcomes=summary.outcomes,
        items=summary.items,
        cost_usd=summary.cost_usd,
        used_usd=batch.budget.used_usd,
        live_runs=summary.live_runs,
        postponed=0,
        in_doubt=summary.in_doubt,
    )


def reason_of_unexpected(error: Exception) -> str:
    """Return why a batch is stopped by an error that nothing here expects."""
    if is_out_of_memory(error):
        return "the worker is out of memory: give it more, or lower limits.max_buffer_mb in worker.toml"
    if is_out_of_threads(error):
        return "the worker may start no further thread: raise TasksMax of its unit, or ulimit -u"
    return f"a bug in batchrun: {type(error).__name__}: {error}; its log has the traceback"
