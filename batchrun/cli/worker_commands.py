"""`batchrun worker list|status|records|items|logs|pause|resume|cancel|delete|limits`: calls to a worker."""

import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import typer

from batchrun.cli.cost_table import show_costs
from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode, exit_code_of_deliveries
from batchrun.cli.failure_lines import failure_lines
from batchrun.cli.json_output import print_json
from batchrun.cli.notify_lines import show_targets
from batchrun.cli.overwrite_check import refuse_no_html
from batchrun.cli.terminal import answer, answer_lines, say, say_text, write_data
from batchrun.cli.worker_lines import batch_lines, batch_table, label, limit_lines, state_words, worker_lines
from batchrun.config import parse_setting
from batchrun.errors import BatchrunError
from batchrun.model import JsonObject
from batchrun.output.atomic_write import replace_text
from batchrun.output.layout import BAD_LINES
from batchrun.output.sink import explaining
from batchrun.runtime.loopback import is_loopback_host
from batchrun.runtime.private_files import held_own_directory, read_private
from batchrun.runtime.shell_command import shell_command
from batchrun.words.number_words import counted
from batchrun.worker.data_directory import DataDirectory
from batchrun.worker.status_views import BatchView
from batchrun.worker.worker_address import WorkerAddress, find_worker
from batchrun.worker.worker_client import Order, Stream, WorkerClient, open_client

#: What a command does with a worker's client; None as its exit code is success.
Call = Callable[[WorkerClient], Awaitable[ExitCode | None]]
#: Settings of a batch that hold whether or not it is open.
_PRIORITIES = ("weight", "priority")
_UNTIL = "these limits hold until the worker starts again, or reads worker.toml again: [limits] there keeps them"
_BATCH_LIMITS = (*_PRIORITIES, "max_concurrent_runs", "start_rate", "budget_usd")


def call_worker(data: Path, url: str | None, call: Call) -> None:
    """Call the worker at `url`, or the one on the data directory, and exit with the call's exit code."""
    raise typer.Exit(run_async(_call, find_worker(data, url, os.environ), call))


async def _call(address: WorkerAddress, call: Call) -> ExitCode:
    if address.exposes_token:
        say(
            f"WARNING: the worker's token goes to {address.url} over plain HTTP: who reads it on the way can use the"
            " worker. Use https://, or a tunnel: ssh -L 8421:127.0.0.1:8421 HOST"
        )
    async with open_client(address, say) as client:
        return await call(client) or ExitCode.SUCCEEDED


def parse_changes(settings: list[str]) -> JsonObject:
    """Return `key=value` texts as an object; the value `none` is null."""
    parsed = [parse_setting(each) for each in settings]
    return {key: None if value == "none" else value for key, value in parsed}


async def print_batches(states: str, limit: int, is_json: bool, client: WorkerClient) -> None:
    """Print the newest batches; `states` restricts them to some states, separated by commas."""
    page = await client.batches(states=states, limit=limit)
    if is_json:
        print_json(page.model_dump(mode="json"), is_indented=True)
        return
    answer_lines(batch_table(page.items))
    if page.total > len(page.items):
        say(f"{page.total - len(page.items):,} more; --limit shows them")


async def print_status(ref: str | None, is_json: bool, client: WorkerClient) -> None:
    """Print the status of a batch, or of the worker if `ref` is None."""
    view = await client.worker() if ref is None else await client.batch(ref)
    if is_json:
        print_json(view.model_dump(mode="json"), is_indented=True)
        return
    answer_lines(batch_lines(view) if isinstance(view, BatchView) else worker_lines(view))


async def print_failures(ref: str, is_json: bool, where: Sequence[str], client: WorkerClient) -> None:
    """Print the jobs of a batch that did not succeed, by cause; `where` are the flags that lead to the worker."""
    batch = await client.batch(ref)
    found = await client.failures(batch.id)
    if is_json:
        print_json(asdict(found))
        return
    retry = shell_command("batchrun", "worker", "retry", ref, *where)
    answer_lines(failure_lines(found, retry=retry, bad_lines=f"{batch.out_dir}/{BAD_LINES} has the reasons"))


async def print_cost(ref: str, by: str, as_csv: bool, client: WorkerClient) -> None:
    """Print the cost of a batch, summed by the columns in `by`, which commas separate.

    Of a batch that rests, costs that are not final are read first.
    """
    sums = await client.cost(ref, by)
    if sums.total.open_costs and not (await client.batch(ref)).state.is_under_way:
        say(f"Reading costs that are not final yet, of {counted(sums.total.open_costs, 'Run')}")
        try:
            await client.read_last_costs(ref)
            sums = await client.cost(ref, by)
        except BatchrunError as error:
            say(f"Note: {error}")
    show_costs(sums.by, sums.rows, sums.total, as_csv=as_csv)


async def write_report(ref: str, out: Path | None, client: WorkerClient) -> None:
    """Write the report of a batch to `out`; `-` is stdout, None a file named for the batch's id."""
    if out is not None and out != Path("-"):
        refuse_no_html(out)
    batch = await client.batch(ref)
    page = await client.report(batch.id)
    if out == Path("-"):
        write_data(page.encode())
        return
    file = out or Path(f"{batch.id}.html")
    await anyio.to_thread.run_sync(partial(replace_text, file, page, is_private=False))
    say(f"report   {file}")


async def print_page(data: Path, url: str | None, client: WorkerClient) -> None:
    """Print the address of the worker's page, with what opens it once."""
    address = url if url is not None else await anyio.to_thread.run_sync(_address_in, DataDirectory(data))
    address = address.strip().rstrip("/")
    if url is None and not is_loopback_host(urlsplit(address).hostname or ""):
        say(
            f"WARNING: the page at {address} gets its key over plain HTTP: who reads it on the way can use the worker."
            " Open it by a tunnel, or behind a proxy that speaks https"
        )
    answer(await client.page_link(address))


def _address_in(directory: DataDirectory) -> str:
    with explaining(directory.address), held_own_directory(directory.path) as descriptor:
        return read_private(Path(directory.address.name), within=descriptor).decode()


async def print_notify(is_test: bool, client: WorkerClient) -> ExitCode:
    """Print who is notified; with `is_test`, send a test first, and print what came of it."""
    results = (await client.test_notify()).results if is_test else None
    view = await client.notify()
    show_targets(view.targets, view.events, results)
    if view.waiting:
        answer(f"waiting  {view.waiting:,} not delivered{f' ({view.trouble})' if view.trouble else ''}")
    return exit_code_of_deliveries(results or {})


async def print_stream(ref: str, stream: Stream, follows: bool, client: WorkerClient) -> None:
    """Print the lines of a batch; with `follows`, also new ones until the batch rests."""
    batch = await client.batch(ref)
    pieces = client.follow(batch.id, stream, say) if follows else client.stream(batch.id, stream)
    async with aclosing(pieces) as opened:  # type: ignore[type-var]  # both are generators
        async for piece in opened:
            write_data(piece)


async def give_order(refs: list[str], order: Order, client: WorkerClient) -> ExitCode:
    """Pause, resume or cancel each batch; an error with one of several does not stop the others."""
    code = ExitCode.SUCCEEDED
    for ref in refs:
        try:
            batch = await client.give_order(ref, order)
        except BatchrunError as error:
            if len(refs) == 1:
                raise
            say_text(f"batchrun: {error}")
            code = ExitCode.USAGE
        else:
            say(f"{label(batch)}: {state_words(batch)}")
    return code


async def delete_batch(ref: str, client: WorkerClient) -> None:
    """Delete a batch that is not under way."""
    batch = await client.batch(ref)
    await client.delete(batch.id)
    say(f"{label(batch)}: deleted")


async def print_limits(ref: str | None, changes: JsonObject, is_json: bool, client: WorkerClient) -> None:
    """Change limits of one batch, or of all together, and print the limits that hold then."""
    if ref is None:
        found = await client.change_limits(changes) if changes else await client.limits()
        if changes:
            say(_UNTIL)
    else:
        batch = await client.change(ref, changes) if changes else await client.batch(ref)
        found = {name: getattr(batch, name) for name in _BATCH_LIMITS}
        if batch.max_concurrent_runs is None and not is_json:
            kept = "the change is kept for when it runs again" if changes else "its limits are shown while it is open"
            say(f"{label(batch)} is {batch.state}: {kept}")
            found = {name: found[name] for name in _PRIORITIES}
    if is_json:
        print_json(found, is_indented=True)
        return
    answer_lines(limit_lines(found))
