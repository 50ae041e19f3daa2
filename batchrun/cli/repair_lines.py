"""What a repair has done, in lines, for `repair` of a directory and of a worker's batch."""

from collections.abc import Iterator

from batchrun.maintenance.repair import Repaired
from batchrun.output.layout import BAD_LINES
from batchrun.words.number_words import counted


def repair_lines(done: Repaired) -> Iterator[str]:
    """Yield what was kept and what was written again."""
    if done.damaged_ledger is not None:
        yield f"The ledger was rebuilt; the damaged one is kept as {done.damaged_ledger}"
    yield f"{counted(done.kept, 'record')} kept, {done.rebuilt:,} written again"
    if done.without_run:
        yield f"{counted(done.without_run, 'Run')} gone from the platform: the record holds what the ledger knows"
    if done.bad_lines:
        yield f"{counted(done.bad_lines, 'line')} of {BAD_LINES} written again"
    if done.item_runs:
        yield f"items of {counted(done.item_runs, 'Run')} written again"
