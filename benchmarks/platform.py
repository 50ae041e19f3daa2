"""The platform of a benchmark: the embedded server with a coroutine Actor, in a process of its own."""

import sys
from pathlib import Path

import anyio

from batchrun.logs import silence
from batchrun.server import InlineContext, ServerSettings, open_server


async def _echo(context: InlineContext) -> None:
    await context.push_items([context.input])


async def _serve(data_dir: Path) -> None:
    silence()
    settings = ServerSettings(
        data_dir=data_dir,
        token="bench",  # noqa: S106 - on loopback, for the length of a benchmark
        inline_actors={"bench/echo": _echo},
        max_concurrent_runs=100_000,
        max_total_memory_mb=100_000_000,
        is_rate_limited=False,
    )
    async with open_server(settings) as server:
        print(server.base_url, flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(_serve, Path(sys.argv[1]), backend_options={"use_uvloop": True})
