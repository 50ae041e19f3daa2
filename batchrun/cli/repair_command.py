"""`batchrun repair DIR`: write missing or damaged lines of records.jsonl again."""

import os
from pathlib import Path

from batchrun.cli.event_loop import run_async
from batchrun.cli.terminal import say
from batchrun.maintenance.repair import repair_outputs
from batchrun.output.layout import BAD_LINES
from batchrun.runtime.logs import silence


def repair_records(directory: Path) -> None:
    """Fetch the Runs of missing or damaged records again and write their lines; start nothing."""
    silence()
    done = run_async(repair_outputs, directory, os.environ)
    if done.damaged_ledger is not None:
        say(f"The ledger was rebuilt; the damaged one is kept as {done.damaged_ledger}")
    say(f"{done.kept:,} records were good, {done.rebuilt:,} were written again")
    if done.without_run:
        say(f"{done.without_run:,} Runs are gone from the platform; their records hold what the ledger knows")
    if done.bad_lines:
        say(f"{done.bad_lines:,} lines of {BAD_LINES} were written again")
    if done.item_runs:
        say(f"items of {done.item_runs:,} Runs were written again")
