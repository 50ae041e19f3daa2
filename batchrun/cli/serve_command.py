"""`batchrun serve`: the embedded server on its own."""

import sys
from pathlib import Path

import anyio

from batchrun import server as embedded_server
from batchrun.cli.event_loop import run_async
from batchrun.cli.stop_signals import heeded_signals
from batchrun.cli.terminal import answer, say
from batchrun.runtime.logs import logging_to
from batchrun.runtime.shell_command import shell_command
from batchrun.server.accounts.account_book import MADE_TOKEN, token_file


def serve_api(settings: embedded_server.ServerSettings) -> None:
    """Serve until Ctrl-C, SIGTERM, or the end of the terminal.

    Raises:
        ConfigError: the data directory is something else's.
    """
    embedded_server.refuse_anothers_directory(settings.data_dir)
    run_async(_serve, settings)


async def _serve(settings: embedded_server.ServerSettings) -> None:
    with logging_to(settings.data_dir / "server.log"):
        async with embedded_server.open_server(settings) as server:
            _show(server, settings)
            with anyio.open_signal_receiver(*heeded_signals()) as signals:
                async for _ in signals:
                    break
    say("stopped; the next serve on the same --data starts its live Runs again")


def _shown(token: str, file: Path) -> str:
    """Return an account's token, or the command that shows it where others may read what is printed: a log, say.

    A token that no server has made was in the file before: a person's own.
    """
    return token if sys.stderr.isatty() and token.startswith(MADE_TOKEN) else shell_command("cat", file)


def _show(server: embedded_server.Server, settings: embedded_server.ServerSettings) -> None:
    """Print the address of a server, and what a person needs to use it."""
    warning = embedded_server.exposure_warning(settings.host, has_own_token=settings.token is not None)
    if warning is not None:
        say(warning)
    # The only line on stdout: scripts read the address from it.
    answer(server.base_url, flush=True)
    # A log file must not contain the link's token.
    say(f"page     {server.page_link if sys.stderr.isatty() else f'{server.base_url}/'}")
    say(f"state    {settings.data_dir}")
    if settings.token is None:
        say(f"token    {_shown(server.token, token_file(settings.data_dir))}")
    for account in settings.accounts:
        name = account.username
        is_kept = account.token is None
        token = f", token: {_shown(server.tokens[name], token_file(settings.data_dir, name))}" if is_kept else ""
        say(f"account  {name}{token}")
    say(f"actors   {', '.join(server.actors)}")
    for error in server.broken_actors.values():
        say(f"left out {error}")
    say(f"demo     {server.base_url}/demo/")
    if settings.faults is not None:
        say(f"faults   {len(settings.faults.fault)} from {settings.faults.source} are injected")
