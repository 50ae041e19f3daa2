"""Every command of `batchrun worker`: its arguments, its help, and the function that carries it out.

A command imports that function when it runs, so that `--help` imports neither the engine nor HTTP.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from batchrun.cli.command_group import CommandGroup
from batchrun.cli.retry_options import DryRun, ErrorTypes, FailureIds, Groups, Keys, Outcomes, Tripped
from batchrun.runtime.lean_imports import import_leanly

app = typer.Typer(cls=CommandGroup, help="Run batches side by side in a long-lived process.", no_args_is_help=True)

DEFAULT_DATA_DIR = Path("worker")

DataDir = Annotated[Path, typer.Option("--data", help="Directory of the worker's state.")]
Url = Annotated[
    str | None,
    typer.Option(help="Address of a worker, instead of --data; its token is read from BATCHRUN_WORKER_TOKEN."),
]
BatchFile = Annotated[
    Path | None, typer.Argument(metavar="[BATCH]", help="The batch's TOML file; or give --profile and --jobs.")
]
Profile = Annotated[str | None, typer.Option(help="Name of a batch file in DATA/profiles.")]
Jobs = Annotated[Path | None, typer.Option(help="The job file, instead of the batch file's; - is JSONL on stdin.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Any configuration key: --set limits.start_rate=5.")]
Ref = Annotated[str, typer.Argument(metavar="BATCH", help="The batch's name or id, or the end of its id.")]
Refs = Annotated[list[str], typer.Argument(metavar="BATCH...", help="Names or ids of batches, or ends of ids.")]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Wait = Annotated[bool, typer.Option("--wait", help="Show its progress until it rests; exit with the code of `run`.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Continue until the batch rests.")]


def _where(data: Path, url: str | None) -> Sequence[str]:
    """Return the flags that lead to the same worker, for a command that a person types next."""
    return ["--url", url] if url is not None else ["--data", str(data)] if data != DEFAULT_DATA_DIR else []


@app.command("start")
def start(
    data: DataDir = DEFAULT_DATA_DIR,
    host: Annotated[str | None, typer.Option(help="Address to listen at.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = None,
    api_url: Annotated[str | None, typer.Option(help='Address of the API, or "embedded".')] = None,
    max_concurrent_runs: Annotated[
        int | None, typer.Option("--max-concurrent-runs", "-c", min=1, help="Max Runs live at once, of all batches.")
    ] = None,
    fleet: Annotated[
        str | None,
        typer.Option(help="Share batches and limits with other workers, through a store: s3://, nats://, file://."),
    ] = None,
) -> None:
    """Run the batches of a data directory, and submitted ones, until a signal stops it."""
    import_leanly()
    from batchrun.cli.worker_start_command import start_worker

    given = {
        "worker.host": host,
        "worker.port": port,
        "api.base_url": api_url,
        "limits.max_concurrent_runs": max_concurrent_runs,
        "worker.fleet": fleet,
    }
    flags = {key: value for key, value in given.items() if value is not None}
    raise typer.Exit(start_worker(data, flags))


@app.command("submit")
def submit(
    batch: BatchFile = None,
    profile: Profile = None,
    jobs: Jobs = None,
    name: Annotated[str | None, typer.Option(help="The batch's name; default: that of its file.")] = None,
    weight: Annotated[float | None, typer.Option(help="Live Runs per batch are proportional to this weight.")] = None,
    priority: Annotated[
        int | None, typer.Option(help="Batches of a higher priority start first if slots are scarce.")
    ] = None,
    settings: Settings = None,
    key: Annotated[
        str | None,
        typer.Option(help="Submitted twice with the same key, a batch runs once; default: made from content and name."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Submit it although the same was submitted before.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="First show what it would do, and ask.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --plan: submit it without asking.")] = False,
    wait: Wait = False,
    json: Json = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    fleet: Annotated[
        str | None, typer.Option(help="Store of a fleet: put the batch on its list, without calling a worker.")
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(min=2, help="In a fleet: divide the batch among its workers, in N parts.", metavar="N"),
    ] = None,
) -> None:
    """Submit a batch to the worker; the same content under the same name is one batch."""
    from batchrun.cli.worker_commands import call_worker
    from batchrun.cli.worker_submit_command import batch_form, put_on_list, submit_batch

    options = {"name": name, "weight": weight, "priority": priority, "shards": shards}
    with batch_form(batch, profile, jobs, options, settings or []) as (texts, job_file):
        if fleet is not None:
            raise typer.Exit(put_on_list(fleet, texts, job_file, key, again, plan, wait, json))
        where = _where(data, url)
        call_worker(data, url, partial(submit_batch, texts, job_file, key, again, plan, yes, wait, json, where))


@app.command("plan")
def plan(
    batch: BatchFile = None,
    profile: Profile = None,
    jobs: Jobs = None,
    settings: Settings = None,
    show: Annotated[
        int, typer.Option(min=0, max=100, help="Show the whole inputs of the first N jobs.", metavar="N")
    ] = 0,
    json: Json = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """Have the worker check every input of a batch and forecast its time and cost; submit nothing."""
    from batchrun.cli.worker_commands import call_worker
    from batchrun.cli.worker_submit_command import batch_form, plan_batch_of_worker

    with batch_form(batch, profile, jobs, {}, settings or []) as (texts, job_file):
        call_worker(data, url, partial(plan_batch_of_worker, texts, job_file, show, json))


@app.command("list")
def list_batches(
    state: Annotated[str, typer.Option(help="Only batches in these states, separated by commas.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Max batches, newest first.")] = 100,
    json: Json = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """List the worker's batches, newest first."""
    from batchrun.cli.worker_commands import call_worker, print_batches

    call_worker(data, url, partial(print_batches, state, limit, json))


@app.command("status")
def status(
    batch: Annotated[str | None, typer.Argument(help="The batch's id or name; default: the worker itself.")] = None,
    json: Json = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """Show the status of a batch, or of the worker."""
    from batchrun.cli.worker_commands import call_worker, print_status

    call_worker(data, url, partial(print_status, batch, json))


@app.command("page")
def page(data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Print the address of the worker's page; it opens the page until the worker stops."""
    from batchrun.cli.worker_commands import call_worker, print_page

    call_worker(data, url, partial(print_page, data, url))


@app.command("logs")
def logs(batch: Ref, follow: Follow = False, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Print a batch's log, a JSON object per line."""
    from batchrun.cli.worker_commands import call_worker, print_stream

    call_worker(data, url, partial(print_stream, batch, "log", follow))


@app.command("records")
def records(batch: Ref, follow: Follow = False, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Print a batch's records as JSONL."""
    from batchrun.cli.worker_commands import call_worker, print_stream

    call_worker(data, url, partial(print_stream, batch, "records", follow))


@app.command("items")
def items(batch: Ref, follow: Follow = False, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Print the items of a batch's Runs as JSONL."""
    from batchrun.cli.worker_commands import call_worker, print_stream

    call_worker(data, url, partial(print_stream, batch, "items", follow))


@app.command("failures")
def failures(batch: Ref, json: Json = False, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Show the jobs that did not succeed, by cause; also while the batch runs."""
    from batchrun.cli.worker_commands import call_worker, print_failures

    call_worker(data, url, partial(print_failures, batch, json, _where(data, url)))


@app.command("retry")
def retry(
    batch: Ref,
    outcomes: Outcomes = None,
    error_types: ErrorTypes = None,
    groups: Groups = None,
    keys: Keys = None,
    failures: FailureIds = None,
    tripped: Tripped = False,
    dry_run: DryRun = False,
    wait: Wait = False,
    json: Json = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """Retry jobs of a batch that did not succeed, or a selection of them: another round of the same batch."""
    from batchrun.cli.worker_commands import call_worker
    from batchrun.cli.worker_retry_command import retry_batch
    from batchrun.maintenance.retry_selection import WantedJobs

    wanted = WantedJobs(
        outcomes=outcomes, error_types=error_types, groups=groups, keys=keys, failures=failures, tripped=tripped
    )
    call_worker(data, url, partial(retry_batch, batch, wanted, dry_run, wait, json, _where(data, url)))


@app.command("resolve")
def resolve(
    batch: Ref,
    key: Annotated[str | None, typer.Option(help="Key of the job; default: you are asked about each start.")] = None,
    run: Annotated[str | None, typer.Option(help="With --key: the Run that it started.", metavar="ID")] = None,
    none: Annotated[bool, typer.Option("--none", help="With --key: it started no Run.")] = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """Decide which Run a start in doubt has started, in a batch that rests."""
    from batchrun.cli.resolve_questions import refuse_half_decision
    from batchrun.cli.worker_commands import call_worker
    from batchrun.cli.worker_resolve_and_repair import resolve_doubts_of_batch
    from batchrun.model import RunId
    from batchrun.runtime.shell_command import shell_command

    refuse_half_decision(key, run, has_no_run=none)
    resume = shell_command("batchrun", "worker", "resume", batch, *_where(data, url))
    run_id = RunId(run) if run is not None else None
    call_worker(data, url, partial(resolve_doubts_of_batch, batch, key, run_id, resume))


@app.command("repair")
def repair(batch: Ref, json: Json = False, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Write missing or damaged lines of a batch's files again, in a batch that rests; start nothing."""
    from batchrun.cli.worker_commands import call_worker
    from batchrun.cli.worker_resolve_and_repair import repair_batch

    call_worker(data, url, partial(repair_batch, batch, json))


@app.command("cost")
def cost(
    batch: Ref,
    by: Annotated[str, typer.Option(help="Columns to sum by: group, day, outcome, or several with commas.")] = "group",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """Show the cost of a batch, all rounds and retries included; also while the batch runs."""
    from batchrun.cli.worker_commands import call_worker, print_cost

    call_worker(data, url, partial(print_cost, batch, by, as_csv))


@app.command("report")
def report(
    batch: Ref,
    out: Annotated[Path | None, typer.Option(help="File to write; default: the batch's id .html; - is stdout.")] = None,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """Write a report of a batch as one self-contained HTML file; also while the batch runs."""
    from batchrun.cli.worker_commands import call_worker, write_report

    call_worker(data, url, partial(write_report, batch, out))


@app.command("pause")
def pause(batches: Refs, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Stop new starts of a batch; it rests when its live Runs have ended."""
    from batchrun.cli.worker_commands import call_worker, give_order

    call_worker(data, url, partial(give_order, batches, "pause"))


@app.command("resume")
def resume(batches: Refs, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Resume a batch that rests."""
    from batchrun.cli.worker_commands import call_worker, give_order

    call_worker(data, url, partial(give_order, batches, "resume"))


@app.command("cancel")
def cancel(batches: Refs, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Stop new starts of a batch and abort its live Runs; `resume` continues with the jobs that were not started."""
    from batchrun.cli.worker_commands import call_worker, give_order

    call_worker(data, url, partial(give_order, batches, "cancel"))


@app.command("limits")
def limits(
    batch: Annotated[str | None, typer.Argument(help="The batch's id or name; default: all batches together.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A limit to change: --set max_concurrent_runs=50; the value none removes it."),
    ] = None,
    json: Json = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """Show or change the limits of all batches together, or of one, while they run."""
    from batchrun.cli.worker_commands import call_worker, parse_changes, print_limits

    call_worker(data, url, partial(print_limits, batch, parse_changes(settings or []), json))


@app.command("notify")
def notify(
    test: Annotated[bool, typer.Option("--test", help="Send a test in each way, and show what came of it.")] = False,
    data: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
) -> None:
    """Show who is notified of what happens to batches and worker, or test it."""
    from batchrun.cli.worker_commands import call_worker, print_notify

    call_worker(data, url, partial(print_notify, test))


@app.command("delete")
def delete(batch: Ref, data: DataDir = DEFAULT_DATA_DIR, url: Url = None) -> None:
    """Delete a batch that is not under way; results in the worker's own directory are deleted, too."""
    from batchrun.cli.worker_commands import call_worker, delete_batch

    call_worker(data, url, partial(delete_batch, batch))
