"""`batchrun task create|get|run`: one API call each; the answer is JSON on stdout."""

import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from batchrun.account.connect import patiently
from batchrun.account.task import not_found_words
from batchrun.apify.client import ApifyClient, open_client
from batchrun.apify.wire import task_options
from batchrun.cli.event_loop import run_async
from batchrun.cli.json_output import print_json
from batchrun.cli.terminal import write_data
from batchrun.config import ApiConfig, LimitsConfig, load_api, read_token
from batchrun.errors import BatchRefused, ConfigError, ConnectFailed, NotFound, TransportError
from batchrun.model import JsonObject, Mark, RunOptions, TaskId, read_json, write_json
from batchrun.runtime.logs import silence


def create_task(
    actor: str, options: RunOptions, *, name: str | None, input_json: str | None, api_url: str | None
) -> None:
    """Create a task and print it."""
    task_input = _read_input(input_json)

    async def call(client: ApifyClient) -> JsonObject:
        found = await patiently(client, client.get_actor(actor))
        task: JsonObject = {"actId": found["id"], "options": task_options(options)}
        task |= {"name": name} if name is not None else {}
        task |= {"input": task_input} if task_input is not None else {}
        return await client.create_task(task)

    print_json(_call(api_url, actor, call), is_indented=True)


def print_task(task: str, *, api_url: str | None) -> None:
    """Print a task."""
    found = _call(api_url, task, lambda client: patiently(client, client.get_task(TaskId(task))))
    print_json(found, is_indented=True)


def run_task(task: str, options: RunOptions, *, input_json: str | None, is_sync: bool, api_url: str | None) -> None:
    """Start one Run of a task and print it; with `is_sync`, wait for its end and print its OUTPUT value."""
    body = write_json(_read_input(input_json) or {})
    if is_sync:
        _, value = _call(api_url, task, lambda client: client.run_task_sync(TaskId(task), body, options))
        write_data(value)
        return
    mark = Mark(secrets.token_hex(12))
    started = _call(api_url, task, lambda client: client.start_run(TaskId(task), body, options, mark))
    print_json(started.fields, is_indented=True)


def _read_input(text: str | None) -> JsonObject | None:
    if text is None:
        return None
    try:
        raw = Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()
        value = read_json(raw)
    except OSError as error:
        # What follows may be an input with a secret in it, not a file's name: it is not shown.
        raise ConfigError(f"--input: the file after @ cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"--input: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError('--input: must be a JSON object, like {"url": "https://example.com"}')
    return value


def _call(api_url: str | None, asked: str, call: Callable[[ApifyClient], Awaitable[Any]]) -> Any:
    """Make one call about the task or the Actor that is `asked` for."""
    api = load_api(api_url)
    if api.is_embedded:
        raise ConfigError(
            "an embedded server runs with a batch only, and has no task before; start `batchrun serve`, and give its"
            " address as --api-url"
        )
    return run_async(_call_once, api, asked, call)


async def _call_once(api: ApiConfig, asked: str, call: Callable[[ApifyClient], Awaitable[Any]]) -> Any:
    silence()
    async with open_client(
        api.base_url,
        read_token(api),
        request_rate_per_s=LimitsConfig().request_rate,
        allow_plain_http=api.allow_plain_http,
    ) as client:
        try:
            return await call(client)
        except NotFound as error:
            raise BatchRefused(await not_found_words(client, error, asked), error) from error
        except ConnectFailed:
            raise
        except TransportError as error:
            raise TransportError(f"{error}. If this was a start, a Run may exist: look at the task's Runs") from error
