"""`batchrun failures DIR`: the jobs that did not succeed, by cause, with a sample of each."""

import shlex
from pathlib import Path

from batchrun.cli.json_output import print_json
from batchrun.cli.terminal import answer
from batchrun.config import ApiConfig
from batchrun.maintenance.noted_config import read_config
from batchrun.model import JsonObject, Position, Selection
from batchrun.output.layout import BAD_LINES
from batchrun.output.log_tails import LogTails
from batchrun.report.failure_causes import Failure, Failures, cause_words, read_failures, run_address
from batchrun.report.number_words import counted
from batchrun.report.sent_overrides import sent_overrides
from batchrun.report.terminal_text import last_lines, one_line

LOG_LINES = 5
LINE_CHARS = 200
#: Why jobs from stdin cannot be retried, and what to do instead.
CANNOT_BE_READ_AGAIN = (
    "the jobs came from stdin, which cannot be read again. Put the lines of the failed jobs into a file and run it as"
    " another batch"
)
#: Max characters of an override in the JSON output.
MAX_OVERRIDE_CHARS = 10_000


def show_failures(directory: Path, *, is_json: bool) -> None:
    """Print the jobs that did not succeed, by cause."""
    found = read_failures(directory, Selection())
    config, _ = read_config(directory)
    sent = sent_overrides(directory, config, found.kinds, MAX_OVERRIDE_CHARS)
    if is_json:
        _print_json(found, config.api, sent)
        return
    if not found.jobs:
        answer(f"No job has failed; {found.succeeded:,} have succeeded")
    can_retry = str(config.jobs.file) != "-"
    for failure in found.kinds:
        lines = _lines(failure, directory, config.api, sent)
        retry = f"  retry  batchrun retry {shlex.quote(str(directory))} --failure {failure.id}"
        answer("\n".join([*lines, *([retry] if can_retry else [])]), end="\n\n")
    for line in _rest(found, directory, can_retry=can_retry):
        answer(line)


def _lines(failure: Failure, directory: Path, api: ApiConfig, sent: dict[Position, str]) -> list[str]:
    sample = [f"line {failure.position.line}", f"key {one_line(failure.key, LINE_CHARS)}"]
    if failure.run_id is not None:
        sample.append(run_address(api, failure.run_id) or f"Run {one_line(failure.run_id, LINE_CHARS)}")
    lines = [cause_words(failure), f"  e.g.   {', '.join(sample)}"]
    if failure.position in sent:
        lines.append(f"  sent   {one_line(sent[failure.position], LINE_CHARS)}")
    if failure.log_tail is not None and failure.run_id is not None:
        shown = last_lines(failure.log_tail, LOG_LINES, LINE_CHARS) or ["(empty)"]
        lines += [f"  {'log' if number == 0 else '':<6} {line}" for number, line in enumerate(shown)]
        lines.append(f"  file   {LogTails(directory).file_of(failure.run_id)}")
    return lines


def _rest(found: Failures, directory: Path, *, can_retry: bool) -> list[str]:
    lines = []
    if found.other_kinds:
        lines.append(f"{counted(found.other_jobs, 'job')} of {counted(found.other_kinds, 'other cause')}")
    if found.jobs:
        what_next = f"batchrun retry {shlex.quote(str(directory))}" if can_retry else CANNOT_BE_READ_AGAIN
        lines.append(f"{found.jobs:,} in all: {what_next}")
    if found.bad_lines:
        lines.append(f"{counted(found.bad_lines, 'bad line')}: {directory / BAD_LINES} has the reasons")
    return lines


def _print_json(found: Failures, api: ApiConfig, sent: dict[Position, str]) -> None:
    kinds = [
        {
            **failure_json(failure),
            "run_url": run_address(api, failure.run_id) if failure.run_id is not None else None,
            "log_tail": failure.log_tail,
            "override": sent.get(failure.position) or None,
        }
        for failure in found.kinds
    ]
    whole = {
        "jobs": found.jobs,
        "failures": kinds,
        "other_causes": found.other_kinds,
        "other_jobs": found.other_jobs,
        "bad_lines": found.bad_lines,
    }
    print_json(whole)


def failure_json(failure: Failure) -> JsonObject:
    """Return a cause of failure and its sample as JSON."""
    return {
        "id": failure.id,
        "count": failure.count,
        "outcome": failure.outcome,
        "error_type": failure.error_type,
        "exit_code": failure.exit_code,
        "message": failure.message,
        "line": failure.position.line,
        "key": failure.key,
        "run_id": failure.run_id,
    }
