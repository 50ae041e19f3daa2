"""`batchrun worker list|status|…`: the verbs that look at a worker's batches and tell them what to do."""

import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from typing import Annotated

import typer

from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.view import say
from batchrun.cli.worker_options import (
    DEFAULT_DATA_DIR,
    DataDir,
    Follow,
    Json,
    Ref,
    Refs,
    Url,
    ask,
    parse_changes,
    print_json,
)
from batchrun.errors import BatchrunError
from batchrun.model import JsonObject
from batchrun.worker.views import BatchView
from batchrun.worker.words import batch_lines, batch_table, label, limit_lines, state_words, worker_lines
from batchrun.worker.worker_client import Order, Stream, WorkerClient

#: Limits of a batch that can be changed while it runs, as its view has them.
_SHARES = ("weight", "priority")
_BATCH_LIMITS = (*_SHARES, "max_concurrent_runs", "start_rate", "budget_usd")


def list_batches(
    state: Annotated[str, typer.Option(help="Only those in these states, with commas.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 100,
    json: Json = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """List the worker's batches, the newest first."""
    ask(data, url, partial(_list, state, limit, json))


async def _list(states: str, limit: int, is_json: bool, client: WorkerClient) -> None:
    page = await client.batches(states=states, limit=limit)
    if is_json:
        print_json(page.model_dump(mode="json"))
        return
    for line in batch_table(page.items):
        print(line)
    if page.total > len(page.items):
        say(f"{page.total - len(page.items):,} more; --limit shows them")


def status(
    batch: Annotated[str | None, typer.Argument(help="The batch's id or name; without one, the worker.")] = None,
    json: Json = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """Show how a batch stands, or the worker."""
    ask(data, url, partial(_status, batch, json))


async def _status(ref: str | None, is_json: bool, client: WorkerClient) -> None:
    view = await client.worker() if ref is None else await client.batch(ref)
    if is_json:
        print_json(view.model_dump(mode="json"))
        return
    for line in batch_lines(view) if isinstance(view, BatchView) else worker_lines(view):
        print(line)


def logs(batch: Ref, follow: Follow = False, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Print a batch's log, a JSON object per line."""
    ask(data, url, partial(_print_stream, batch, "log", follow))


def records(batch: Ref, follow: Follow = False, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Print a batch's records as JSONL."""
    ask(data, url, partial(_print_stream, batch, "records", follow))


def items(batch: Ref, follow: Follow = False, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Print the items of a batch's Runs as JSONL."""
    ask(data, url, partial(_print_stream, batch, "items", follow))


async def _print_stream(ref: str, what: Stream, follows: bool, client: WorkerClient) -> None:
    batch = await client.batch(ref)
    pieces = client.follow(batch.id, what, say) if follows else client.stream(batch.id, what)
    await _print_pieces(pieces)


async def _print_pieces(pieces: AsyncIterator[bytes]) -> None:
    async with aclosing(pieces) as opened:  # type: ignore[type-var]  # both are generators
        async for piece in opened:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()


def pause(batches: Refs, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Start nothing more of a batch; it rests when its live Runs have ended."""
    ask(data, url, partial(_tell, batches, "pause"))


def resume(batches: Refs, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Go on with a batch that rests."""
    ask(data, url, partial(_tell, batches, "resume"))


def cancel(batches: Refs, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Start nothing more of a batch and abort its live Runs; `resume` goes on with what was not started."""
    ask(data, url, partial(_tell, batches, "cancel"))


async def _tell(refs: list[str], order: Order, client: WorkerClient) -> ExitCode:
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


def delete(batch: Ref, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Forget a batch that is not under way; what came over the API goes with its results."""
    ask(data, url, partial(_delete, batch))


async def _delete(ref: str, client: WorkerClient) -> None:
    batch = await client.batch(ref)
    await client.delete(batch.id)
    say(f"{label(batch)}: deleted")


def limits(
    batch: Annotated[str | None, typer.Argument(help="The batch's id or name; without one, all together.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A limit to change: --set max_concurrent_runs=50; none lifts it.")
    ] = None,
    json: Json = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """Show or change what all batches have together, or what one has, while they run."""
    ask(data, url, partial(_limits, batch, parse_changes(settings or []), json))


async def _limits(ref: str | None, changes: JsonObject, is_json: bool, client: WorkerClient) -> None:
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
