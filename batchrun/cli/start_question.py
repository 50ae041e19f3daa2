"""The question before many Runs that cost money are started."""

import sys

import typer

from batchrun.batch.running_batch import Batch
from batchrun.cli.forecast_lines import forecast_lines
from batchrun.cli.terminal import say, say_lines
from batchrun.config import Config
from batchrun.errors import ConfigError
from batchrun.words.number_words import counted

#: Max Runs that are started without asking, on a platform that costs money.
ASK_ABOVE_RUNS = 100


async def confirm_start(batch: Batch, config: Config, retried: int) -> None:
    """Ask before starting many Runs that cost money.

    Raises:
        ConfigError: the answer was no, or there is no terminal to ask at.
    """
    count = batch.opening.job_count
    left = None if count is None else count - batch.opening.settled_before + retried
    if config.api.is_loopback or (left is not None and left <= ASK_ABOVE_RUNS):
        return
    say_lines(forecast_lines(await batch.forecast(retried)))
    if batch.opening.first_input:
        say(f"input     {batch.opening.first_input}")
    question = "Start an unknown number of Runs?" if left is None else f"Start {counted(left, 'Run')}?"
    if not sys.stdin.isatty() or str(config.jobs.file) == "-":
        raise ConfigError(f"{question} There is no terminal to ask at: --yes starts them")
    # Nothing runs yet, so blocking the loop is harmless; Ctrl-C ends the process.
    if not typer.confirm(question, err=True):
        raise ConfigError("nothing was started")
