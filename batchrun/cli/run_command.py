"""`batchrun run`: start a batch, or resume it; the same command."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import typer

from batchrun.batch.open_batch import open_batch
from batchrun.batch.opened_batch import Batch
from batchrun.cli.closing_lines import show_closing
from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode, exit_code_of_batch
from batchrun.cli.forecast_lines import forecast_lines
from batchrun.cli.json_output import print_json
from batchrun.cli.live_progress import watch_progress
from batchrun.cli.opening_lines import show_opening
from batchrun.cli.stop_signals import obey_signals
from batchrun.cli.terminal import say
from batchrun.cli.worker_directory import refuse_worker_directory
from batchrun.config import Config
from batchrun.errors import BatchRefused, ConfigError
from batchrun.maintenance.job_selection import JobsToRetry
from batchrun.model import Command
from batchrun.report.notice_words import notice_words
from batchrun.report.number_words import counted

if TYPE_CHECKING:
    from batchrun.ledger.shared_log.claim import Standby

#: Max Runs that are started without asking, on a platform that costs money.
ASK_ABOVE_RUNS = 100


def run_batch_command(config: Config, *, is_confirmed: bool, is_json: bool) -> ExitCode:
    """Start a batch, or resume it; the ledger notes this command line as the one that resumes it."""
    refuse_worker_directory(config.out_dir, "run")
    same = Command(line=shlex.join(["batchrun", *sys.argv[1:]]), directory=str(Path.cwd()))
    return run_async(run_to_the_end, config, is_confirmed, is_json, same, None)


async def run_to_the_end(
    config: Config, is_confirmed: bool, is_json: bool, resumed_by: Command | str, to_retry: JobsToRetry | None
) -> ExitCode:
    """Start or resume a batch, with all that a person sees of it; first reopen `to_retry`.

    `resumed_by` is shown at the end. If it is a Command, the ledger notes it.

    Raises:
        BatchRefused: the platform refused the batch; all else was done and shown.
    """
    began_at = anyio.current_time()
    noted = resumed_by if isinstance(resumed_by, Command) else None
    async with open_batch(config, command=noted, on_standby=_show_standby, on_copy=_show_copy) as batch:
        show_opening(batch, config)
        if not is_confirmed:
            await _confirm(batch, config, to_retry.jobs if to_retry is not None else 0)
        if to_retry is not None:
            await batch.reopen(to_retry.selection)
        refused = await _carry_out(batch, config)
    for notice in batch.progress.notices.take():
        say(notice_words(notice))
    # Read after the batch is closed, so that it includes what was noted while closing.
    summary = await batch.summary()
    show_closing(
        summary,
        config,
        elapsed_s=anyio.current_time() - began_at,
        command=resumed_by.line if isinstance(resumed_by, Command) else resumed_by,
        has_settled_any=batch.progress.settled > 0,
        report=batch.report,
    )
    if batch.undelivered:
        say(f"notify    {batch.undelivered}; the same command tries again")
    if is_json:
        print_json(asdict(summary))
    if refused is not None:
        raise refused
    return exit_code_of_batch(summary)


def _show_standby(standby: "Standby") -> None:
    if standby.trouble:
        say(f"standby   the shared log cannot be reached: {standby.trouble}")
        return
    say(
        f"standby   {standby.owner} carries the batch out; this command takes over after"
        f" {standby.takes_over_after_s:g} s without a sign of life from it"
    )


def _show_copy(copied_bytes: int, bytes_: int) -> None:
    say(f"job file  {copied_bytes >> 20:,} of {bytes_ >> 20:,} MB are in the shared log; then the first Run starts")


async def _carry_out(batch: Batch, config: Config) -> BatchRefused | None:
    """Run the batch and show its progress, until it ends or a signal ends it; return why the platform refused it."""
    refused: BatchRefused | None = None
    async with anyio.create_task_group() as children:
        with anyio.CancelScope() as running:
            children.start_soon(obey_signals, batch, running, config.limits.drain_s)
            children.start_soon(watch_progress, batch)
            try:
                await batch.run()
            except BatchRefused as error:
                refused = error
        children.cancel_scope.cancel()
    return refused


async def _confirm(batch: Batch, config: Config, retried: int) -> None:
    """Ask before starting many Runs that cost money.

    Raises:
        ConfigError: the answer was no, or there is no terminal to ask at.
    """
    count = batch.opening.job_count
    left = None if count is None else count - batch.opening.settled_before + retried
    if config.api.is_loopback or (left is not None and left <= ASK_ABOVE_RUNS):
        return
    for line in forecast_lines(await batch.forecast(retried)):
        say(line)
    if batch.opening.first_input:
        say(f"input     {batch.opening.first_input}")
    question = "Start an unknown number of Runs?" if left is None else f"Start {counted(left, 'Run')}?"
    if not sys.stdin.isatty() or str(config.jobs.file) == "-":
        raise ConfigError(f"{question} There is no terminal to ask at: --yes starts them")
    # Nothing runs yet, so blocking the loop is harmless; Ctrl-C ends the process.
    if not typer.confirm(question, err=True):
        raise ConfigError("nothing was started")
