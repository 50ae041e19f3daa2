"""Abort the Runs that a batch has left running."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import anyio

from batchrun.engine.doubt.candidates import marked
from batchrun.errors import ApiError, NotFound
from batchrun.maintenance.idle_batch import IdleBatch, open_idle_batch, read_unfinished
from batchrun.model import RunId, RunStatus
from batchrun.report.batch_status import Doubt

#: Abort requests that are open at once.
MAX_OPEN_REQUESTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted:
    """The result of aborting a batch's live Runs."""

    runs: int
    #: Runs that had ended before.
    ended: int
    #: Runs that the platform did not abort, with its reasons.
    refused: dict[RunId, str]
    #: Starts without an answer for which no Run was found: they started none, or it is not listed yet.
    in_doubt: int


async def abort_runs(directory: Path, environ: Mapping[str, str], on_aborted: Callable[[RunId], None]) -> Aborted:
    """Abort every live Run of a batch; when the batch is resumed, their jobs settle as aborted.

    Args:
        directory: the batch's output directory.
        environ: holds the token.
        on_aborted: called with each Run once the platform has accepted the abort.

    Raises:
        OutputError: the directory holds no batch, or a process runs it.
        BatchRefused: the platform does not accept the token.
    """
    async with open_idle_batch(directory, environ) as batch:
        unfinished = await anyio.to_thread.run_sync(read_unfinished, directory)
        found = await _runs_in_doubt(batch, unfinished.doubts)
        run_ids = [*unfinished.bound, *found]
        limiter = anyio.Semaphore(MAX_OPEN_REQUESTS)
        aborted, refused = set[RunId](), dict[RunId, str]()

        async def abort(run_id: RunId) -> None:
            async with limiter:
                try:
                    run = await batch.client.abort_run(run_id)
                except NotFound:
                    return  # deleted; the resumed batch finds it lost
                except ApiError as error:
                    refused[run_id] = str(error)  # the other Runs are aborted all the same
                    return
                if run.status in (RunStatus.ABORTING, RunStatus.ABORTED):
                    aborted.add(run_id)
                    on_aborted(run_id)

        async with anyio.create_task_group() as children:
            for run_id in run_ids:
                children.start_soon(abort, run_id)
    in_doubt = max(0, len(unfinished.doubts) - len(found))
    ended = len(run_ids) - len(aborted) - len(refused)
    return Aborted(runs=len(aborted), ended=ended, refused=refused, in_doubt=in_doubt)


async def _runs_in_doubt(batch: IdleBatch, doubts: list[Doubt]) -> list[RunId]:
    """Return the Runs of attempts in doubt that the platform lists."""
    if not doubts:
        return []
    listing = await batch.runs_for(doubts)
    return [run.id for doubt in doubts for run in marked(listing.runs, doubt.attempt.mark)]
