"""The embedded server as a process of its own, with coroutine Actors: the counterpart that crash tests count at.

    python -m tests.support.api_process DATA_DIR PORT USAGE_SETTLE_S [FAULTS_TOML]

Its first line on stdout is its base URL. The token is TOKEN.
"""

import sys
from pathlib import Path

import anyio

from batchrun.runtime.logs import silence
from batchrun.server import InlineContext, ServerSettings, load_faults, open_server

TOKEN = "crash-test-token"
ACTOR = "test/worker"


async def work(context: InlineContext) -> None:
    """Take `ms` milliseconds, log and output so many bytes, push `items` items (of `item_bytes`), fail if told so.

    With `says`, it says so at once, in its log and as status message; with `until`, it goes on until that file exists.
    """
    if "says" in context.input:
        await context.log(context.input["says"])
        await context.set_status_message(context.input["says"])
    await anyio.sleep(context.input.get("ms", 0) / 1000)
    while "until" in context.input and not await anyio.Path(context.input["until"]).exists():  # noqa: ASYNC110 - a file
        await anyio.sleep(0.05)
    if log_bytes := context.input.get("log_bytes"):
        await context.log("x" * log_bytes)
    if output_bytes := context.input.get("output_bytes"):
        await context.set_value("OUTPUT", b"x" * output_bytes)
    text = {"text": "x" * context.input["item_bytes"]} if "item_bytes" in context.input else {}
    await context.push_items([{"n": n, "of": context.input["n"], **text} for n in range(context.input.get("items", 1))])
    if context.input.get("fails"):
        context.fail(1, "told to fail")


async def serve(data_dir: Path, port: int, usage_settle_s: float, faults: Path | None) -> None:
    """Serve until the process is killed."""
    silence()
    settings = ServerSettings(
        data_dir=data_dir,
        port=port,
        token=TOKEN,
        inline_actors={ACTOR: work},
        max_concurrent_runs=1000,
        max_total_memory_mb=1_000_000,
        usage_settle_s=usage_settle_s,
        allow_private_addresses=True,
        faults=load_faults(faults) if faults is not None else None,
    )
    async with open_server(settings) as server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


if __name__ == "__main__":
    faults = Path(sys.argv[4]) if sys.argv[4:] else None
    arguments = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), faults
    anyio.run(serve, *arguments, backend_options={"use_uvloop": True})
