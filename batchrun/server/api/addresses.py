"""Which Actor, Run, build or storage a path means; what the caller may not see or change is refused."""

from dataclasses import replace

from batchrun.model import JsonObject, RunStatus
from batchrun.server.api.access_rights import BY_NAME, has_signature, may_read, refuse_anothers_run
from batchrun.server.catalog.actor_catalog import Actor
from batchrun.server.error_answers import (
    ErrorAnswer,
    not_permitted,
    thing_missing,
    token_missing,
    value_invalid,
)
from batchrun.server.routing.call import Call
from batchrun.server.store import build_table, run_table, storage_table
from batchrun.server.store.run_table import RunFilter
from batchrun.server.store.storage_table import Kind, Storage

_DEFAULTS = {
    Kind.DATASET: "defaultDatasetId",
    Kind.KEY_VALUE_STORE: "defaultKeyValueStoreId",
    Kind.REQUEST_QUEUE: "defaultRequestQueueId",
}
_STATUSES = frozenset(status.value for status in RunStatus)
#: Paths of a Run: by its id, or as the last Run of a task or Actor. Shortcuts to its storages are below them.
RUN_PREFIXES = (
    "/v2/actor-runs/{run}",
    "/v2/actor-tasks/{task}/runs/last",
    "/v2/actors/{actor}/runs/last",
    "/v2/acts/{actor}/runs/last",
)


def actor_of(call: Call) -> Actor:
    return find_actor(call, call.path["actor"])


def find_actor(call: Call, address: str) -> Actor:
    own_username = call.account.username if call.account is not None else ""
    actor = call.backend.catalog.find(address, own_username)
    if actor is None or not call.backend.accounts.may_use(actor.username, call.account):
        if call.account is None:  # before it is said whether there is one
            raise token_missing()
        raise _actor_missing(call, own_username)
    return actor


def _actor_missing(call: Call, own_username: str) -> ErrorAnswer:
    """Return the error for an unknown Actor. The owner of the directories is shown those that are left out."""
    missing = thing_missing("Actor")
    if (broken := call.backend.catalog.broken) and own_username == call.backend.settings.username:
        missing.message += f". Left out: {'; '.join(broken.values())}"
    return missing


async def run_id_of(call: Call) -> str:
    """Return the id of the Run that the path means. An id alone in the path is not looked up here."""
    if (run_id := call.path.get("run")) is not None:
        if "actor" in call.path:
            doc = await call.backend.runs.read(run_id)
            refuse_anothers_run(call, doc)  # before it is said whether it is this Actor's
            if doc["actId"] != actor_of(call).id:
                raise thing_missing("Actor run")
        return run_id
    user = call.user
    if (task := call.path.get("task")) is not None:
        return await last_run_id(call, RunFilter(task_id=call.backend.tasks.find(task, user)["id"]))
    return await last_run_id(call, RunFilter(user_id=user.id, act_id=actor_of(call).id))


async def last_run_id(call: Call, run_filter: RunFilter) -> str:
    """Return the id of the last started Run, filtered by `status` and `origin`."""
    chosen = replace(run_filter, statuses=statuses_of(call))
    async with call.backend.searching.turn(call.who):
        run_id = await call.backend.database.read(run_table.read_last, chosen, call.query.text("origin"))
    if run_id is None:
        raise thing_missing("Actor run")
    return run_id


def statuses_of(call: Call) -> tuple[str, ...]:
    """Return the statuses that a list is filtered by; empty means all."""
    names = tuple(call.query.names("status"))
    if unknown := [name for name in names if name not in _STATUSES]:
        raise value_invalid(f"Parameter status must hold Run statuses separated by commas, not {unknown[0]}")
    return names


async def own_run_id_of(call: Call) -> str:
    """Return the id of the Run that the path means, for an operation that only its owner may do."""
    run_id = await run_id_of(call)
    if not call.is_by(await call.backend.runs.owner_of(run_id)):
        raise not_permitted("Actor run")
    return run_id


async def storage_id_of(call: Call, kind: Kind) -> str:
    """Return the id of the storage that the path means. An id in the path is not looked up here."""
    address = call.path.get("storage")
    if address is None:
        doc = await call.backend.runs.read(await run_id_of(call))
        storage_id = str(doc[_DEFAULTS[kind]])
        if not has_signature(call, storage_id, call.path.get("key")):
            refuse_anothers_run(call, doc)
        return storage_id
    if "~" not in address:
        return address
    username, _, name = address.partition("~")
    owner = call.backend.accounts.named(username) if username else call.user
    read = call.backend.database.read
    named = await read(storage_table.read_named, kind, owner.id, name) if owner is not None else None
    if named is not None and named.access == BY_NAME:
        return named.id
    if call.account is None:  # before it is said whether there is one
        raise token_missing()
    if named is None or call.account is not owner:
        raise thing_missing(kind.thing)
    return named.id


async def storage_of(call: Call, kind: Kind, *, takes_signature: bool = False) -> Storage:
    """Return the storage that the path means, to be read."""
    return await read_storage(call, kind, await storage_id_of(call, kind), takes_signature=takes_signature)


async def own_storage_of(call: Call, kind: Kind) -> Storage:
    """Return the storage that the path means, to be changed."""
    storage = await storage_of(call, kind)
    if not call.is_by(storage.user_id):
        raise not_permitted(kind.thing.lower())
    return storage


async def read_storage(call: Call, kind: Kind, storage_id: str, *, takes_signature: bool = False) -> Storage:
    """Return a storage of this kind. Unless access is restricted, the id is permission to read it."""
    storage = await call.backend.database.read(storage_table.read, storage_id)
    if storage is None or storage.kind is not kind:
        raise thing_missing(kind.thing)
    is_permitted = may_read(call, storage.access, storage.user_id)
    if not (is_permitted or (takes_signature and has_signature(call, storage_id))):
        raise not_permitted(kind.thing.lower())
    return storage


async def read_build(call: Call, build_id: str) -> JsonObject:
    doc = await call.backend.database.read(build_table.read, build_id)
    # A build's id follows from names, so it is no credential: only the owner sees builds of an account's Actors.
    owner = call.backend.accounts.get(doc["userId"]) if doc is not None else None
    if doc is None or (owner is not None and owner is not call.account):
        raise thing_missing("Build")
    return doc
