"""`batchrun serve`: the embedded server on its own."""

import signal

import anyio

from batchrun import server as embedded_server
from batchrun.cli.event_loop import run_async
from batchrun.cli.terminal import say
from batchrun.runtime.logs import logging_to


def serve_api(settings: embedded_server.ServerSettings) -> None:
    """Serve until Ctrl-C."""
    run_async(_serve, settings)


def read_account(text: str, max_concurrent_runs: int, max_total_memory_mb: int) -> embedded_server.AccountSettings:
    """Return the settings of an account that is given as NAME or NAME=TOKEN."""
    name, _, token = text.partition("=")
    return embedded_server.AccountSettings(
        username=name,
        token=token or None,
        max_concurrent_runs=max_concurrent_runs,
        max_total_memory_mb=max_total_memory_mb,
    )


async def _serve(settings: embedded_server.ServerSettings) -> None:
    with logging_to(settings.data_dir / "server.log"):
        async with embedded_server.open_server(settings) as server:
            if (
                warning := embedded_server.exposure_warning(settings.host, has_own_token=settings.token is not None)
            ) is not None:
                say(warning)
            # The only line on stdout: scripts read the address from it.
            print(server.base_url, flush=True)
            say(f"state    {settings.data_dir}")
            if settings.token is None:
                say(f"token    {server.token}")
            for account in settings.accounts:
                made = f", token {server.tokens[account.username]}" if account.token is None else ""
                say(f"account  {account.username}{made}")
            say(f"actors   {', '.join(server.actors)}")
            say(f"demo     {server.base_url}/demo/")
            if settings.faults is not None:
                say(f"faults   {len(settings.faults.fault)} from {settings.faults.source} are injected")
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    break
    say("stopped; the next serve on the same --data starts its live Runs again")
