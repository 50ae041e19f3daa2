"""The platform a batch talks to: the Apify API, or batchrun's own server in this process; its account and its task."""

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.to_thread
from pydantic import SecretStr

from batchrun import server as embedded_server
from batchrun.apify.client import ApifyClient, open_client
from batchrun.apify.wire import AccountInfo, task_options
from batchrun.config import AccountLimitsConfig, ApiConfig, ServerConfig, TaskConfig, read_token
from batchrun.engine.limits.account_capacity import FIRST_SLOTS
from batchrun.errors import (
    ApiError,
    BatchRefused,
    ConfigError,
    ConnectFailed,
    NotFound,
    RateLimited,
    ServerFailed,
    TransportError,
    Unauthorized,
)
from batchrun.model import JsonObject, TaskId
from batchrun.policy.capacity import Allowance

if TYPE_CHECKING:
    from batchrun.server import InlineActor

#: How long a beginning waits for a platform that does not answer; later on, there is no limit.
PATIENCE_S = 30.0
RETRY_INTERVAL_S = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The task a batch runs."""

    id: TaskId
    #: As people know it: user/name, or its id.
    label: str
    input: JsonObject
    actor_id: str = ""
    #: As the API spells them.
    options: JsonObject = field(default_factory=dict)
    #: When it was last edited, as the API says it.
    modified_at: str | None = None

    @property
    def exists(self) -> bool:
        """Whether the platform has it; a described one may be yet to be created."""
        return bool(self.id)


@asynccontextmanager
async def open_platform(
    api: ApiConfig,
    *,
    environ: Mapping[str, str],
    request_rate_per_s: float,
    server: ServerConfig,
    server_dir: Path,
    inline_actors: "Mapping[str, InlineActor]",
) -> AsyncIterator[ApifyClient]:
    """Open a client of the configured platform; the embedded server lives as long as the context.

    Raises:
        ConfigError: the token's file, an Actor's directory or the file of faults cannot be used.
    """
    if not api.is_embedded:
        token = await anyio.to_thread.run_sync(read_token, api, environ)
        async with open_client(api.base_url, token, request_rate_per_s=request_rate_per_s) as client:
            yield client
        return
    settings = embedded_server.ServerSettings(
        data_dir=server_dir,
        actors=tuple(server.actors),
        inline_actors=inline_actors,
        max_concurrent_runs=server.max_concurrent_runs,
        max_total_memory_mb=server.max_total_memory_mb,
        faults=(
            await anyio.to_thread.run_sync(embedded_server.load_faults, server.faults)
            if server.faults is not None
            else None
        ),
    )
    async with (
        embedded_server.open_server(settings) as embedded,
        open_client(embedded.base_url, SecretStr(embedded.token), request_rate_per_s=request_rate_per_s) as client,
    ):
        yield client


async def read_account(client: ApifyClient) -> AccountInfo:
    """Read whose token this is.

    Raises:
        BatchRefused: the token is missing or wrong.
        ConnectFailed: the platform does not answer.
    """
    try:
        return await patiently(client, client.get_account())
    except Unauthorized as error:
        raise BatchRefused(
            f"the platform does not accept the token ({error.message}); set APIFY_TOKEN to the API token from"
            " the account's settings, under API & Integrations"
        ) from error
    except ApiError as error:
        raise BatchRefused(f"the platform does not tell whose token this is: {error}") from error


def slot_count(limits: AccountLimitsConfig, account: AccountInfo, ours: int) -> int:
    """Return how many Runs may be live: what was asked for, but no more than the account has; one is always ours."""
    wanted = limits.max_concurrent_runs
    if account.limits.max_concurrent_runs is None:
        return FIRST_SLOTS if wanted == "auto" else wanted
    allowed = allowance_of_runs(limits).update(account.limits.max_concurrent_runs, account.limits.live_runs or 0, ours)
    return allowed if wanted == "auto" else min(wanted, allowed)


def allowance_of_runs(limits: AccountLimitsConfig) -> Allowance:
    """Return what of the account's Runs is ours; who asks for a number has thought of what it leaves to others."""
    return Allowance(leave_free=limits.leave_free_runs if limits.max_concurrent_runs == "auto" else 0, least=1)


async def patiently(client: ApifyClient, answer: Awaitable[T]) -> T:
    """Wait for an answer that is asked for again and again, but not for ever: there may be no platform there.

    Raises:
        ConnectFailed: none came in time.
    """
    try:
        with anyio.fail_after(PATIENCE_S):
            return await answer
    except TimeoutError:
        raise ConnectFailed(
            f"{client.base_url} does not answer ({client.last_failure or 'no reason given'}); nothing was started."
            " Check the network and api.base_url, and run the same command again"
        ) from None


async def find_task(
    client: ApifyClient, config: TaskConfig, file: Path | None = None, *, is_created: bool = True
) -> Task:
    """Look the task up; a described one is created when it is missing, and never changed.

    Args:
        client: asks the platform.
        config: names or describes the task.
        file: the configuration, for messages.
        is_created: without, a described task that is missing is returned as it would be, with an empty id.

    Raises:
        BatchRefused: there is no such task or Actor, or it may not be read.
        ConfigError: the described task exists and is another.
    """
    try:
        return await patiently(client, _find_task(client, config, file, is_created=is_created))
    except NotFound as error:
        named = config.id if config.id is not None else f"{config.actor} ({config.name})"
        raise BatchRefused(f"the platform knows no task {named!r} for this token: {error.message}") from error
    except ApiError as error:
        if error.status == 400:
            raise ConfigError(f"the platform does not accept it: {error.message}", key="task", file=file) from error
        raise BatchRefused(f"the task cannot be had: {error}") from error


async def _find_task(client: ApifyClient, config: TaskConfig, file: Path | None, *, is_created: bool) -> Task:
    if config.id is not None:
        return read_task(await client.get_task(TaskId(config.id)), config.id)
    while True:
        try:
            return await _described_task(client, config, file, is_created=is_created)
        except (TransportError, ServerFailed, RateLimited):
            # The answer to the creation is lost; its name tells whether the task is there, and nothing was paid.
            await anyio.sleep(RETRY_INTERVAL_S)


async def _described_task(client: ApifyClient, config: TaskConfig, file: Path | None, *, is_created: bool) -> Task:
    assert config.actor is not None, "a described task names its Actor"
    assert config.name is not None, "a described task has a name"
    actor = await client.get_actor(config.actor)
    wanted: JsonObject = {"actId": actor["id"]}
    if config.input:
        wanted["input"] = config.input
    if options := task_options(config.options.as_options()):
        wanted["options"] = options
    try:
        found = await client.get_task(TaskId(f"~{config.name}"))
    except NotFound:
        described = {**wanted, "name": config.name}
        found = await client.create_task(described) if is_created else {**described, "id": ""}
    else:
        _refuse_differences(wanted, found, config.name, file)
    return read_task(found, config.name)


def read_task(fields: JsonObject, named: str) -> Task:
    """Return a task as the API describes it; `named` is its label where it has no name."""
    label = f"{fields['username']}/{fields['name']}" if fields.get("username") and fields.get("name") else named
    return Task(
        id=TaskId(fields["id"]),
        label=label,
        input=_dict(fields.get("input")),
        actor_id=str(fields.get("actId") or ""),
        options=_dict(fields.get("options")),
        modified_at=fields.get("modifiedAt"),
    )


def _dict(value: Any) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _refuse_differences(wanted: JsonObject, found: JsonObject, name: str, file: Path | None) -> None:
    differences = [
        f"{key}: here {wanted[key]!r}, there {found.get(key)!r}"
        for key in wanted
        if not _agrees(wanted[key], found.get(key))
    ]
    if differences:
        raise ConfigError(
            f"a task named {name!r} exists and is another ({'; '.join(differences)}). Nothing was changed:"
            " describe it as it is, name it by id, or choose another name",
            key="task",
            file=file,
        )


def _agrees(wanted: Any, found: Any) -> bool:
    """Whether what exists holds everything that is asked for; the platform adds properties of its own."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(_agrees(value, found.get(key)) for key, value in wanted.items())
    return bool(wanted == found)
