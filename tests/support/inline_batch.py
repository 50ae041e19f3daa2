"""A batch and the embedded server that it runs against, both in the test's process and in its directory."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from batchrun import load_config
from batchrun.config import Config
from batchrun.server import InlineActor, Server, ServerSettings, open_server
from tests.support.json_lines import to_lines

ACTOR = "test/worker"
TOKEN = "test-token"
ENVIRON = {"APIFY_TOKEN": TOKEN}


@asynccontextmanager
async def serving(tmp_path: Path, work: InlineActor, **settings: Any) -> AsyncIterator[Server]:
    """Open a server whose Actor ACTOR is a coroutine function; few batches reach its limits."""
    given = {"max_concurrent_runs": 1000, "max_total_memory_mb": 1_000_000, **settings}
    async with open_server(
        ServerSettings(data_dir=tmp_path / "api", token=TOKEN, inline_actors={ACTOR: work}, **given)
    ) as server:
        yield server


def batch_config(tmp_path: Path, server: Server, lines: Iterable[Any], **flags: Any) -> Config:
    """Write a job file of these lines, and return a configuration; flags with `__` for the dot."""
    (tmp_path / "jobs.jsonl").write_bytes(
        b"".join(line if isinstance(line, bytes) else to_lines([line]) for line in lines)
    )
    given = {
        "api.base_url": server.base_url,
        "task.actor": ACTOR,
        "task.name": "test",
        "jobs.file": str(tmp_path / "jobs.jsonl"),
        "output.dir": str(tmp_path / "out"),
        **{key.replace("__", "."): value for key, value in flags.items()},
    }
    return load_config(flags=given, environ={})
