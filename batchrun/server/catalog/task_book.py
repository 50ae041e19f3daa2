"""The tasks of all accounts: a few thousand at most, so they are in memory, and each change is stored."""

from collections.abc import Iterable
from typing import Any

from batchrun.model import JsonObject
from batchrun.server.accounts.accounts import ServerAccount
from batchrun.server.catalog.actor_catalog import Actor, Catalog
from batchrun.server.catalog.start_options import check_options
from batchrun.server.error_answers import ErrorAnswer, request_invalid, thing_missing
from batchrun.server.ids import MAX_NAME_LENGTH, check_name, iso, new_id, now_ms
from batchrun.server.store import task_table
from batchrun.server.store.database import Database

#: Properties that a caller may set besides input, name and options, each with its type.
_PLAIN = {"title": str, "description": str, "actorStandby": dict, "isPublic": bool, "publicConfig": dict}

_KIND_NAMES = {str: "a string", dict: "an object", bool: "a boolean"}


class TaskBook:
    """Tasks by id and by name."""

    def __init__(
        self,
        database: Database,
        catalog: Catalog,
        docs: Iterable[JsonObject],
    ) -> None:
        self._database, self._catalog = database, catalog
        self._by_id = {doc["id"]: doc for doc in docs}
        self._by_name = {_name_key(doc): doc for doc in self._by_id.values()}

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
            "input": actor.input_schema.prefilled() if actor.input_schema else {},
        }
        self._change(doc, given, actor)
        return await self._keep(doc)

    async def update(self, doc: JsonObject, given: JsonObject) -> JsonObject:
        """Change the properties that are given. After an error nothing was changed."""
        changed = dict(doc)
        self._change(changed, given, self.actor_of(doc))
        changed["modifiedAt"] = iso(now_ms())
        return await self._keep(changed)

    async def delete(self, doc: JsonObject) -> None:
        await self._database.write(task_table.delete, doc["id"], then=lambda _: self._forget(doc["id"]))

    def count_run(self, doc: JsonObject) -> None:
        """Count a Run of a task. The count is stored with the task's next change."""
        doc["stats"] = {"totalRuns": doc["stats"]["totalRuns"] + 1, "lastRunStartedAt": iso(now_ms())}

    def _change(self, doc: JsonObject, given: JsonObject, actor: Actor) -> None:
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
        if given.get("input") is not None:
            doc["input"] = _checked("input", given["input"], dict)
        if "input" in given and actor.input_schema is not None and doc["input"]:
            actor.input_schema.check(actor.input_schema.filled(doc["input"]))

    def _free_name(self, account: ServerAccount, actor: Actor) -> str:
        stem = f"my-{actor.name}-task"[: MAX_NAME_LENGTH - 6]
        names = (stem if n == 0 else f"{stem}-{n}" for n in range(account.max_tasks + 1))
        return next(name for name in names if (account.id, name.lower()) not in self._by_name)

    async def _keep(self, doc: JsonObject) -> JsonObject:
        # The name is reserved before the write, so that two requests cannot both take it.
        old = self._by_id.get(doc["id"])
        self._forget(doc["id"])
        self._by_id[doc["id"]] = self._by_name[_name_key(doc)] = doc
        try:
            await self._database.write(task_table.put, doc)
        except Exception:
            self._forget(doc["id"])
            if old is not None:
                self._by_id[old["id"]] = self._by_name[_name_key(old)] = old
            raise
        return doc

    def _forget(self, task_id: str) -> None:
        if (doc := self._by_id.pop(task_id, None)) is not None:
            self._by_name.pop(_name_key(doc), None)


def _name_key(doc: JsonObject) -> tuple[str, str]:
    return doc["userId"], doc["name"].lower()


def _checked(name: str, value: Any, kind: type) -> Any:
    if value is not None and not isinstance(value, kind):
        raise request_invalid(f'Property "{name}" must be {_KIND_NAMES[kind]}')
    return value
