"""`batchrun serve`: the embedded server on its own."""

import os
import signal
from pathlib import Path
from typing import Annotated

import anyio
import typer

from batchrun import server as embedded_server
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.loop import run_async
from batchrun.cli.view import say
from batchrun.runtime.logs import logging_to


def command(
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")] = 3333,
    data: Annotated[Path, typer.Option(help="Directory that holds the server's state.")] = Path(".batchrun"),
    token: Annotated[str | None, typer.Option(help="The API token; default: APIFY_TOKEN, or one that is made.")] = None,
    actors: Annotated[list[Path] | None, typer.Option(help="A directory of Actors, or one Actor; repeatable.")] = None,
    account: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=TOKEN]", help="One more account, with a token that is made if none; repeatable."),
    ] = None,
    max_concurrent_runs: Annotated[int, typer.Option(min=1, help="Each account's limit of concurrent Runs.")] = 25,
    max_total_memory_mb: Annotated[int, typer.Option(min=128, help="Each account's limit of memory.")] = 8192,
    faults: Annotated[Path | None, typer.Option(help="A TOML file of faults: misbehave as it says.")] = None,
) -> None:
    """Offer the Apify API on this machine and carry Actors out as local processes, until Ctrl-C."""
    settings = embedded_server.ServerSettings(
        data_dir=data,
        host=host,
        port=port,
        token=token or os.environ.get("APIFY_TOKEN") or None,
        actors=tuple(actors or ()),
        accounts=tuple(_account(text, max_concurrent_runs, max_total_memory_mb) for text in account or ()),
        max_concurrent_runs=max_concurrent_runs,
        max_total_memory_mb=max_total_memory_mb,
        faults=embedded_server.load_faults(faults) if faults is not None else None,
    )
    raise typer.Exit(run_async(_serve, settings))


def _account(text: str, max_concurrent_runs: int, max_total_memory_mb: int) -> "embedded_server.AccountSettings":
    name, _, token = text.partition("=")
    return embedded_server.AccountSettings(
        username=name,
        token=token or None,
        max_concurrent_runs=max_concurrent_runs,
        max_total_memory_mb=max_total_memory_mb,
    )


async def _serve(settings: "embedded_server.ServerSettings") -> ExitCode:
    with logging_to(settings.data_dir / "server.log"):
        async with embedded_server.open_server(settings) as server:
            if (
                warning := embedded_server.exposure_warning(settings.host, has_own_token=settings.token is not None)
            ) is not None:
                say(warning)
            # The one line on stdout: scripts read the address from it.
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
                say(f"faults   {len(settings.faults.fault)} from {settings.faults.source}: this server misbehaves")
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    break
    say("stopped; live Runs start again with the next serve on the same --data")
    return ExitCode.SUCCEEDED
