"""`batchrun repair DIR`: write missing or damaged lines of records.jsonl again."""

import os
from pathlib import Path

from batchrun.cli.event_loop import run_async
from batchrun.cli.terminal import say
from batchrun.maintenance.repair import repair_outputs
from batchrun.output.layout import BAD_LINES
from batchrun.report.number_words import counted
from batchrun.runtime.logs import silence


def repair_records(directory: Path) -> None:
    """Fetch the Runs of missing or damaged records again and write their lines; start nothing."""
    silence()
    done = run_async(repair_outputs, directory, os.environ)
    if done.damaged_ledger is not None:
        say(f"The ledger was rebuilt; the damaged one is kept as {done.damaged_ledger}")
    say(f"{counted(done.kept, 'record')} kept, {done.rebuilt:,} written again")
    if done.without_run:
        say(f"{counted(done.without_run, 'Run')} gone from the platform: the record holds what the ledger knows")
    if done.bad_lines:
        say(f"{counted(done.bad_lines, 'line')} of {BAD_LINES} written again")
    if done.item_runs:
        say(f"items of {counted(done.item_runs, 'Run')} written again")
