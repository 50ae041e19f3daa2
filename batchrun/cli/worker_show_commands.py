"""`batchrun worker list|status|…`: the verbs that look at a worker's batches and tell them what to do."""

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.terminal import say
from batchrun.cli.worker_call import print_json
from batchrun.errors import BatchrunError
from batchrun.model import JsonObject
from batchrun.worker.views import BatchView
from batchrun.worker.words import batch_lines, batch_table, label, limit_lines, state_words, worker_lines
from batchrun.worker.worker_client import Order, Stream, WorkerClient

#: Limits of a batch that can be changed while it runs, as its view has them.
_SHARES = ("weight", "priority")
_BATCH_LIMITS = (*_SHARES, "max_concurrent_runs", "start_rate", "budget_usd")


async def print_batches(states: str, limit: int, is_json: bool, client: WorkerClient) -> None:
    """Print the newest batches in the states that are named, with commas between."""
    page = await client.batches(states=states, limit=limit)
    if is_json:
        print_json(page.model_dump(mode="json"))
        return
    for line in batch_table(page.items):
        print(line)
    if page.total > len(page.items):
        say(f"{page.total - len(page.items):,} more; --limit shows them")


async def print_status(ref: str | None, is_json: bool, client: WorkerClient) -> None:
    """Print how a batch stands, or the worker where none is named."""
    view = await client.worker() if ref is None else await client.batch(ref)
    if is_json:
        print_json(view.model_dump(mode="json"))
        return
    for line in batch_lines(view) if isinstance(view, BatchView) else worker_lines(view):
        print(line)


async def print_stream(ref: str, what: Stream, follows: bool, client: WorkerClient) -> None:
    """Print the lines of a batch; `follows` goes on until it rests."""
    batch = await client.batch(ref)
    pieces = client.follow(batch.id, what, say) if follows else client.stream(batch.id, what)
    await _print_pieces(pieces)


async def _print_pieces(pieces: AsyncIterator[bytes]) -> None:
    async with aclosing(pieces) as opened:  # type: ignore[type-var]  # both are generators
        async for piece in opened:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


async def give_order(refs: list[str], order: Order, client: WorkerClient) -> ExitCode:
    """Tell each; one that cannot be told so leaves the others to theirs."""
    code = ExitCode.SUCCEEDED
    for ref in refs:
        try:
            batch = await client.tell(ref, order)
        except BatchrunError as error:
            if len(refs) == 1:
                raise
            say(f"batchrun: {error}")
            code = ExitCode.USAGE
        else:
            say(f"{label(batch)}: {state_words(batch)}")
    return code


async def delete_batch(ref: str, client: WorkerClient) -> None:
    """Forget a batch that is not under way."""
    batch = await client.batch(ref)
    await client.delete(batch.id)
    say(f"{label(batch)}: deleted")


async def print_limits(ref: str | None, changes: JsonObject, is_json: bool, client: WorkerClient) -> None:
    """Change limits of a batch, or of all together, and print what they are then."""
    if ref is None:
        found = await client.change_limits(changes) if changes else await client.limits()
    else:
        batch = await client.change(ref, changes) if changes else await client.batch(ref)
        found = {name: getattr(batch, name) for name in _BATCH_LIMITS}
        if batch.max_concurrent_runs is None and not is_json:
            say(f"{label(batch)} is {batch.state}: its limits are shown while it is carried out")
            found = {name: found[name] for name in _SHARES}
    if is_json:
        print_json(found)
        return
    for line in limit_lines(found):
        print(line)
