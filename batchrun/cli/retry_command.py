"""`batchrun retry DIR`: a new round for jobs that did not succeed."""

from dataclasses import asdict
from pathlib import Path

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.failure_lines import retry_lines
from batchrun.cli.json_output import print_json
from batchrun.cli.run_command import run_to_the_end
from batchrun.cli.terminal import answer_lines, say_lines
from batchrun.cli.worker_batch_refusal import refuse_worker_directory
from batchrun.maintenance.noted_config import read_command, read_own_config
from batchrun.maintenance.retry_selection import WantedJobs, jobs_to_retry, why_nothing
from batchrun.report.batch_status import read_status
from batchrun.report.shown_failures import show_causes
from batchrun.words.terminal_text import one_line

#: Max characters of a noted command, and of its directory.
_MAX_CHARS = 4096


def retry_jobs(directory: Path, wanted: WantedJobs, *, is_dry_run: bool, is_confirmed: bool, is_json: bool) -> ExitCode:
    """Retry the jobs that did not succeed, or those that the flags select; then resume the batch."""
    if not is_dry_run:
        refuse_worker_directory(directory, "retry")
    config, _ = read_own_config(directory)
    to_retry = jobs_to_retry(directory, config, wanted)
    if is_dry_run:
        found = show_causes(directory, config, to_retry.selection)
        if is_json:
            print_json(asdict(found))
            return ExitCode.SUCCEEDED
        answer_lines(retry_lines(found, read_status(directory).summary.open_jobs))
        return ExitCode.SUCCEEDED
    if not to_retry.jobs:
        say_lines(why_nothing(directory, to_retry.selection))
        return ExitCode.SUCCEEDED
    return run_async(run_to_the_end, config, is_confirmed, is_json, resume_command(directory), to_retry)


def resume_command(directory: Path) -> str:
    """Return the command that resumes an interrupted retry; `retry` again would also take jobs that failed since."""
    began = read_command(directory)
    if began is None:
        return "the command that began the batch (batchrun run …)"
    line = one_line(began.line, _MAX_CHARS)
    return line if Path(began.directory) == Path.cwd() else f"{line}  (in {one_line(began.directory, _MAX_CHARS)})"
