"""How the public API is used, for mypy; never run."""

from pathlib import Path

from batchrun import Outcome, Record, Selection, Summary, load_config, open_batch, run_batch


async def _one_by_one(file: Path) -> list[Record]:
    async with open_batch(load_config(file)) as batch:
        return [record async for record in batch if record.outcome is not Outcome.SUCCEEDED]


async def _at_once(file: Path) -> Summary:
    return await run_batch(load_config(file, flags={"limits.max_concurrent_runs": 5}))


async def _anew(file: Path) -> Summary:
    async with open_batch(load_config(file)) as batch:
        await batch.reopen(Selection(outcomes=[Outcome.FAILED], groups=["de"]))
        return await batch.run()
