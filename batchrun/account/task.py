"""The task a batch runs: looked up by id, or by its description and created where it is missing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from batchrun.account.connect import patiently
from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import task_options
from batchrun.config import TaskConfig
from batchrun.errors import ApiError, BatchRefused, ConfigError, NotFound, RateLimited, ServerFailed, TransportError
from batchrun.model import JsonObject, TaskId

RETRY_INTERVAL_S = 0.5


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
