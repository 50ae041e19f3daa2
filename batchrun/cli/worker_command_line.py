"""Every verb of `batchrun worker`: its arguments, its help, and the function that does it.

A verb imports what does it once it runs, as those of `verbs` do.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Keep running, take batches as they come, and carry them out side by side.", no_args_is_help=True
)

DEFAULT_DATA_DIR = Path("worker")

DataDir = Annotated[Path, typer.Option("--data", help="Directory that holds all of the worker's state.")]
Url = Annotated[
    str | None,
    typer.Option(help="Address of a worker elsewhere, its token in BATCHRUN_WORKER_TOKEN; instead of --data."),
]
Ref = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's id, or its name where only one has it.")]
Refs = Annotated[list[str], typer.Argument(metavar="BATCH...", help="Ids, or names that only one has.")]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the batch rests.")]


@app.command("start")
def start(
    data: DataDir = DEFAULT_DATA_DIR,
    host: Annotated[str | None, typer.Option(help="Address to listen at.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = None,
    api_url: Annotated[str | None, typer.Option(help='Address of the API, or "embedded".')] = None,
    max_concurrent_runs: Annotated[
        int | None, typer.Option("--max-concurrent-runs", "-c", min=1, help="Most Runs live at once, of all batches.")
    ] = None,
) -> None:
    """Carry out the batches of a data directory, and those that are handed in, until it is told to stop."""
    from batchrun.cli.worker_start_command import start_worker

    given = {
        "worker.host": host,
        "worker.port": port,
        "api.base_url": api_url,
        "limits.max_concurrent_runs": max_concurrent_runs,
    }
    flags = {key: value for key, value in given.items() if value is not None}
    raise typer.Exit(start_worker(data, flags))


@app.command("submit")
def submit(
    batch: Annotated[Path | None, typer.Argument(help="The batch's TOML file; or give --profile and --jobs.")] = None,
    profile: Annotated[str | None, typer.Option(help="Name of a batch file in DATA/profiles.")] = None,
    jobs: Annotated[
        Path | None, typer.Option(help="The job file, instead of the batch file's; - is JSONL on stdin.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the batch is called; default: the name of its file.")] = None,
    weight: Annotated[float | None, typer.Option(help="Its share of the places, among the weights of all.")] = None,
    priority: Annotated[int | None, typer.Option(help="Higher ones come first where places are scarce.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any configuration key: --set limits.start_rate=5.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show its progress until it rests; exit as `run` does.")] = False,
    json: Json = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """Hand a batch to the worker."""
    from batchrun.cli.worker_submit_command import submit_batch

    submit_batch(
        batch,
        profile,
        jobs,
        name=name,
        weight=weight,
        priority=priority,
        settings=settings or [],
        is_awaited=wait,
        is_json=json,
        data=data,
        url=url,
    )


@app.command("list")
def list_batches(
    state: Annotated[str, typer.Option(help="Only those in these states, with commas.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The newest so many.")] = 100,
    json: Json = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """List the worker's batches, the newest first."""
    from batchrun.cli.worker_call import ask
    from batchrun.cli.worker_show_commands import print_batches

    ask(data, url, partial(print_batches, state, limit, json))


@app.command("status")
def status(
    batch: Annotated[str | None, typer.Argument(help="The batch's id or name; without one, the worker.")] = None,
    json: Json = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """Show how a batch stands, or the worker."""
    from batchrun.cli.worker_call import ask
    from batchrun.cli.worker_show_commands import print_status

    ask(data, url, partial(print_status, batch, json))


@app.command("logs")
def logs(batch: Ref, follow: Follow = False, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Print a batch's log, a JSON object per line."""
    from batchrun.cli.worker_call import ask
    from batchrun.cli.worker_show_commands import print_stream

    ask(data, url, partial(print_stream, batch, "log", follow))


@app.command("records")
def records(batch: Ref, follow: Follow = False, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Print a batch's records as JSONL."""
    from batchrun.cli.worker_call import ask
    from batchrun.cli.worker_show_commands import print_stream

    ask(data, url, partial(print_stream, batch, "records", follow))


@app.command("items")
def items(batch: Ref, follow: Follow = False, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Print the items of a batch's Runs as JSONL."""
    from batchrun.cli.worker_call import ask
    from batchrun.cli.worker_show_commands import print_stream

    ask(data, url, partial(print_stream, batch, "items", follow))


@app.command("pause")
def pause(batches: Refs, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Start nothing more of a batch; it rests when its live Runs have ended."""
    from batchrun.cli.worker_call import ask
    from batchrun.cli.worker_show_commands import give_order

    ask(data, url, partial(give_order, batches, "pause"))


@app.command("resume")
def resume(batches: Refs, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Go on with a batch that rests."""
    from batchrun.cli.worker_call import ask
    from batchrun.cli.worker_show_commands import give_order

    ask(data, url, partial(give_order, batches, "resume"))


@app.command("cancel")
def cancel(batches: Refs, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Start nothing more of a batch and abort its live Runs; `resume` goes on with what was not started."""
    from batchrun.cli.worker_call import ask
    from batchrun.cli.worker_show_commands import give_order

    ask(data, url, partial(give_order, batches, "cancel"))


@app.command("limits")
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
    from batchrun.cli.worker_call import ask, parse_changes
    from batchrun.cli.worker_show_commands import print_limits

    ask(data, url, partial(print_limits, batch, parse_changes(settings or []), json))


@app.command("delete")
def delete(batch: Ref, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Forget a batch that is not under way; what came over the API goes with its results."""
    from batchrun.cli.worker_call import ask
    from batchrun.cli.worker_show_commands import delete_batch

    ask(data, url, partial(delete_batch, batch))
