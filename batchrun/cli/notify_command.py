"""`batchrun notify`: who is notified of what happens to a batch, and a test of it."""

import os

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode, exit_code_of_deliveries
from batchrun.cli.notify_lines import show_targets
from batchrun.config.notify_settings import NotifyConfig
from batchrun.notify.delivery import open_channels, targets_of, try_channels
from batchrun.runtime.logs import silence


def notify_of_batch(config: NotifyConfig, *, is_test: bool) -> ExitCode:
    """Show who is notified; with `is_test`, send a test first, and show what came of it."""
    return run_async(_notify, config, is_test)


async def _notify(config: NotifyConfig, is_test: bool) -> ExitCode:
    silence()
    channels = open_channels(config, os.environ)
    results = await try_channels(channels) if is_test else None
    show_targets(targets_of(channels), config.events, results)
    return exit_code_of_deliveries(results or {})
