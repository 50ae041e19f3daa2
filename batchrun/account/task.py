"""The task of a batch: found by id, or by its description, which may create it."""

from dataclasses import field, replace
from typing import Any

import anyio

from batchrun.account.connect import patiently
from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import name_in, task_options
from batchrun.config import TaskConfig
from batchrun.errors import ApiError, BatchRefused, ConfigError, NotFound, RateLimited, ServerFailed, TransportError
from batchrun.model import JsonObject, TaskId
from batchrun.runtime.fast_dataclasses import dataclass

#: Seconds between two tries to find or create a described task.
RETRY_INTERVAL_S = 0.5
#: Names of tasks or Actors that a message lists, those most like the missing one first.
NAMES_SHOWN = 8
#: Longest wait for that list, in seconds.
NAMES_PATIENCE_S = 5.0
#: The API's error type when a task of this name exists.
_NAME_TAKEN = "actor-task-name-not-unique"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The task of a batch."""

    #: Empty: the described task does not exist yet.
    id: TaskId
    #: Its name for people: user/name, or its id.
    label: str
    input: JsonObject
    actor_id: str = ""
    #: Run options in the API's spelling.
    options: JsonObject = field(default_factory=dict)
    #: Time of the last edit, as the API writes it.
    modified_at: str | None = None
    #: False: the token may run the task and not read it, or the platform does not know it any more.
    is_read: bool = True
    #: Why the Runs of a batch that has begun are followed and no further one is started; empty: they are started.
    gone: str = ""

    @property
    def exists(self) -> bool:
        """True if the platform has the task."""
        return bool(self.id)


async def find_task(
    client: ApifyClient,
    config: TaskConfig,
    *,
    begun_with: TaskId | None = None,
    is_created: bool = True,
) -> Task:
    """Find the task; a described task is created if it is missing, and never changed.

    Args:
        client: the platform.
        config: the task's id or description.
        begun_with: the task of a batch that has begun. It is not created again; if it was deleted or renamed, it is
            returned as `gone`.
        is_created: False: a described task that is missing is not created, and returned with an empty id.

    Raises:
        BatchRefused: there is no such task or Actor, or the token may not read it.
        ConfigError: a task of this name exists and differs from the description.
    """
    named = config.id if config.id is not None else f"{config.actor} ({config.name})"
    is_created = is_created and begun_with is None
    try:
        task = await patiently(client, _find_task(client, config, is_created=is_created))
    except NotFound as error:
        if begun_with is not None:
            return await patiently(client, _task_gone(client, named, begun_with))
        raise BatchRefused(await not_found_words(client, error, config.id or config.actor or "")) from error
    except ApiError as error:
        if error.status == 400:
            raise ConfigError(f"the platform does not accept it: {error.message}", key="task") from error
        known = begun_with or _id_in(config)
        if error.status == 403 and known:
            return Task(id=known, label=named, input={}, is_read=False)
        advice = "; give the task's id, with which it can be run without being read" if error.status == 403 else ""
        raise BatchRefused(f"the task cannot be read: {error}{advice}", error) from error
    if begun_with is not None and not task.exists:
        return await patiently(client, _task_gone(client, named, begun_with))
    return task


async def not_found_words(client: ApifyClient, error: NotFound, asked: str) -> str:
    """Return that there is no such task or Actor, and which ones the account has, as far as the token may list them."""
    is_task = "/actor-tasks" in error.path
    kind = "task" if is_task else "Actor"
    missing = f"the platform knows no {kind} {asked!r} for this token"
    with anyio.move_on_after(NAMES_PATIENCE_S):
        try:
            names = await (client.list_tasks() if is_task else client.list_actors())
        except ApiError:
            return missing
        if not names:
            return f"{missing}, and the account has no {kind}"
        from difflib import SequenceMatcher  # noqa: PLC0415 - only this error needs it

        near = sorted(names, key=lambda name: -SequenceMatcher(None, asked.replace("~", "/"), name).ratio())
        more = f" and {len(near) - NAMES_SHOWN:,} more" if len(near) > NAMES_SHOWN else ""
        return f"{missing}. The account has {', '.join(near[:NAMES_SHOWN])}{more}"
    return missing


def _id_in(config: TaskConfig) -> TaskId | None:
    """Return a configured id that is no name. Names are not ids: Runs name their task by its id."""
    return TaskId(config.id) if config.id is not None and config.id.isalnum() else None


async def _task_gone(client: ApifyClient, named: str, task_id: TaskId) -> Task:
    """Return the task of a batch that has begun, which is not found any more as it is configured."""
    try:
        task = read_task(await client.get_task(task_id), task_id)
    except ApiError as error:
        gone = (
            f"the platform does not know the task {named!r} any more, with which this batch was begun ({error})."
            " Without it no further Run can be started"
        )
        return Task(id=task_id, label=named, input={}, is_read=False, gone=gone)
    gone = f"the task {named!r} was renamed: it is {task.label} now. `--task {task_id}` (task.id) goes on with it"
    return replace(task, gone=gone)


async def _find_task(client: ApifyClient, config: TaskConfig, *, is_created: bool) -> Task:
    if config.id is not None:
        return read_task(await client.get_task(TaskId(config.id)), config.id)
    while True:
        try:
            return await _described_task(client, config, is_created=is_created)
        except (TransportError, ServerFailed, RateLimited):
            # A lost answer may have created the task. The next try finds it by its name; creating one costs nothing.
            await anyio.sleep(RETRY_INTERVAL_S)


async def _described_task(client: ApifyClient, config: TaskConfig, *, is_created: bool) -> Task:
    assert config.actor is not None, "a described task names its Actor"
    assert config.name is not None, "a described task has a name"
    actor = await client.get_actor(config.actor)
    wanted: JsonObject = {"actId": actor["id"]}
    if config.input:
        wanted["input"] = config.input
    if options := task_options(config.options.as_options()):
        wanted["options"] = options
    by_name = TaskId(f"~{config.name}")
    try:
        found = await client.get_task(by_name)
    except NotFound:
        described = {**wanted, "name": config.name}
        if not is_created:
            return read_task({**described, "id": ""}, config.name)
        try:
            return read_task(await client.create_task(described), config.name)
        except ApiError as error:
            if error.type != _NAME_TAKEN:
                raise
            found = await client.get_task(by_name)  # another batch has created it meanwhile
    _refuse_differences(wanted, found, config.name)
    return read_task(found, config.name)


def read_task(fields: JsonObject, named: str) -> Task:
    """Return the task of an API object; `named` is the label of a task without a name."""
    username, name = name_in(fields, "username"), name_in(fields, "name")
    label = f"{username}/{name}" if username and name else named
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


def _refuse_differences(wanted: JsonObject, found: JsonObject, name: str) -> None:
    # Values of the input are left out, since they may be secrets.
    differences = [
        f"{key}: " + (_names(value, found.get(key)) if key == "input" else f"here {value!r}, there {found.get(key)!r}")
        for key, value in wanted.items()
        if not _agrees(value, found.get(key))
    ]
    if differences:
        raise ConfigError(
            f"a task named {name!r} exists and differs ({'; '.join(differences)}). Nothing was changed:"
            " describe it as it is, give its id, or choose another name",
            key="task",
        )


def _names(wanted: JsonObject, found: Any) -> str:
    there = _dict(found)
    return ", ".join(name for name, value in wanted.items() if not _agrees(value, there.get(name)))


def _agrees(wanted: Any, found: Any) -> bool:
    """True if an existing value holds everything that is described; the platform may add properties."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(_agrees(value, found.get(key)) for key, value in wanted.items())
    return bool(wanted == found)
