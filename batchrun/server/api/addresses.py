"""Which Actor, Run, build or storage a path means, and whether the caller may see or change it."""

from dataclasses import replace

from batchrun.model import JsonObject, RunStatus
from batchrun.server.catalog.actor_catalog import Actor
from batchrun.server.content.url_signatures import is_signature_of
from batchrun.server.error_answers import (
    ErrorAnswer,
    not_permitted,
    request_invalid,
    thing_missing,
    token_missing,
    value_invalid,
)
from batchrun.server.ids import now_ms
from batchrun.server.routing.call import Call
from batchrun.server.runs.hosted_run import HostedRun
from batchrun.server.store import build_table, run_table, storage_table
from batchrun.server.store.run_table import RunFilter
from batchrun.server.store.storage_table import Kind, Storage

_DEFAULTS = {
    Kind.DATASET: "defaultDatasetId",
    Kind.KEY_VALUE_STORE: "defaultKeyValueStoreId",
    Kind.REQUEST_QUEUE: "defaultRequestQueueId",
}
#: General access in the API's words: only the owner may read; anyone who knows the name may read.
_RESTRICTED, _BY_NAME = "RESTRICTED", "ANYONE_WITH_NAME_CAN_READ"
DEFAULT_ACCESS = "FOLLOW_USER_SETTING"
_ACCESS = (DEFAULT_ACCESS, "ANYONE_WITH_ID_CAN_READ", _BY_NAME, _RESTRICTED)
_STATUSES = frozenset(status.value for status in RunStatus)
#: Paths of a Run: by its id, or as the last Run of a task or Actor. Shortcuts to its storages are below them.
RUN_PREFIXES = (
    "/v2/actor-runs/{run}",
    "/v2/actor-tasks/{task}/runs/last",
    "/v2/actors/{actor}/runs/last",
    "/v2/acts/{actor}/runs/last",
)


def access_of(given: JsonObject) -> str | None:
    """Return the general access that a body sets; None if it sets none."""
    access = given.get("generalAccess")
    if access is not None and access not in _ACCESS:
        raise request_invalid(f'Property "generalAccess" must be one of {", ".join(_ACCESS)}')
    return access


def actor_of(call: Call) -> Actor:
    return find_actor(call, call.path["actor"])


def find_actor(call: Call, address: str) -> Actor:
    own_username = call.account.username if call.account is not None else ""
    actor = call.backend.catalog.find(address, own_username)
    if actor is None or not call.backend.accounts.may_use(actor.username, call.account):
        if actor is not None and call.account is None:
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
    if owner is None:
        raise thing_missing(kind.thing)
    named = await call.backend.database.read(storage_table.read_named, kind, owner.id, name)
    if named is not None and named.access == _BY_NAME:
        return named.id
    if named is None or call.user is not owner:
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


def may_read(call: Call, access: str | None, owner_id: str) -> bool:
    """True if the caller may read a thing: its owner always, others unless its access or its owner's is restricted."""
    if call.is_by(owner_id):
        return True
    if access in (None, DEFAULT_ACCESS):
        # The owner may be no account any more. The server's own setting decides then.
        owner = call.backend.accounts.get(owner_id) or call.backend.settings
        return not owner.is_restricted
    return access != _RESTRICTED


def may_follow(call: Call, live: HostedRun) -> bool:
    """True if the caller may read on in a live Run: the Run that calls may have ended, or access been restricted."""
    has_ended = call.live is not None and call.live.is_ended
    return not has_ended and may_read(call, live.doc["generalAccess"], live.doc["userId"])


def refuse_anothers_run(call: Call, doc: JsonObject) -> None:
    if not may_read(call, doc["generalAccess"], doc["userId"]):
        raise not_permitted("Actor run")


def has_signature(call: Call, storage_id: str, key: str | None = None) -> bool:
    """True if the URL carries a valid signature of a storage, or of its record `key`."""
    if (signature := call.query.text("signature")) is None:
        return False
    return is_signature_of(signature, call.backend.tokens.signing_key_of(storage_id), storage_id, key, now_ms())


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
