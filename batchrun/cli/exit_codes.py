"""Exit codes, and the one for each error."""

from enum import IntEnum

from batchrun.errors import ApiError, BatchRefused, BatchrunError, ConfigError, JobFileError


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
