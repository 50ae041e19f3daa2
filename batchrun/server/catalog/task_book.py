"""The tasks of all accounts: a few thousand at most, so they are in memory, and each change is stored.

Their inputs are kept as JSON: parsed, an input of 9 MB could take 190.
"""

from collections.abc import Callable, Iterable
from typing import Any

import orjson

from batchrun.model import JsonObject
from batchrun.runtime.free_memory import parsed_bytes
from batchrun.server.accounts.accounts import ServerAccount
from batchrun.server.catalog.actor_catalog import Actor, Catalog
from batchrun.server.catalog.start_options import check_options
from batchrun.server.content.request_bodies import check_size
from batchrun.server.error_answers import ErrorAnswer, request_invalid, thing_missing
from batchrun.server.ids import iso, new_id, now_ms
from batchrun.server.names import MAX_NAME_LENGTH, check_name
from batchrun.server.store import task_table
from batchrun.server.store.database import Database

#: Properties that a caller may set besides input, name and options, each with its type.
_PLAIN = {"title": str, "description": str, "actorStandby": dict, "isPublic": bool, "publicConfig": dict}

#: Max bytes of memory that the tasks of one account take, by reckoning.
_MAX_BYTES = 256 << 20

_KIND_NAMES = {str: "a string", dict: "an object", bool: "a boolean"}


class TaskBook:
    """Tasks by id and by name.

    Args:
        database: has them, too.
        catalog: of their Actors.
        tasks: all of them, each without its input, and the input as JSON.
    """

    def __init__(self, database: Database, catalog: Catalog, tasks: Iterable[tuple[JsonObject, bytes]]) -> None:
        self._database, self._catalog = database, catalog
        self._by_id: dict[str, JsonObject] = {}
        self._by_name: dict[tuple[str, str], JsonObject] = {}
        self._inputs: dict[str, bytes] = {}
        #: Bytes of memory, by reckoning.
        self._sizes: dict[str, int] = {}
        for doc, input_ in tasks:
            self._hold(doc, input_)

    def input_of(self, doc: JsonObject) -> bytes:
        """Return a task's input, a JSON object."""
        if (found := self._inputs.get(doc["id"])) is None:  # it was deleted meanwhile
            raise thing_missing("Actor task")
        return found

    def whole(self, doc: JsonObject) -> JsonObject:
        """Return a task with its input, to be written as JSON."""
        return {**doc, "input": orjson.Fragment(self.input_of(doc))}

    def of_account(self, account: ServerAccount) -> list[JsonObject]:
        """Return an account's tasks, oldest first."""
        return [doc for doc in self._by_id.values() if doc["userId"] == account.id]

    def find(self, address: str, account: ServerAccount) -> JsonObject:
        """Return the account's task with this id, `username~name` or `~name`. Tasks of others are not found."""
        doc = self._by_id.get(address)
        username, tilde, name = address.replace("/", "~").partition("~")
        if doc is None and tilde and username.lower() in ("", account.username.lower(), account.id.lower()):
            doc = self._by_name.get((account.id, name.lower()))
        if doc is None or doc["userId"] != account.id:
            raise thing_missing("Actor task")
        return doc

    def actor_of(self, doc: JsonObject) -> Actor:
        if (actor := self._catalog.find(doc["actId"])) is None:
            raise thing_missing("Actor")
        return actor

    async def create(self, account: ServerAccount, actor: Actor, given: JsonObject) -> JsonObject:
        """Create a task. After an error nothing was created."""
        if len(self.of_account(account)) >= account.max_tasks:
            message = f"You have reached the limit of {account.max_tasks} Actor tasks"
            raise ErrorAnswer(403, "too-many-actor-tasks", message)
        at = iso(now_ms())
        doc: JsonObject = {
            "id": new_id(),
            "userId": account.id,
            "actId": actor.id,
            "name": given["name"] if given.get("name") is not None else self._free_name(account, actor),
            "username": account.username,
            "createdAt": at,
            "modifiedAt": at,
            "stats": {"totalRuns": 0},
            "options": {},
        }
        prefilled = actor.input_schema.prefilled() if actor.input_schema else {}
        self._change(doc, given)
        return await self._keep(doc, _input_in(given, actor) or orjson.dumps(prefilled), task_table.insert)

    async def update(self, doc: JsonObject, given: JsonObject) -> JsonObject:
        """Change the properties that are given. After an error nothing was changed."""
        changed = dict(doc)
        self._change(changed, given)
        changed["modifiedAt"] = iso(now_ms())
        input_ = _input_in(given, self.actor_of(doc)) or self.input_of(doc)
        return await self._keep(changed, input_, task_table.update)

    async def delete(self, doc: JsonObject) -> None:
        await self._database.write(task_table.delete, doc["id"], then=lambda _: self._forget(doc["id"]))

    def count_run(self, doc: JsonObject) -> None:
        """Count a Run of a task. The count is stored with the task's next change."""
        doc["stats"] = {"totalRuns": doc["stats"]["totalRuns"] + 1, "lastRunStartedAt": iso(now_ms())}

    def _change(self, doc: JsonObject, given: JsonObject) -> None:
        if given.get("name") is not None:
            doc["name"] = check_name(given["name"], "Actor task", min_length=3)
        holder = self._by_name.get(_name_key(doc))
        if holder is not None and holder["id"] != doc["id"]:
            raise ErrorAnswer(409, "actor-task-name-not-unique", f"Actor task with name {doc['name']} already exists")
        for name, kind in _PLAIN.items():
            if name in given:
                doc[name] = _checked(name, given[name], kind)
        if "options" in given:
            doc["options"] = check_options(given["options"])

    def _free_name(self, account: ServerAccount, actor: Actor) -> str:
        stem = f"my-{actor.name}-task"[: MAX_NAME_LENGTH - 6]
        names = (stem if n == 0 else f"{stem}-{n}" for n in range(account.max_tasks + 1))
        return next(name for name in names if (account.id, name.lower()) not in self._by_name)

    async def _keep(self, doc: JsonObject, input_: bytes, store: Callable[..., None]) -> JsonObject:
        old = self._by_id.get(doc["id"])
        old_input = self._inputs.get(doc["id"], b"")
        if input_ != old_input:
            check_size(input_)
        self._check_size(doc, _size(doc, input_))
        # The name is reserved before the write, so that two requests cannot both take it.
        self._forget(doc["id"])
        self._hold(doc, input_)
        try:
            await self._database.write(store, doc, input_)
        except Exception as error:
            self._forget(doc["id"])
            if old is not None and not isinstance(error, ErrorAnswer):  # else it was deleted meanwhile
                self._hold(old, old_input)
            raise
        return doc

    def _check_size(self, doc: JsonObject, size: int) -> None:
        """Refuse a task that is to grow, if those of its account would take too much memory."""
        of_account = sum(self._sizes[each["id"]] for each in self._by_id.values() if each["userId"] == doc["userId"])
        old_size = self._sizes.get(doc["id"], 0)
        if size > old_size and of_account - old_size + size > _MAX_BYTES:
            message = f"The Actor tasks of an account may take up to {_MAX_BYTES >> 20} MB of memory together"
            raise ErrorAnswer(403, "too-many-actor-tasks", message)

    def _hold(self, doc: JsonObject, input_: bytes) -> None:
        self._by_id[doc["id"]] = self._by_name[_name_key(doc)] = doc
        self._inputs[doc["id"]], self._sizes[doc["id"]] = input_, _size(doc, input_)

    def _forget(self, task_id: str) -> None:
        self._inputs.pop(task_id, None)
        self._sizes.pop(task_id, None)
        if (doc := self._by_id.pop(task_id, None)) is not None:
            self._by_name.pop(_name_key(doc), None)


def _size(doc: JsonObject, input_: bytes) -> int:
    return parsed_bytes(orjson.dumps(doc)) + len(input_)


def _input_in(given: JsonObject, actor: Actor) -> bytes | None:
    """Return the input that a caller sets, as JSON; None: none is set."""
    value = _checked("input", given.get("input"), dict)
    if value and actor.input_schema is not None:
        actor.input_schema.check(actor.input_schema.filled(value))
    return None if value is None else orjson.dumps(value)


def _name_key(doc: JsonObject) -> tuple[str, str]:
    return doc["userId"], doc["name"].lower()


def _checked(name: str, value: Any, kind: type) -> Any:
    if value is not None and not isinstance(value, kind):
        raise request_invalid(f'Property "{name}" must be {_KIND_NAMES[kind]}')
    return value
