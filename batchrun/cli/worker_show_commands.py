"""`batchrun worker list|status|records|items|logs`: commands that show a worker and its batches."""

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

from batchrun.cli.terminal import say
from batchrun.cli.worker_call import print_json
from batchrun.worker.view_words import batch_lines, batch_table, worker_lines
from batchrun.worker.views import BatchView
from batchrun.worker.worker_client import Stream, WorkerClient


async def print_batches(states: str, limit: int, is_json: bool, client: WorkerClient) -> None:
    """Print the newest batches; `states` restricts them to some states, separated by commas."""
    page = await client.batches(states=states, limit=limit)
    if is_json:
        print_json(page.model_dump(mode="json"))
        return
    for line in batch_table(page.items):
        print(line)
    if page.total > len(page.items):
        say(f"{page.total - len(page.items):,} more; --limit shows them")


async def print_status(ref: str | None, is_json: bool, client: WorkerClient) -> None:
    """Print the status of a batch, or of the worker if `ref` is None."""
    view = await client.worker() if ref is None else await client.batch(ref)
    if is_json:
        print_json(view.model_dump(mode="json"))
        return
    for line in batch_lines(view) if isinstance(view, BatchView) else worker_lines(view):
        print(line)


async def print_stream(ref: str, stream: Stream, follows: bool, client: WorkerClient) -> None:
    """Print the lines of a batch; with `follows`, also new ones until the batch rests."""
    batch = await client.batch(ref)
    pieces = client.follow(batch.id, stream, say) if follows else client.stream(batch.id, stream)
    await _print_pieces(pieces)


async def _print_pieces(pieces: AsyncIterator[bytes]) -> None:
    async with aclosing(pieces) as opened:  # type: ignore[type-var]  # both are generators
        async for piece in opened:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
