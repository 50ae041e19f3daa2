"""Exit codes: the one for each error, each ending of a batch, and each state of a submitted batch."""

from enum import IntEnum
from typing import TYPE_CHECKING

from batchrun.errors import ApiError, BatchRefused, BatchrunError, ConfigError, JobFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchrun.model import Summary
    from batchrun.worker.status_views import BatchView
    from batchrun.worker.submission import BatchState, StopCause


class ExitCode(IntEnum):
    """Exit codes of every command."""

    #: Every job succeeded.
    SUCCEEDED = 0
    #: At least one job did not succeed.
    NOT_ALL_SUCCEEDED = 1
    #: Wrong usage, configuration or job file; nothing was started.
    USAGE = 2
    #: The breaker stopped the batch, or a group of it.
    TRIPPED = 3
    #: The budget allows no further start.
    OUT_OF_BUDGET = 4
    #: The platform refused the batch.
    REFUSED = 5
    #: An error on this machine: disk, ledger, lock, network.
    LOCAL_TROUBLE = 6
    #: Stopped by a signal or by `deadlines.max_batch_s`; the batch can be resumed.
    INTERRUPTED = 130


def exit_code_of(error: BatchrunError) -> ExitCode:
    """Return the exit code for an error that ended a command."""
    match error:
        case ConfigError() | JobFileError():
            return ExitCode.USAGE
        case BatchRefused() | ApiError():
            return ExitCode.REFUSED
        case _:
            return ExitCode.LOCAL_TROUBLE


def exit_code_of_batch(summary: "Summary") -> ExitCode:
    """Return the exit code of `batchrun run` for a batch that has ended."""
    from batchrun.model import Ending

    match summary.ending:
        case Ending.INTERRUPTED | Ending.OUT_OF_TIME:
            return ExitCode.INTERRUPTED
        case Ending.REFUSED:
            return ExitCode.REFUSED
        case Ending.TRIPPED:
            return ExitCode.TRIPPED
        case Ending.OUT_OF_BUDGET:
            return ExitCode.OUT_OF_BUDGET
        case _:
            return ExitCode.SUCCEEDED if summary.has_succeeded else ExitCode.NOT_ALL_SUCCEEDED


def exit_code_of_submission(batch: "BatchView") -> ExitCode:
    """Return the exit code that `batchrun run` would have for a batch that rests in a worker."""
    return exit_code_of_state(batch.state, batch.cause, has_succeeded=batch.jobs.succeeded == batch.jobs.settled)


def exit_code_of_state(state: "BatchState", cause: "StopCause | None", *, has_succeeded: bool) -> ExitCode:
    """Return the same for a state; `has_succeeded`: all settled jobs have."""
    from batchrun.worker.submission import BatchState, StopCause

    if state is BatchState.FINISHED:
        return ExitCode.SUCCEEDED if has_succeeded else ExitCode.NOT_ALL_SUCCEEDED
    by_state = {
        BatchState.TRIPPED: ExitCode.TRIPPED,
        BatchState.OUT_OF_BUDGET: ExitCode.OUT_OF_BUDGET,
        BatchState.FAILED: ExitCode.USAGE,
        BatchState.PAUSED: ExitCode.INTERRUPTED,
        BatchState.CANCELLED: ExitCode.INTERRUPTED,
    }
    by_cause = {
        StopCause.PLATFORM: ExitCode.REFUSED,
        StopCause.DOUBT: ExitCode.NOT_ALL_SUCCEEDED,
        StopCause.DEADLINE: ExitCode.INTERRUPTED,
    }
    code = by_state.get(state) if cause is None else by_cause.get(cause)
    return ExitCode.LOCAL_TROUBLE if code is None else code


def exit_code_of_deliveries(results: "Mapping[str, str]") -> ExitCode:
    """Return the exit code of a test of notifications; `results` has "" for what was delivered."""
    return ExitCode.LOCAL_TROUBLE if any(results.values()) else ExitCode.SUCCEEDED
