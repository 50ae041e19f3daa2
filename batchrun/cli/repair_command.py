"""`batchrun repair DIR`: write missing or damaged lines of records.jsonl again."""

import os
from pathlib import Path

from batchrun.cli.event_loop import run_async
from batchrun.cli.repair_lines import repair_lines
from batchrun.cli.terminal import say_lines
from batchrun.cli.worker_batch_refusal import refuse_worker_directory
from batchrun.maintenance.repair import repair_outputs
from batchrun.runtime.logs import silence


def repair_records(directory: Path) -> None:
    """Fetch the Runs of missing or damaged records again and write their lines; start nothing."""
    refuse_worker_directory(directory, "repair")
    silence()
    say_lines(repair_lines(run_async(repair_outputs, directory, os.environ)))
