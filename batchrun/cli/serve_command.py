"""`batchrun serve`: the embedded server on its own."""

import signal
import sys
from collections.abc import Iterable
from typing import TextIO

import anyio

from batchrun import server as embedded_server
from batchrun.cli.event_loop import run_async
from batchrun.cli.terminal import answer, say
from batchrun.errors import ConfigError
from batchrun.runtime.logs import logging_to
from batchrun.server.accounts.account_book import MADE_TOKEN, is_username


def serve_api(settings: embedded_server.ServerSettings) -> None:
    """Serve until Ctrl-C."""
    run_async(_serve, settings)


def read_token(file: TextIO) -> str:
    """Return the token that a file holds.

    Raises:
        ConfigError: it holds none.
    """
    return _checked(file.read().strip(), file.name)


def read_accounts(names: Iterable[str], file: TextIO | None) -> dict[str, str | None]:
    """Return names and tokens of accounts, given as names or as lines NAME=TOKEN or NAME of a file.

    Raises:
        ConfigError: a name has a token with it, or a token cannot be one.
    """
    found: dict[str, str | None] = dict.fromkeys(names)
    if any("=" in name for name in found):
        raise ConfigError(
            "--account takes a name: other users of this machine can read a token on a command line; "
            "write NAME=TOKEN into a file for --account-file"
        )
    for line_no, line in enumerate(file or (), start=1):
        name, equals, token = line.strip().partition("=")
        if name and not name.startswith("#"):
            assert file is not None
            if not is_username(name.strip()):  # it may be a token, and is not shown
                raise ConfigError(
                    f"{file.name}:{line_no}: must be NAME=TOKEN, or a NAME of letters, digits, dots, - and _"
                )
            found[name.strip()] = _checked(token.strip(), f"{file.name}:{line_no}") if equals else None
    return found


def _checked(token: str, source: str) -> str:
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{source}: must hold a token, printable and without spaces")
    return token


async def _serve(settings: embedded_server.ServerSettings) -> None:
    with logging_to(settings.data_dir / "server.log"):
        async with embedded_server.open_server(settings) as server:
            _show(server, settings)
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    break
    say("stopped; the next serve on the same --data starts its live Runs again")


def _made(token: str) -> str:
    """Return a token that a server has made; empty for another, of a file that was there before: a person's own."""
    return token if token.startswith(MADE_TOKEN) else ""


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
        say(f"token    {_made(server.token) or settings.data_dir / 'token'}")
    for account in settings.accounts:
        token = _made(server.tokens[account.username]) if account.token is None else ""
        made = f", token {token}" if token else ""
        say(f"account  {account.username}{made}")
    say(f"actors   {', '.join(server.actors)}")
    for error in server.broken_actors.values():
        say(f"left out {error}")
    say(f"demo     {server.base_url}/demo/")
    if settings.faults is not None:
        say(f"faults   {len(settings.faults.fault)} from {settings.faults.source} are injected")
