"""The time limit of a batch: after `deadlines.max_batch_s`, its process starts no more Runs."""

import anyio

from batchrun.engine.build_engine import Engine
from batchrun.engine.notices import BatchOutOfTime
from batchrun.model import Ending


async def stop_in_time(engine: Engine, max_batch_s: float | None) -> None:
    """Stop starting Runs this many seconds from now, with a notice; None: no limit."""
    if max_batch_s is None:
        return
    await anyio.sleep(max_batch_s)
    engine.progress.notices.add(BatchOutOfTime())
    engine.scheduler.stop_starting(Ending.OUT_OF_TIME)
