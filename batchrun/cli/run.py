"""`batchrun run`: start a batch, or go on with it; the same command."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import anyio
import orjson
import typer

from batchrun.batch import Batch, open_batch
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.loop import run_async
from batchrun.cli.stopping import obey_signals
from batchrun.cli.view import show_closing, show_opening, watch_progress
from batchrun.config import Config, load_config, parse_setting
from batchrun.errors import ConfigError
from batchrun.model import Ending, Summary

#: On a platform that costs money, more Runs than this are not started without a word.
ASK_ABOVE_RUNS = 100


def command(
    batch: Annotated[Path | None, typer.Argument(help="The batch's TOML file; or give --task and --jobs.")] = None,
    task: Annotated[str | None, typer.Option(help="Id of the task, or user~name.")] = None,
    jobs: Annotated[Path | None, typer.Option(help="The job file; - is JSONL on stdin.")] = None,
    out: Annotated[Path | None, typer.Option(help="The output directory.")] = None,
    max_concurrent_runs: Annotated[
        str | None, typer.Option("--max-concurrent-runs", "-c", help='Most Runs live at once, or "auto".')
    ] = None,
    start_rate: Annotated[float | None, typer.Option(help="Most starts per second.")] = None,
    limit: Annotated[int | None, typer.Option(help="Carry out only the first so many jobs of the file.")] = None,
    api_url: Annotated[str | None, typer.Option(help='Address of the API, or "embedded".')] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any configuration key: --set limits.drain_s=10.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Start without asking.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the Summary as JSON on stdout.")] = False,
) -> None:
    """Start a batch, or go on with it: the same command."""
    if batch is None and (task is None or jobs is None):
        raise ConfigError("give a batch's TOML file, or --task and --jobs")
    flags: dict[str, Any] = {
        "task.id": task,
        "jobs.file": str(jobs) if jobs is not None else None,
        "output.dir": str(out) if out is not None else None,
        "limits.max_concurrent_runs": _number_or_auto(max_concurrent_runs),
        "limits.start_rate": start_rate,
        "jobs.limit": limit,
        "api.base_url": api_url,
    }
    given = dict(parse_setting(each) for each in settings or [])
    config = load_config(batch, flags={**given, **{key: value for key, value in flags.items() if value is not None}})
    raise typer.Exit(run_async(_run, config, yes, json))


def _number_or_auto(text: str | None) -> int | str | None:
    return int(text) if text is not None and text.lstrip("-").isdecimal() else text


async def _run(config: Config, is_confirmed: bool, is_json: bool) -> ExitCode:
    began_at = anyio.current_time()
    async with open_batch(config) as batch:
        show_opening(batch, config)
        if not is_confirmed:
            await _confirm(batch, config)
        await _carry_out(batch, config)
    # Read after the batch is closed: everything that was noted on the way out is in it.
    summary = await batch.summary()
    show_closing(
        summary,
        config,
        elapsed_s=anyio.current_time() - began_at,
        command=_same_command(),
        has_settled_any=batch.progress.settled > 0,
    )
    if is_json:
        sys.stdout.buffer.write(
            orjson.dumps(asdict(summary), option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS)
        )
        sys.stdout.flush()
    return _exit_code(summary)


async def _carry_out(batch: Batch, config: Config) -> None:
    """Run the batch with its progress shown, until it ends or a signal ends it."""
    async with anyio.create_task_group() as children:
        with anyio.CancelScope() as whole:

            def drain() -> int:
                batch.stop_starting()
                return batch.live_runs

            def leave() -> None:
                batch.stop_starting()
                whole.cancel()

            async def obey() -> None:
                await obey_signals(drain=drain, leave=leave, drain_s=config.limits.drain_s)

            children.start_soon(obey)
            children.start_soon(watch_progress, batch)
            await batch.run()
        children.cancel_scope.cancel()


async def _confirm(batch: Batch, config: Config) -> None:
    """Ask before many Runs are started that cost money.

    Raises:
        ConfigError: the answer was no, or there is nobody to ask.
    """
    count = batch.opening.job_count
    left = None if count is None else count - batch.opening.settled_before
    if config.api.is_loopback or (left is not None and left <= ASK_ABOVE_RUNS):
        return
    question = "Start an unknown number of runs?" if left is None else f"Start {left:,} runs?"
    if not sys.stdin.isatty() or str(config.jobs.file) == "-":
        raise ConfigError(f"{question} There is no terminal to ask at: --yes starts them")
    # Asked before anything runs, so that the loop may wait for the answer, and Ctrl-C is one.
    if not typer.confirm(question, err=True):
        raise ConfigError("nothing was started")


def _same_command() -> str:
    return shlex.join(["batchrun", *sys.argv[1:]])


def _exit_code(summary: Summary) -> ExitCode:
    if summary.ending is Ending.INTERRUPTED:
        return ExitCode.INTERRUPTED
    return ExitCode.SUCCEEDED if summary.has_succeeded else ExitCode.NOT_ALL_SUCCEEDED
