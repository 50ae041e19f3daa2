"""The platform of a benchmark: the embedded server with coroutine Actors, in a process of its own, until SIGTERM."""

import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import anyio

from batchrun.cli.event_loop import run_async
from batchrun.runtime.logs import silence
from batchrun.server import InlineContext, ServerSettings, open_server


async def _echo(context: InlineContext) -> None:
    await context.push_items([context.input])


async def _sleep(context: InlineContext) -> None:
    await anyio.sleep(context.input["endsAt"] - datetime.now(UTC).timestamp())


async def _serve(data_dir: Path, is_rate_limited: bool) -> None:
    silence()
    settings = ServerSettings(
        data_dir=data_dir,
        token="bench",  # noqa: S106 - on loopback, for the length of a benchmark
        inline_actors={"bench/echo": _echo, "bench/sleep": _sleep},
        max_concurrent_runs=100_000,
        max_total_memory_mb=100_000_000,
        is_rate_limited=is_rate_limited,
    )
    async with open_server(settings) as server:
        print(server.base_url, flush=True)
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                break


if __name__ == "__main__":
    run_async(_serve, Path(sys.argv[1]), "--limited" in sys.argv)
