"""`batchrun abort DIR`: end the Runs that a stopped batch has left running."""

import os
from pathlib import Path

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.terminal import answer, say
from batchrun.cli.worker_batch_refusal import refuse_worker_directory
from batchrun.maintenance.abort_runs import abort_runs
from batchrun.runtime.logs import silence
from batchrun.words.number_words import counted


def abort_left_runs(directory: Path) -> ExitCode:
    """Abort the Runs that a batch has left running, and print their ids."""
    refuse_worker_directory(directory, "abort")
    silence()
    aborted = run_async(abort_runs, directory, os.environ, lambda run_id: answer(run_id, flush=True))
    say(f"{counted(aborted.runs, 'Run')} aborted" + ("; resume the batch to settle their jobs" if aborted.runs else ""))
    if aborted.ended:
        say(f"{counted(aborted.ended, 'Run')} had ended already")
    if aborted.unknown:
        say(f"{counted(aborted.unknown, 'Run')} unknown to the platform; resume the batch to settle as lost")
    if aborted.in_doubt:
        why = (
            f"the platform does not list Runs ({aborted.unlisted})"
            if aborted.unlisted
            else "no Run of theirs was found"
        )
        say(f"{counted(aborted.in_doubt, 'start')} still in doubt: {why}")
    for run_id, reason in aborted.refused.items():
        say(f"{run_id} is still running: {reason}")
    return ExitCode.REFUSED if aborted.refused or aborted.unlisted else ExitCode.SUCCEEDED
