"""`batchrun run`: start a batch, or resume it; the same command."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from batchrun.batch.open_batch import open_batch
from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode, exit_code_of_batch
from batchrun.cli.json_output import print_json
from batchrun.cli.secret_warning import warn_of_readers
from batchrun.cli.terminal import say
from batchrun.cli.worker_batch_refusal import refuse_worker_directory
from batchrun.config import Config
from batchrun.model import Command
from batchrun.runtime.late_imports import need_module
from batchrun.words.number_words import counted

if TYPE_CHECKING:
    from batchrun.ledger.shared_log.standby import Standby
    from batchrun.maintenance.retry_selection import JobsToRetry


def run_batch_command(config: Config, *, is_confirmed: bool, is_json: bool) -> ExitCode:
    """Start a batch, or resume it; the ledger notes this command line as the one that resumes it."""
    refuse_worker_directory(config.out_dir, "run")
    if config.api.token_file is not None:
        warn_of_readers(config.api.token_file)
    same = Command(line=shlex.join(["batchrun", *sys.argv[1:]]), directory=str(Path.cwd()))
    return run_async(run_to_the_end, config, is_confirmed, is_json, same, None)


async def run_to_the_end(
    config: Config, is_confirmed: bool, is_json: bool, resumed_by: Command | str, to_retry: "JobsToRetry | None"
) -> ExitCode:
    """Start or resume a batch, with all that a person sees of it; first reopen `to_retry`.

    `resumed_by` is shown at the end. If it is a Command, the ledger notes it.

    Raises:
        BatchRefused: the platform refused the batch; all else was done and shown.
    """
    began_at = anyio.current_time()
    noted = resumed_by if isinstance(resumed_by, Command) else None
    if config.replica.url is not None:  # as in open_batch
        await need_module("batchrun.cli.batch_on_screen")
    async with open_batch(config, command=noted, on_standby=_show_standby, on_copy=_show_copy) as batch:
        if to_retry is not None:  # no other process runs the batch
            say(f"Retrying {counted(to_retry.jobs, 'job')}")
        await need_module("batchrun.cli.batch_on_screen")
        from batchrun.cli.batch_on_screen import carry_out, show_end  # noqa: PLC0415 - not before the first request

        refused = await carry_out(batch, config, is_confirmed, to_retry)
    elapsed_s = anyio.current_time() - began_at - batch.costs_waited_s
    summary = await show_end(batch, config, elapsed_s, resumed_by)
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
