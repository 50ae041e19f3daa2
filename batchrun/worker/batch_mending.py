"""What a worker does to a batch that rests: its doubts are decided, its files are repaired, its last costs are read.

All of these raise:
    WrongState: the batch does not rest, has not begun, or is being mended already.
    OutputError: the platform has not answered yet; or another process holds the batch's directory.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from batchrun.account.account import Account
from batchrun.maintenance.open_costs import read_open_costs
from batchrun.maintenance.repair import Repaired, repair_outputs
from batchrun.maintenance.resolve import ShownDoubt, open_resolver, show_doubt
from batchrun.model import RunId
from batchrun.report.cost_sums import total_costs
from batchrun.worker.account_use import read_account_use
from batchrun.worker.worker import Worker


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
    async with _recounting(worker, submission_id) as (out_dir, account):
        return await repair_outputs(out_dir, worker.environ, account.client, account.shared.buffers)


async def read_last_costs(worker: Worker, submission_id: str) -> None:
    """Read the costs of a batch that are not final yet, within `final_costs.PATIENCE_S`.

    Raises:
        BatchRefused: the batch is of another account.
    """
    async with _recounting(worker, submission_id) as (out_dir, account):
        await read_open_costs(out_dir, worker.environ, account.client)


@asynccontextmanager
async def _recounting(worker: Worker, submission_id: str) -> AsyncIterator[tuple[Path, Account]]:
    """Mend a batch, and count its costs again afterwards: in its own status, and in the budget of all batches."""
    async with worker.mending(submission_id) as (out_dir, account):
        has_budget = worker.budget.limit_usd is not None
        before = await anyio.to_thread.run_sync(
            lambda: read_account_use(worker.store[submission_id], worker.directory, has_budget=has_budget)
        )
        try:
            yield out_dir, account
        finally:
            with anyio.CancelScope(shield=True):
                cost_usd = (await anyio.to_thread.run_sync(total_costs, out_dir)).cost_usd
                changed = await worker.store.update(
                    submission_id, lambda now: {"counts": now.counts.model_copy(update={"cost_usd": cost_usd})}
                )
                after = await anyio.to_thread.run_sync(
                    lambda: read_account_use(changed, worker.directory, has_budget=has_budget)
                )
                worker.count_again(before, after)
                await worker.sync_summary(submission_id)
