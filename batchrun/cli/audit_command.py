"""`batchrun audit BATCH`: whether each job has one record, and no start was repeated."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.json_output import print_json
from batchrun.cli.terminal import answer_lines
from batchrun.errors import BatchrunError
from batchrun.maintenance.audit import AuditedRecords, AuditedRuns, audit_records, audit_runs
from batchrun.output.layout import RECORDS
from batchrun.runtime.logs import silence
from batchrun.runtime.shell_command import shell_command
from batchrun.words.number_words import counted

#: Max second Runs that are shown.
_MAX_SHOWN = 20


def audit_batch(directory: Path, api_url: str | None, *, is_json: bool) -> int:
    """Print what was found; return the exit code.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    records = audit_records(directory)
    silence()
    runs, unasked = None, ""
    try:
        runs = run_async(audit_runs, directory, os.environ, api_url)
    except BatchrunError as error:
        unasked = str(error)
    if is_json:
        print_json(
            {"records": asdict(records), "runs": None if runs is None else asdict(runs), "runs_not_listed": unasked}
        )
    else:
        answer_lines((*_record_lines(records, directory), *_run_lines(runs, unasked)))
    is_right = not (records.missing or records.doubled or records.unknown or (runs is not None and runs.second_runs))
    return ExitCode.SUCCEEDED if is_right else ExitCode.LOCAL_TROUBLE


def _record_lines(found: AuditedRecords, directory: Path) -> Iterator[str]:
    yield f"records  {found.right:,} of {counted(found.settled, 'settled job')} have one line in {RECORDS}"
    wrong = [
        f"{count:,} {words}"
        for count, words in (
            (found.missing, "missing"),
            (found.doubled, "written more than once"),
            (found.unknown, "of no settled job"),
        )
        if count
    ]
    if wrong:
        yield f"wrong    {', '.join(wrong)}: `{shell_command('batchrun', 'repair', directory)}` writes them right"
    if found.open_jobs:
        doubts = f", {counted(found.in_doubt, 'start')} in doubt" if found.in_doubt else ""
        yield f"open     {counted(found.open_jobs, 'job')}{doubts}"
    if found.second_runs:
        yield f"aborted  {counted(found.second_runs, 'Run')} that repeated a start"


def _run_lines(found: AuditedRuns | None, unasked: str) -> Iterator[str]:
    if found is None:
        yield f"Runs     not looked at: {unasked}"
        return
    notes = [f"{counted(found.others, 'Run')} of others"] if found.others else []
    if found.unreadable:
        notes.append(f"{counted(found.unreadable, 'Run')} too new to be read: look again in a minute")
    if not found.is_complete:
        notes.append("not all were looked at, since others have started too many")
    more = f" ({'; '.join(notes)})" if notes else ""
    count = len(found.second_runs)
    runs = f"{counted(count, 'Run')} of the task repeat{'s' * (count == 1)}" if count else "no Run of the task repeats"
    yield f"Runs     {runs} a start of this batch{more}"
    for run in found.second_runs[:_MAX_SHOWN]:
        kept = f"which has {run.kept}" if run.kept is not None else "which was given up"
        yield f"  {run.run_id} {run.status}: repeats the start of {run.job_key}, {kept}"
    if found.second_runs:
        yield (
            "The process that runs the batch aborts such Runs within ten minutes; once it has ended, abort those that"
            " are live in Apify Console"
        )
