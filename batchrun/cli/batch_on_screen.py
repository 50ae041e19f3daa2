"""An open batch on a terminal: what opens it, its progress until it ends or is stopped, and what closes it."""

import anyio

from batchrun.batch.running_batch import Batch
from batchrun.cli.closing_lines import show_closing
from batchrun.cli.live_progress import watch_progress
from batchrun.cli.opening_lines import show_opening
from batchrun.cli.start_question import confirm_start
from batchrun.cli.stop_signals import obey_signals
from batchrun.cli.terminal import say
from batchrun.config import Config
from batchrun.errors import BatchRefused
from batchrun.maintenance.retry_selection import JobsToRetry
from batchrun.model import Command, Summary
from batchrun.words.notice_words import notice_words


async def carry_out(
    batch: Batch, config: Config, is_confirmed: bool, to_retry: JobsToRetry | None
) -> BatchRefused | None:
    """Show a batch, ask unless it is confirmed, reopen `to_retry`, and run it; return why the platform refused it.

    Raises:
        ConfigError: the answer was no, or there is no terminal to ask at.
    """
    show_opening(batch, config)
    if not is_confirmed:
        await confirm_start(batch, config, to_retry.jobs if to_retry is not None else 0)
    if to_retry is not None:
        await batch.reopen(to_retry.selection)
    return await _run(batch, config)


async def show_end(batch: Batch, config: Config, elapsed_s: float, resumed_by: Command | str) -> Summary:
    """Show how a batch has ended; called after it is closed, so that what was noted while closing counts."""
    for notice in batch.progress.notices.take():
        say(notice_words(notice))
    summary = await batch.summary()
    show_closing(
        summary,
        config,
        elapsed_s=elapsed_s,
        command=resumed_by.line if isinstance(resumed_by, Command) else resumed_by,
        has_settled_any=batch.progress.settled > 0,
        report=batch.report,
    )
    if batch.undelivered:
        say(f"notify    {batch.undelivered}; the same command tries again")
    return summary


async def _run(batch: Batch, config: Config) -> BatchRefused | None:
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
