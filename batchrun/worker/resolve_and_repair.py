"""What a worker does to a batch that rests: its doubts are decided, its files are repaired, its last costs are read.

All of these raise:
    WrongState: the batch does not rest, has not begun, or is being mended already.
    OutputError: the platform has not answered yet; or another process holds the batch's directory.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import anyio

from batchrun.account.account import Account
from batchrun.ledger.protocol import CostRow
from batchrun.maintenance.refresh_costs import read_open_costs
from batchrun.maintenance.repair import Repaired, repair_outputs
from batchrun.maintenance.resolve import ShownDoubt, open_resolver, show_doubt
from batchrun.model import RunId
from batchrun.report.cost_sums import total_costs
from batchrun.worker.worker import Worker

T = TypeVar("T")


async def doubts_of(worker: Worker, submission_id: str) -> list[ShownDoubt]:
    """Return the starts in doubt of a batch, with the Runs that they may have started."""
    async with (
        worker.mending(submission_id) as (out_dir, account),
        open_resolver(out_dir, worker.environ, account.client) as resolver,
    ):
        return [show_doubt(question) for question in resolver.questions]


async def resolve_doubt(worker: Worker, submission_id: str, key: str, run_id: RunId | None) -> None:
    """Decide which Run the start in doubt of a job has started; None: none.

    Raises:
        ConfigError: no start of that job is in doubt.
        LedgerError: the Run is none of the candidates.
    """
    async with (
        worker.mending(submission_id) as (out_dir, account),
        open_resolver(out_dir, worker.environ, account.client) as resolver,
    ):
        await resolver.decide(resolver.question_of(key), run_id)


async def repair_batch(worker: Worker, submission_id: str) -> Repaired:
    """Write missing or damaged lines of a batch again. Raises what `repair_outputs` does as well."""
    repaired, _ = await _recounted(
        worker,
        submission_id,
        lambda out_dir, account: repair_outputs(out_dir, worker.environ, account.client, account.shared.buffers),
    )
    return repaired


async def read_last_costs(worker: Worker, submission_id: str) -> CostRow:
    """Read the costs of a batch that are not final yet, within `final_costs.PATIENCE_S`; return the sum of all.

    Raises:
        BatchRefused: the batch is of another account.
    """
    _, costs = await _recounted(
        worker, submission_id, lambda out_dir, account: read_open_costs(out_dir, worker.environ, account.client)
    )
    return costs


async def _recounted(
    worker: Worker, submission_id: str, mend: Callable[[Path, Account], Awaitable[T]]
) -> tuple[T, CostRow]:
    """Mend a batch, and count its costs again afterwards: in its own status, and in the budget of all batches."""
    async with worker.mending(submission_id) as (out_dir, account):
        before = await anyio.to_thread.run_sync(worker.account_use, worker.store[submission_id])
        try:
            mended = await mend(out_dir, account)
        finally:
            with anyio.CancelScope(shield=True):
                costs = await anyio.to_thread.run_sync(total_costs, out_dir)
                changed = await worker.store.update(
                    submission_id, lambda now: {"counts": now.counts.model_copy(update={"cost_usd": costs.cost_usd})}
                )
                worker.count_again(before, await anyio.to_thread.run_sync(worker.account_use, changed))
                await worker.sync_summary(submission_id)
    return mended, costs
