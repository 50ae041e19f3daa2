"""Every command: its arguments, its help, and the function that carries it out.

A command imports that function when it runs, so that `--help` and `--version` import neither the engine nor HTTP.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchrun.cli.retry_options import DryRun, ErrorTypes, FailureIds, Groups, Keys, Outcomes, Tripped
from batchrun.cli.secret_file import SecretFile, read_secret_file
from batchrun.runtime.lean_imports import import_leanly

if TYPE_CHECKING:
    from batchrun.config import Config


def _existing(place: Path | str) -> Path | str:
    """Refuse a directory that does not exist; a URL is looked at later."""
    if "://" not in str(place) and not Path(place).exists():
        from batchrun.errors import ConfigError

        raise ConfigError("there is no such directory; the first `batchrun run` of a batch makes it", file=Path(place))
    return place


Directory = Annotated[Path, typer.Argument(help="The batch's output directory.", callback=_existing)]
BatchPlace = Annotated[
    str, typer.Argument(help="The batch's output directory, or the URL of its shared log.", callback=_existing)
]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
JsonSummary = Annotated[bool, typer.Option("--json", help="Print the Summary as JSON on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", help="Start without asking.")]

# Arguments of every command that takes a batch.
Batch = Annotated[Path | None, typer.Argument(help="The batch's TOML file; or give --task and --jobs.")]
Task = Annotated[str | None, typer.Option(help="Id of the task, or user~name.")]
Jobs = Annotated[Path | None, typer.Option(help="The job file; - is stdin.")]
Format = Annotated[
    str | None, typer.Option(help="Format of the job file: jsonl, json, csv, tsv; default: by its name.")
]
Out = Annotated[Path | None, typer.Option(help="The output directory.")]
MaxConcurrentRuns = Annotated[
    str | None, typer.Option("--max-concurrent-runs", "-c", help='Max Runs live at once, or "auto".')
]
StartRate = Annotated[float | None, typer.Option(help="Max starts per second.")]
BudgetUsd = Annotated[float | None, typer.Option(help="Max cost of the batch, in US dollars.")]
Limit = Annotated[int | None, typer.Option(help="Only the first N jobs of the file.", metavar="N")]
ApiUrl = Annotated[str | None, typer.Option(help='Address of the API, or "embedded".')]
Actors = Annotated[
    list[Path] | None,
    typer.Option(help="Run Actors of your own on this machine: an Actor's directory, or one of several; repeatable."),
]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Any configuration key: --set limits.drain_s=10.")]


def _load_config(
    batch: Path | None,
    task: str | None,
    jobs: Path | None,
    out: Path | None,
    max_concurrent_runs: str | None,
    start_rate: float | None,
    limit: int | None,
    api_url: str | None,
    settings: list[str] | None,
    rows: str | None = None,
    budget_usd: float | None = None,
    actors: list[Path] | None = None,
) -> "Config":
    from batchrun.config import load_config, parse_setting
    from batchrun.errors import ConfigError

    if batch is None and jobs is None and (task is not None or actors):
        raise ConfigError("give the job file, too: --jobs FILE")
    if batch is None and jobs is not None and task is None and not actors:
        raise ConfigError("give the task, too: --task user~name, or its id")
    if batch is None and ((task is None and not actors) or jobs is None):
        raise ConfigError("give a batch's TOML file (`batchrun init` writes one), or --task and --jobs")
    flags: dict[str, Any] = {
        "task.id": task,
        "jobs.file": str(jobs) if jobs is not None else None,
        "jobs.format": rows,
        "output.dir": str(out) if out is not None else None,
        "limits.max_concurrent_runs": _number_or_auto(max_concurrent_runs),
        "limits.start_rate": start_rate,
        "limits.budget_usd": budget_usd,
        "jobs.limit": limit,
        "api.base_url": api_url,
    }
    given = dict(parse_setting(each) for each in settings or [])
    if actors:
        if api_url not in (None, "embedded"):
            raise ConfigError("--actors runs Actors on this machine, --api-url names another: give one of them")
        has_task = batch is not None or task is not None or any(key.startswith("task.") for key in given)
        flags |= _own_actors(actors, has_task=has_task)
    flags = {**given, **{key: value for key, value in flags.items() if value is not None}}
    try:
        return load_config(batch, flags=flags)
    except ConfigError as error:
        if batch is None or task is None or error.key != "task":
            raise
        problem = "describes a task ([task] actor, name), and --task names another one: leave one of them out"
        raise ConfigError(problem, file=batch) from error


def _own_actors(folders: list[Path], *, has_task: bool) -> dict[str, Any]:
    """Return the settings of a batch of Actors on this machine; without a task, its task is that of the one Actor."""
    from batchrun.cli.terminal import say
    from batchrun.errors import ConfigError
    from batchrun.server.catalog.actor_catalog import read_actors

    found, broken = read_actors(folders, "local")
    for error in broken.values():
        say(f"left out  {error}")
    settings = {"api.base_url": "embedded", "server.actors": [str(folder) for folder in folders]}
    if has_task:
        return settings
    if len(found) != 1:
        names = ", ".join(actor.full_name for actor in found)
        raise ConfigError(
            f"--actors names {len(found)} Actors: {names}; give it the directory of one, or a batch's TOML file with"
            " [task] actor and name"
        )
    return {**settings, "task.actor": found[0].full_name, "task.name": found[0].name}


def _number_or_auto(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.lstrip("-").isdecimal() else text


def run(
    batch: Batch = None,
    task: Task = None,
    jobs: Jobs = None,
    out: Out = None,
    max_concurrent_runs: MaxConcurrentRuns = None,
    start_rate: StartRate = None,
    budget_usd: BudgetUsd = None,
    limit: Limit = None,
    api_url: ApiUrl = None,
    actors: Actors = None,
    settings: Settings = None,
    format: Format = None,  # noqa: A002 - the flag's name
    no_standby: Annotated[bool, typer.Option("--no-standby", help="Refuse a batch that another machine runs.")] = False,
    yes: Yes = False,
    json: JsonSummary = False,
) -> None:
    """Start a batch, or resume it: the same command."""
    import_leanly()
    from batchrun.runtime.certificate_authorities import loading_authorities

    if no_standby:
        settings = [*(settings or ()), "replica.standby=false"]
    config = _load_config(
        batch, task, jobs, out, max_concurrent_runs, start_rate, limit, api_url, settings, format, budget_usd, actors
    )
    with loading_authorities(config.api.base_url):
        from batchrun.cli.run_command import run_batch_command

    raise typer.Exit(run_batch_command(config, is_confirmed=yes, is_json=json))


def show_help(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(metavar="[TOPIC | VERB]", help="A page, or a verb.")] = None,
) -> None:
    """Show a page of the documentation, or the help of a verb; alone, the list of pages."""
    from batchrun.cli.help_command import show_help

    show_help(context.find_root(), words or ())


def init(
    jobs: Annotated[Path, typer.Argument(help="The job file: CSV, TSV, JSON lines or JSON.")],
    task: Task = None,
    actor: Annotated[
        str | None, typer.Option(help="An Actor in place of a task: the first `run` makes a task of it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The batch file to write; default: the job file's name + .toml.")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--map", help="PROPERTY=COLUMN: which column fills a property; repeatable.")
    ] = None,
    api_url: ApiUrl = None,
    actors: Actors = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="How the file is read: --set jobs.encoding=cp1252.")
    ] = None,
) -> None:
    """Write a batch file for a job file: its columns become the input of a task. Nothing is started or overwritten."""
    from batchrun.cli.init_command import InitRequest, init_batch, pairs_of, reading_of

    request = InitRequest(
        jobs=jobs,
        file=out or Path(f"{jobs.name.partition('.')[0] or 'batch'}.toml"),
        task=task,
        actor=actor,
        actors=tuple(actors or ()),
        api_url="embedded" if actors and api_url is None else api_url,
        reading=reading_of(settings or []),
        chosen=pairs_of(columns or []),
    )
    raise typer.Exit(init_batch(request))


def plan(
    batch: Batch = None,
    task: Task = None,
    jobs: Jobs = None,
    out: Out = None,
    max_concurrent_runs: MaxConcurrentRuns = None,
    start_rate: StartRate = None,
    limit: Limit = None,
    api_url: ApiUrl = None,
    actors: Actors = None,
    settings: Settings = None,
    format: Format = None,  # noqa: A002 - the flag's name
    show: Annotated[int, typer.Option(min=0, help="Show the whole inputs of the first N jobs.", metavar="N")] = 0,
    json: Json = False,
) -> None:
    """Check every input of a batch and forecast its time and cost; start nothing."""
    import_leanly()
    from batchrun.cli.plan_command import show_plan

    config = _load_config(
        batch, task, jobs, out, max_concurrent_runs, start_rate, limit, api_url, settings, format, actors=actors
    )
    raise typer.Exit(show_plan(config, is_json=json, shown=show))


def notify(
    batch: Annotated[Path, typer.Argument(help="The batch's TOML file.")],
    test: Annotated[bool, typer.Option("--test", help="Send a test in each way, and show what came of it.")] = False,
    settings: Settings = None,
) -> None:
    """Show who is notified of what happens to a batch, or test it; start nothing."""
    from batchrun.cli.notify_command import notify_of_batch
    from batchrun.config import load_config, parse_setting

    config = load_config(batch, flags=dict(parse_setting(each) for each in settings or []))
    raise typer.Exit(notify_of_batch(config.notify, is_test=test))


def _directory_of(place: str) -> Path:
    """Return the directory that an argument names; a URL is read into a temporary one."""
    if "://" not in place:
        return Path(place)
    from batchrun.cli.pull_command import pulled_directory

    return pulled_directory(place)


def pull(
    url: Annotated[str, typer.Argument(help="Of the shared log: replica.url of the batch.")],
    directory: Annotated[Path, typer.Argument(help="The batch's output directory.")],
) -> None:
    """Write a batch's directory from its shared log; works while another machine carries the batch out."""
    from batchrun.cli.pull_command import pull_log

    pull_log(url, directory)


def status(
    batch: BatchPlace,
    refresh: Annotated[bool, typer.Option("--refresh", help="First read costs that are not final.")] = False,
    json: Json = False,
) -> None:
    """Show the status of a batch; works while another process runs it."""
    from batchrun.cli.status_command import show_status

    directory = _directory_of(batch)
    if refresh:
        from batchrun.cli.cost_command import update_costs

        update_costs(directory)
    show_status(directory, is_json=json)


def failures(batch: BatchPlace, json: Json = False) -> None:
    """Show the jobs that did not succeed, by cause; works while another process runs the batch."""
    from batchrun.cli.failures_command import show_failures

    show_failures(_directory_of(batch), is_json=json)


def report(
    batch: BatchPlace,
    out: Annotated[Path | None, typer.Option(help="File to write; default: DIR/report.html; - is stdout.")] = None,
) -> None:
    """Write a report of a batch as one self-contained HTML file; works while another process runs the batch."""
    from batchrun.cli.report_command import write_batch_report

    if out is None and "://" in batch:
        raise typer.BadParameter("a log has no place for a report; name the file", param_hint="--out")
    write_batch_report(_directory_of(batch), out)


def export(
    batch: BatchPlace,
    file: Annotated[Path, typer.Argument(help="File to write: .csv, .xlsx (Excel) or .jsonl.")],
    items: Annotated[bool, typer.Option("--items", help="The items of the Runs instead of the records.")] = False,
) -> None:
    """Write a batch's records, or its items, into a table; works while another process runs the batch."""
    from batchrun.cli.export_command import export_lines

    export_lines(_directory_of(batch), file, items=items)


def audit(
    batch: BatchPlace,
    api_url: Annotated[
        str | None, typer.Option(help="Address of the API; default: that of the batch, or Apify's for a log.")
    ] = None,
    json: Json = False,
) -> None:
    """Check that each job of a batch has one record, and find Runs that repeat its starts; change nothing."""
    from batchrun.cli.audit_command import audit_batch
    from batchrun.config import ApiConfig

    if api_url is None and "://" in batch:
        api_url = ApiConfig().base_url
    raise typer.Exit(audit_batch(_directory_of(batch), api_url, is_json=json))


def retry(
    directory: Directory,
    outcomes: Outcomes = None,
    error_types: ErrorTypes = None,
    groups: Groups = None,
    keys: Keys = None,
    failures: FailureIds = None,
    tripped: Tripped = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: JsonSummary = False,
) -> None:
    """Retry jobs that did not succeed, or a selection of them; then resume the batch."""
    import_leanly()
    from batchrun.cli.retry_command import retry_jobs
    from batchrun.maintenance.retry_selection import WantedJobs

    wanted = WantedJobs(
        outcomes=outcomes, error_types=error_types, groups=groups, keys=keys, failures=failures, tripped=tripped
    )
    raise typer.Exit(retry_jobs(directory, wanted, is_dry_run=dry_run, is_confirmed=yes, is_json=json))


def cost(
    batch: BatchPlace,
    by: Annotated[str, typer.Option(help="Columns to sum by: group, day, outcome, or several with commas.")] = "group",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV on stdout.")] = False,
) -> None:
    """Show the cost of a batch, all rounds and retries included; works while another process runs it."""
    from batchrun.cli.cost_command import show_cost

    show_cost(_directory_of(batch), by, as_csv=as_csv)


def abort(directory: Directory) -> None:
    """Abort the Runs that a batch has left running."""
    from batchrun.cli.abort_command import abort_left_runs

    raise typer.Exit(abort_left_runs(directory))


def resolve(
    directory: Directory,
    key: Annotated[str | None, typer.Option(help="Decide about this job only, with --run or --none.")] = None,
    run_id: Annotated[str | None, typer.Option("--run", help="The Run that the start in doubt has started.")] = None,
    none: Annotated[bool, typer.Option("--none", help="The start in doubt has started no Run.")] = False,
) -> None:
    """Decide about starts in doubt, if the platform does not show which Runs are ours."""
    from batchrun.cli.resolve_command import resolve_doubts

    raise typer.Exit(resolve_doubts(directory, key, run_id, has_no_run=none))


def repair(directory: Directory) -> None:
    """Write missing or damaged lines of records.jsonl again, from the platform; start nothing."""
    from batchrun.cli.repair_command import repair_records

    repair_records(directory)


def schema(
    for_worker: Annotated[
        bool, typer.Option("--worker", help="The schema of worker.toml instead of a batch file's.")
    ] = False,
) -> None:
    """Print the JSON Schema of a batch file, or of worker.toml, for editors."""
    from batchrun.cli.json_output import print_json
    from batchrun.config import Config
    from batchrun.config.editor_schema import editor_schema
    from batchrun.config.worker_config import WorkerConfig

    schema = (
        editor_schema(WorkerConfig, "A batchrun worker") if for_worker else editor_schema(Config, "A batchrun batch")
    )
    print_json(schema, is_indented=True)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 3333,
    data: Annotated[Path, typer.Option(help="Directory of the server's state.")] = Path(".batchrun"),
    token_file: Annotated[
        SecretFile | None,
        typer.Option(
            metavar="FILE",
            parser=read_secret_file,
            help="A file with the API token, - for stdin; default: APIFY_TOKEN, else a new one in --data.",
        ),
    ] = None,
    actors: Annotated[list[Path] | None, typer.Option(help="A directory of Actors, or one Actor; repeatable.")] = None,
    account: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further account, with a new token; repeatable.")
    ] = None,
    account_file: Annotated[
        SecretFile | None,
        typer.Option(
            metavar="FILE",
            parser=read_secret_file,
            help="A file of further accounts, a line NAME=TOKEN or NAME for each.",
        ),
    ] = None,
    max_concurrent_runs: Annotated[int, typer.Option(min=1, help="Max Runs live at once, per account.")] = 25,
    max_total_memory_mb: Annotated[
        int, typer.Option(min=128, help="Max memory of all live Runs in MB, per account.")
    ] = 8192,
    allow_private_addresses: Annotated[
        bool,
        typer.Option(
            "--allow-private-addresses", help="Let webhooks and the page-scraper reach loopback and private addresses."
        ),
    ] = False,
    restricted: Annotated[
        bool, typer.Option("--restricted", help="Let no account read another's Runs and storages by their ids.")
    ] = False,
    faults: Annotated[Path | None, typer.Option(help="A TOML file of faults to inject.")] = None,
) -> None:
    """Serve the Apify API on this machine and run Actors as local processes, until Ctrl-C."""
    import_leanly()
    from batchrun.cli.account_file import read_accounts, read_token, token_in
    from batchrun.cli.secret_warning import warn_of_readers
    from batchrun.cli.serve_command import serve_api
    from batchrun.server import AccountSettings, ServerSettings, load_faults

    for secret in (token_file, account_file):
        if secret is not None:
            warn_of_readers(Path(secret.name))
    accounts = [
        AccountSettings(
            username=name,
            token=known,
            max_concurrent_runs=max_concurrent_runs,
            max_total_memory_mb=max_total_memory_mb,
            is_restricted=restricted,
        )
        for name, known in read_accounts(account or (), account_file).items()
    ]
    settings = ServerSettings(
        data_dir=data,
        host=host,
        port=port,
        token=read_token(token_file) if token_file is not None else token_in(os.environ),
        actors=tuple(actors or []),
        accounts=tuple(accounts),
        max_concurrent_runs=max_concurrent_runs,
        max_total_memory_mb=max_total_memory_mb,
        allow_private_addresses=allow_private_addresses,
        is_restricted=restricted,
        proxy_password=os.environ.get("APIFY_PROXY_PASSWORD") or None,
        faults=load_faults(faults) if faults is not None else None,
    )
    serve_api(settings)
