"""Abort the Runs that a batch has left running."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from batchrun.engine.doubt.candidates import marked
from batchrun.errors import ApiError, NotFound
from batchrun.maintenance.idle_batch import Upkeep, open_upkeep, read_unfinished
from batchrun.model import RunId, RunStatus
from batchrun.report.batch_status import Doubt

#: Aborts that are under way at once.
MAX_OPEN_REQUESTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted:
    """What became of a batch's live Runs."""

    runs: int
    #: Runs that had ended before.
    ended: int
    #: Runs that the platform would not abort, each with its reason.
    refused: dict[RunId, str]
    #: Starts without an answer whose Run was not found; none may exist, or none may be seen yet.
    in_doubt: int


async def abort_runs(directory: Path, environ: Mapping[str, str], told: Callable[[RunId], None]) -> Aborted:
    """Abort every Run of a batch that has not ended; their jobs settle as aborted when the batch goes on.

    Args:
        directory: the batch's output directory.
        environ: holds the token.
        told: called with each Run once the platform has taken the abort.

    Raises:
        OutputError: there is no batch in it, or a process works in it.
        BatchRefused: the platform does not accept the token.
    """
    async with open_upkeep(directory, environ) as upkeep:
        unfinished = await anyio.to_thread.run_sync(read_unfinished, directory)
        found = await _runs_in_doubt(upkeep, unfinished.doubts)
        run_ids = [*unfinished.bound, *found]
        limiter = anyio.Semaphore(MAX_OPEN_REQUESTS)
        aborted, refused = set[RunId](), dict[RunId, str]()
        async with anyio.create_task_group() as children:
            for run_id in run_ids:
                children.start_soon(_abort, upkeep, run_id, limiter, told, aborted, refused)
    in_doubt = max(0, len(unfinished.doubts) - len(found))
    ended = len(run_ids) - len(aborted) - len(refused)
    return Aborted(runs=len(aborted), ended=ended, refused=refused, in_doubt=in_doubt)


async def _abort(
    upkeep: Upkeep,
    run_id: RunId,
    limiter: anyio.Semaphore,
    told: Callable[[RunId], None],
    aborted: set[RunId],
    refused: dict[RunId, str],
) -> None:
    async with limiter:
        try:
            run = await upkeep.client.abort_run(run_id)
        except NotFound:
            return  # gone already; the batch will find it lost
        except ApiError as error:
            refused[run_id] = str(error)  # the others are aborted all the same
            return
        if run.status in (RunStatus.ABORTING, RunStatus.ABORTED):
            aborted.add(run_id)
            told(run_id)


async def _runs_in_doubt(upkeep: Upkeep, doubts: list[Doubt]) -> list[RunId]:
    """Return the Runs that starts without an answer have started after all."""
    if not doubts:
        return []
    earliest = min(doubt.attempt.earliest_start for doubt in doubts)
    listing = await upkeep.list_since(earliest)
    return [run.id for doubt in doubts for run in marked(listing.runs, doubt.attempt.mark)]
