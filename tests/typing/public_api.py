"""How the public API is used, for mypy; never run."""

from pathlib import Path

from batchrun import Outcome, Record, Summary, load_config, open_batch, run_batch


async def _one_by_one(file: Path) -> list[Record]:
    async with open_batch(load_config(file)) as batch:
        return [record async for record in batch if record.outcome is not Outcome.SUCCEEDED]


async def _at_once(file: Path) -> Summary:
    return await run_batch(load_config(file, flags={"limits.max_concurrent_runs": 5}))
