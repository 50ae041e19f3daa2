"""`batchrun failures DIR`: the jobs that did not succeed, by cause, with a sample of each."""

from dataclasses import asdict
from pathlib import Path

from batchrun.cli.failure_lines import failure_lines, unread_line
from batchrun.cli.json_output import print_json
from batchrun.cli.terminal import answer_lines, say
from batchrun.maintenance.noted_config import read_config
from batchrun.model import Selection
from batchrun.output.kept_logs import KeptLogs
from batchrun.output.layout import BAD_LINES
from batchrun.output.worker_batch import retry_command
from batchrun.report.shown_failures import show_causes


def show_failures(directory: Path, *, is_json: bool) -> None:
    """Print the jobs that did not succeed, by cause."""
    config, _ = read_config(directory)
    found = show_causes(directory, config, Selection())
    if found.failures and (unread := unread_line(directory)) is not None:
        say(unread)
    if is_json:
        print_json(asdict(found))
        return
    retry = retry_command(directory)
    reasons = f"{directory / BAD_LINES} has the reasons"
    answer_lines(failure_lines(found, retry=retry, bad_lines=reasons, log_file=KeptLogs(directory).file_of))
