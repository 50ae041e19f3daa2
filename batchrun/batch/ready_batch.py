"""Make a batch ready to run once it is connected: preflight -> resume, then build its engine."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio

from batchrun.account.connected_task import ConnectedTask
from batchrun.batch.configured_engine import batch_terms, build_batch_engine
from batchrun.batch.resume import resume
from batchrun.batch.running_batch import Batch
from batchrun.batch.shared_job_file import copy_job_file
from batchrun.config import Config
from batchrun.engine.limits.batch_priorities import BatchPriority
from batchrun.engine.notices import ReadDenied, SharedLogWeak
from batchrun.ledger.sqlite.journal import Journal
from batchrun.model import Command, Record
from batchrun.notify.delivery import BatchNotifier
from batchrun.preflight.preparation import preflight
from batchrun.runtime.children import open_children

#: Records that wait for a slow consumer of the batch; when there are more, starts slow down.
RECORD_BUFFER = 100


async def make_ready(
    stack: AsyncExitStack,
    config: Config,
    connected: ConnectedTask,
    journal: Journal,
    answered: anyio.Event,
    caution: Callable[[], Awaitable[str]],
    command: Command | None,
    priority: BatchPriority,
    on_copy: Callable[[int, int], None] | None,
    notifier: BatchNotifier | None,
) -> Batch:
    """Make a connected batch ready, within a stack that closes it; see `open_batch` for errors and most arguments.

    `answered` is set once the platform has answered all that the first start needs. `caution` returns how the store of
    the shared log can lose entries; empty: no way is known.
    """
    prepared = await preflight(config, connected, journal.ledger, command)
    answered.set()
    await copy_job_file(journal, on_copy)
    resumed = await resume(stack, config, connected, prepared, journal)
    terms = await anyio.to_thread.run_sync(batch_terms, config, connected, prepared)
    engine = build_batch_engine(config, connected, resumed, terms, priority)
    stack.callback(engine.leave)
    for denied in prepared.denied:
        engine.progress.notices.add(ReadDenied(what=denied))
    if how := await caution():
        engine.progress.notices.add(SharedLogWeak(how=how))
    stream = anyio.create_memory_object_stream[Record](RECORD_BUFFER)
    for end in stream:
        stack.callback(end.close)
    # Entered last, so that the engine's children have released their permits when the engine leaves the account.
    children = await stack.enter_async_context(open_children(cancels_on_leaving=True))
    return Batch(config, connected, resumed, journal, engine, children, stream, notifier)
