"""A call to a worker from a command: its client, its arguments, and its answer as JSON."""

import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import typer

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.config import parse_setting
from batchrun.model import JsonObject
from batchrun.worker.worker_client import WorkerClient, find_worker, open_client

#: What a command does with a worker's client; None as its exit code is success.
Call = Callable[[WorkerClient], Awaitable[ExitCode | None]]


def call_worker(data: Path, url: str | None, call: Call) -> None:
    """Call the worker at `url`, or the one on the data directory, and exit with the call's exit code."""
    raise typer.Exit(run_async(_call, data, url, call))


async def _call(data: Path, url: str | None, call: Call) -> ExitCode:
    async with open_client(partial(find_worker, data, url, os.environ)) as client:
        return await call(client) or ExitCode.SUCCEEDED


def print_json(value: Any) -> None:
    """Print a value as indented JSON on stdout."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    sys.stdout.buffer.write(orjson.dumps(value, option=options))
    sys.stdout.flush()


def parse_changes(settings: list[str]) -> JsonObject:
    """Return `key=value` texts as an object; the value `none` is null."""
    parsed = [parse_setting(each) for each in settings]
    return {key: None if value == "none" else value for key, value in parsed}
