"""What every command that talks to a worker has in common: a client for it, and how its answer is printed."""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import typer

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.config import parse_setting
from batchrun.model import JsonObject
from batchrun.worker.worker_client import WorkerClient, find_door, open_client


def ask(data: Path, url: str | None, function: Callable[[WorkerClient], Awaitable[ExitCode | None]]) -> None:
    """Run a function with a client for the worker that is meant, and leave with its exit code."""
    raise typer.Exit(run_async(_ask, data, url, function))


async def _ask(data: Path, url: str | None, function: Callable[[WorkerClient], Awaitable[ExitCode | None]]) -> ExitCode:
    async with _client(data, url) as client:
        return await function(client) or ExitCode.SUCCEEDED


@asynccontextmanager
async def _client(data: Path, url: str | None) -> AsyncIterator[WorkerClient]:
    async with open_client(partial(find_door, data, url, os.environ)) as client:
        yield client


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout, indented."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    sys.stdout.buffer.write(orjson.dumps(value, option=options))
    sys.stdout.flush()


def parse_changes(settings: list[str]) -> JsonObject:
    """Return `key=value` texts as an object; `none` is null."""
    parsed = [parse_setting(each) for each in settings]
    return {key: None if value == "none" else value for key, value in parsed}
