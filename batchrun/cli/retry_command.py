"""`batchrun retry DIR`: a new round for jobs that did not succeed."""

from dataclasses import replace
from pathlib import Path

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.failures_command import CANNOT_BE_READ_AGAIN, failure_json
from batchrun.cli.job_selection import make_selection, refuse_unknown
from batchrun.cli.json_output import print_json
from batchrun.cli.run_command import JobsToRetry, run_to_the_end
from batchrun.cli.terminal import answer, say
from batchrun.errors import ConfigError
from batchrun.maintenance.noted_config import read_command, read_own_config
from batchrun.model import Outcome, Selection
from batchrun.report.batch_status import read_status
from batchrun.report.failure_causes import Failures, Tripped, cause_words, read_failures, read_tripped, read_unknown
from batchrun.report.number_words import counted
from batchrun.report.progress_words import outcome_counts


def retry_jobs(
    directory: Path,
    *,
    outcomes: list[str] | None,
    error_types: list[str] | None,
    groups: list[str] | None,
    keys: list[str] | None,
    failures: list[str] | None,
    is_tripped: bool,
    is_dry_run: bool,
    is_confirmed: bool,
    is_json: bool,
) -> ExitCode:
    """Retry the jobs that did not succeed, or those that the flags select; then resume the batch."""
    trip = _tripped(directory) if is_tripped else None
    selection = make_selection(
        outcomes=outcomes,
        error_types=error_types,
        groups=groups,
        keys=keys if trip is None else [key for key in trip.keys if keys is None or key in keys],
        failures=failures,
    )
    if trip is not None and trip.is_for_empty and selection.outcomes is None:
        # Successes without items have tripped it: the default selection would leave them out.
        selection = replace(selection, outcomes=[each for each in Outcome if each is not Outcome.INVALID])
    refuse_unknown(read_unknown(directory, selection), groups)
    found = read_failures(directory, selection)
    config, _ = read_own_config(directory)
    if found.jobs and str(config.jobs.file) == "-":
        raise ConfigError(f"{directory}: {CANNOT_BE_READ_AGAIN}; nothing was changed")
    if is_dry_run:
        _show(found, read_status(directory).summary.open_jobs, is_json=is_json)
        return ExitCode.SUCCEEDED
    if not found.jobs:
        for line in _why_nothing(directory, selection):
            say(line)
        return ExitCode.SUCCEEDED
    say(f"Retrying {counted(found.jobs, 'job')}")
    to_retry = JobsToRetry(selection=selection, count=found.jobs)
    return run_async(run_to_the_end, config, is_confirmed, is_json, resume_command(directory), to_retry)


def resume_command(directory: Path) -> str:
    """Return the command that resumes an interrupted retry; `retry` again would also take jobs that failed since."""
    began = read_command(directory)
    if began is None:
        return "the command that began the batch (batchrun run …)"
    return began.line if Path(began.directory) == Path.cwd() else f"{began.line}  (in {began.directory})"


def _tripped(directory: Path) -> Tripped:
    tripped = read_tripped(directory)
    if tripped is None:
        raise ConfigError(f"{directory}: the breaker has not tripped in this batch; leave --tripped out")
    return tripped


def _show(found: Failures, open_jobs: int, *, is_json: bool) -> None:
    if is_json:
        kinds = [failure_json(failure) for failure in found.kinds]
        print_json({"jobs": found.jobs, "failures": kinds})
        return
    answer(f"{counted(found.jobs, 'job')} would be retried" + (":" if found.jobs else ""))
    for failure in found.kinds:
        answer(f"  {cause_words(failure)}")
    if found.other_kinds:
        answer(f"  {found.other_jobs:,} with {counted(found.other_kinds, 'other cause')}")
    if open_jobs:
        answer(f"Then the batch resumes with {counted(open_jobs, 'open job')} and the unread part of the job file")


def _why_nothing(directory: Path, selection: Selection) -> list[str]:
    summary = read_status(directory).summary
    lines = [f"Nothing to retry: no job matches ({outcome_counts(summary.outcomes)})"]
    if selection.outcomes is None:
        succeeded = read_failures(directory, replace(selection, outcomes=[Outcome.SUCCEEDED])).jobs
        if succeeded and selection != Selection():
            lines.append(f"--outcome succeeded retries {counted(succeeded, 'matching job')} that succeeded")
    if summary.open_jobs:
        lines.append(f"`batchrun run` resumes {counted(summary.open_jobs, 'open job')}")
    return lines
