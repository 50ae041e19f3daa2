"""`batchrun run`: start a batch, or go on with it; the same command."""

import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio
import orjson
import typer

from batchrun.batch.open_batch import Batch, open_batch
from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.live_progress import forecast_lines, show_closing, show_opening, watch_progress
from batchrun.cli.stop_signals import obey_signals
from batchrun.cli.terminal import say
from batchrun.config import Config
from batchrun.errors import ConfigError
from batchrun.model import Command, Ending, Selection, Summary
from batchrun.report.notice_words import notice_words

#: On a platform that costs money, more Runs than this are not started without a word.
ASK_ABOVE_RUNS = 100


def run_batch_command(config: Config, *, is_confirmed: bool, is_json: bool) -> ExitCode:
    """Start a batch, or go on with it; this process's own command line goes on with it."""
    same = Command(line=shlex.join(["batchrun", *sys.argv[1:]]), directory=str(Path.cwd()))
    return run_async(run_to_the_end, config, is_confirmed, is_json, same, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anew:
    """Settled jobs that are to be carried out once more."""

    selection: Selection
    count: int


async def run_to_the_end(
    config: Config, is_confirmed: bool, is_json: bool, resumed_by: Command | str, anew: Anew | None
) -> ExitCode:
    """Start a batch or go on with it, `anew` included, with everything that a person sees of it.

    What goes on with it is noted, where it is a command line, and told.
    """
    began_at = anyio.current_time()
    async with open_batch(config, command=resumed_by if isinstance(resumed_by, Command) else None) as batch:
        show_opening(batch, config)
        if not is_confirmed:
            await _confirm(batch, config, anew.count if anew is not None else 0)
        if anew is not None:
            await batch.reopen(anew.selection)
        await _carry_out(batch, config)
    for notice in batch.progress.notices.take():
        say(notice_words(notice))
    # Read after the batch is closed: everything that was noted on the way out is in it.
    summary = await batch.summary()
    show_closing(
        summary,
        config,
        elapsed_s=anyio.current_time() - began_at,
        command=resumed_by.line if isinstance(resumed_by, Command) else resumed_by,
        has_settled_any=batch.progress.settled > 0,
        report=batch.report,
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


async def _confirm(batch: Batch, config: Config, anew: int) -> None:
    """Ask before many Runs are started that cost money.

    Raises:
        ConfigError: the answer was no, or there is nobody to ask.
    """
    count = batch.opening.job_count
    left = None if count is None else count - batch.opening.settled_before + anew
    if config.api.is_loopback or (left is not None and left <= ASK_ABOVE_RUNS):
        return
    for line in forecast_lines(await batch.forecast(anew)):
        say(line)
    question = "Start an unknown number of runs?" if left is None else f"Start {left:,} runs?"
    if not sys.stdin.isatty() or str(config.jobs.file) == "-":
        raise ConfigError(f"{question} There is no terminal to ask at: --yes starts them")
    # Asked before anything runs, so that the loop may wait for the answer, and Ctrl-C is one.
    if not typer.confirm(question, err=True):
        raise ConfigError("nothing was started")


def _exit_code(summary: Summary) -> ExitCode:
    match summary.ending:
        case Ending.INTERRUPTED | Ending.OUT_OF_TIME:
            return ExitCode.INTERRUPTED
        case Ending.TRIPPED:
            return ExitCode.TRIPPED
        case Ending.OUT_OF_BUDGET:
            return ExitCode.OUT_OF_BUDGET
        case _:
            return ExitCode.SUCCEEDED if summary.has_succeeded else ExitCode.NOT_ALL_SUCCEEDED
