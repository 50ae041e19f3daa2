"""Abort the Runs that a batch has left running."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import anyio

from batchrun.apify.user_agent import by_mark
from batchrun.engine.follow.live_run import UNKNOWN_RETRY_S
from batchrun.engine.follow.lost_run import LOST_AFTER_S
from batchrun.engine.ports import RunClient
from batchrun.errors import ApiError, LedgerError, NotFound, NoUsableAnswer
from batchrun.ledger.facts import ABORTED
from batchrun.ledger.shared_commits import CommitLog
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.maintenance.idle_batch import IdleBatch, open_idle_batch, read_unfinished
from batchrun.model import Run, RunId, RunStatus
from batchrun.report.batch_status import Doubt
from batchrun.runtime.fast_dataclasses import dataclass

#: Abort requests that are open at once.
MAX_OPEN_REQUESTS = 20
#: Max seconds to wait until the platform aborts a Run; it is asked again and again.
PATIENCE_S = 60.0
#: Seconds more in which the platform must have answered at all.
NO_ANSWER_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Aborted:
    """The result of aborting a batch's live Runs."""

    runs: int
    #: Runs that had ended before.
    ended: int
    #: Runs that the platform does not know.
    unknown: int
    #: Runs that the platform did not abort, with its reasons.
    refused: dict[RunId, str]
    #: Starts without an answer for which no Run was found: they started none, or it is not listed yet.
    in_doubt: int
    #: Why Runs of such starts could not be looked for; empty: they were.
    unlisted: str = ""


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
        found, unlisted = await _runs_in_doubt(batch, unfinished.doubts)
        run_ids = [*unfinished.bound, *found]
        limiter = anyio.Semaphore(MAX_OPEN_REQUESTS)
        aborted, unknown, refused = set[RunId](), set[RunId](), dict[RunId, str]()

        async def abort(run_id: RunId) -> None:
            async with limiter:
                try:
                    if await _is_of_another_task(batch, run_id):
                        refused[run_id] = f"it is no Run of the batch's task {batch.task_id}; abort it on the platform"
                        return
                    run = await batch.client.within(PATIENCE_S + NO_ANSWER_S, abort_run(batch.client, run_id))
                except NoUsableAnswer as error:
                    refused[run_id] = f"asked to abort it, the platform {error}"
                    return
                except NotFound:
                    unknown.add(run_id)  # the resumed batch finds it lost
                    return
                except ApiError as error:
                    refused[run_id] = str(error)  # the other Runs are aborted all the same
                    return
                if run.status in (RunStatus.ABORTING, RunStatus.ABORTED):
                    aborted.add(run_id)
                    on_aborted(run_id)
                elif not run.status.is_terminal:
                    refused[run_id] = f"the platform has not aborted it within {PATIENCE_S:g} s"

        async with anyio.create_task_group() as children:
            for run_id in run_ids:
                children.start_soon(abort, run_id)
        over = [run_id for run_id in unfinished.bound if run_id not in unknown and run_id not in refused]
        await anyio.to_thread.run_sync(_note_aborted, directory, over, batch.log)
    in_doubt = max(0, len(unfinished.doubts) - len(found))
    ended = len(run_ids) - len(aborted) - len(unknown) - len(refused)
    return Aborted(
        runs=len(aborted), ended=ended, unknown=len(unknown), refused=refused, in_doubt=in_doubt, unlisted=unlisted
    )


def _note_aborted(directory: Path, run_ids: list[RunId], log: CommitLog | None) -> None:
    """Note for `status` that these Runs are over; they are, also where that cannot be noted."""
    with suppress(LedgerError), open_ledger(directory, log=log) as ledger, ledger.transaction():
        ledger.note_fact(ABORTED, run_ids)


async def _is_of_another_task(batch: IdleBatch, run_id: RunId) -> bool:
    """True if the platform says so: who can write to a shared log could name any Run of the account."""
    try:
        run = await batch.client.within(PATIENCE_S + NO_ANSWER_S, batch.client.get_run(run_id))
    except NotFound:
        return False  # a new one may be unknown at first
    return run.is_of_another(batch.task_id)


async def abort_run(client: RunClient, run_id: RunId) -> Run:
    """Abort a Run, and return it once it is being aborted or has ended; live, if that takes longer than PATIENCE_S.

    A new Run may be unknown to the platform at first, to be read or to be aborted, and is asked for again.

    Raises:
        NotFound: the platform does not know the Run.
        ApiError: the platform refuses to abort it.
    """
    began_at = anyio.current_time()
    while True:
        try:
            run = await _aborted_or_read(client, run_id)
        except NotFound:
            if anyio.current_time() - began_at >= LOST_AFTER_S:
                raise
        else:
            is_over = run.status is RunStatus.ABORTING or run.status.is_terminal
            if is_over or anyio.current_time() - began_at >= PATIENCE_S:
                return run
        await anyio.sleep(UNKNOWN_RETRY_S)


async def _aborted_or_read(client: RunClient, run_id: RunId) -> Run:
    try:
        return await client.abort_run(run_id)
    except NotFound:
        return await client.get_run(run_id)


async def _runs_in_doubt(batch: IdleBatch, doubts: list[Doubt]) -> tuple[list[RunId], str]:
    """Return the Runs of attempts in doubt that the platform lists, and why it lists none; empty: it does."""
    if not doubts:
        return [], ""
    try:
        listing = await batch.runs_for(doubts)
    except ApiError as error:
        return [], str(error)  # Runs whose ids are known are aborted all the same
    found = by_mark(listing.runs, {doubt.attempt.mark for doubt in doubts})
    return [run.id for runs in found.values() for run in runs], ""
