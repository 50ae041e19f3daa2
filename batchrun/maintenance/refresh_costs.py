"""Reads costs that became final after the processes that ran the batch had ended."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path

import anyio

from batchrun.apify.client import ApifyClient
from batchrun.engine.background.final_costs import FinalCostReader
from batchrun.ledger.protocol import CostLedger, FinalCost, OpenCost
from batchrun.ledger.shared_commits import CommitLog
from batchrun.ledger.sqlite.tables import LedgerTables, open_ledger
from batchrun.maintenance.idle_batch import IdleBatch, open_idle_batch


async def read_open_costs(directory: Path, environ: Mapping[str, str], client: ApifyClient | None = None) -> None:
    """Read the costs that are not final, and wait for those of Runs that have just ended; see `FinalCostReader.finish`.

    A worker gives its own `client`.

    Raises:
        OutputError: the directory holds no batch, or a process runs it.
        BatchRefused: the platform does not accept the token.
        TransportError: the platform does not answer.
    """
    async with (
        open_idle_batch(directory, environ, client) as batch,
        open_idle_ledger(directory, batch.log) as ledger,
    ):
        await finish_costs(batch, ledger)


@asynccontextmanager
async def open_idle_ledger(directory: Path, log: CommitLog | None = None) -> AsyncIterator[LedgerTables]:
    """Open the ledger of an idle batch and close it, which syncs it, in threads; see `open_ledger`."""
    stack = ExitStack()
    try:
        yield await anyio.to_thread.run_sync(stack.enter_context, open_ledger(directory, log=log))
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(stack.close)


async def finish_costs(batch: IdleBatch, ledger: LedgerTables) -> None:
    """Read the costs that are not final, with an idle batch and its ledger; see `FinalCostReader.finish`."""
    await FinalCostReader(batch.client, _IdleLedger(ledger), lambda _noted, _final: None).finish()


class _IdleLedger(CostLedger):
    """The ledger of a batch without an engine, whose commits nothing else waits for."""

    def __init__(self, ledger: LedgerTables) -> None:
        self._ledger = ledger

    async def open_costs(self, ended_before: datetime, limit: int) -> list[OpenCost]:
        return await anyio.to_thread.run_sync(self._ledger.open_costs, ended_before, limit)

    async def note_final_costs(self, costs: Sequence[FinalCost]) -> None:
        await anyio.to_thread.run_sync(self._note, costs)

    def _note(self, costs: Sequence[FinalCost]) -> None:
        with self._ledger.transaction():
            self._ledger.note_final_costs(costs)
