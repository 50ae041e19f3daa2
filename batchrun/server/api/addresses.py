"""Which Run or storage a path means: by id, by name, or by way of a Run, perhaps the last of a task or an Actor."""

from batchrun.server.api.run_lists import last_run_id
from batchrun.server.call import Call
from batchrun.server.catalog import Actor
from batchrun.server.database import Database
from batchrun.server.faults import thing_missing
from batchrun.server.tables import storages
from batchrun.server.tables.runs import RunFilter
from batchrun.server.tables.storages import Kind, Storage

_DEFAULTS = {
    Kind.DATASET: ("defaultDatasetId", "Dataset"),
    Kind.KEY_VALUE_STORE: ("defaultKeyValueStoreId", "Key-value store"),
    Kind.REQUEST_QUEUE: ("defaultRequestQueueId", "Request queue"),
}
#: Where Runs are found: by id, or as the last of a task or Actor. All their shortcuts hang below.
RUN_PREFIXES = (
    "/v2/actor-runs/{run}",
    "/v2/actor-tasks/{task}/runs/last",
    "/v2/actors/{actor}/runs/last",
    "/v2/acts/{actor}/runs/last",
)


def actor_of(call: Call) -> Actor:
    """Return the Actor that the path names.

    Raises:
        Fault: 404.
    """
    if (actor := call.platform.catalog.find(call.path["actor"])) is None:
        raise thing_missing("Actor")
    return actor


async def run_id_of(call: Call) -> str:
    """Return the id of the Run that the path means.

    Raises:
        Fault: 404 when there is no last Run; an id is not looked up here.
    """
    if (run_id := call.path.get("run")) is not None:
        return run_id
    call.need_token()
    if (task := call.path.get("task")) is not None:
        return await last_run_id(call, RunFilter(task_id=call.platform.tasks.find(task)["id"]))
    return await last_run_id(call, RunFilter(act_id=actor_of(call).id))


async def storage_id_of(call: Call, kind: Kind) -> str:
    """Return the id of the storage that the path means; an id given as such is not looked up here.

    Raises:
        Fault: 404 for an unknown name or Run.
    """
    property_name, thing = _DEFAULTS[kind]
    address = call.path.get("storage")
    if address is None:
        doc = await call.platform.runs.read(await run_id_of(call))
        return str(doc[property_name])
    if "~" not in address:
        return address
    call.need_token()
    username, _, name = address.partition("~")
    if username.lower() not in ("", call.platform.settings.username.lower(), call.platform.user_id.lower()):
        raise thing_missing(thing)
    if (named := await call.platform.database.read(storages.read_named, kind, name)) is None:
        raise thing_missing(thing)
    return named.id


async def storage_of(call: Call, kind: Kind) -> Storage:
    """Return the storage that the path means.

    Raises:
        Fault: 404.
    """
    return await read_storage(call.platform.database, kind, await storage_id_of(call, kind))


async def read_storage(database: Database, kind: Kind, storage_id: str) -> Storage:
    """Return a storage of a kind by its id.

    Raises:
        Fault: 404, also for an id of another kind.
    """
    storage = await database.read(storages.read, storage_id)
    if storage is None or storage.kind is not kind:
        raise thing_missing(_DEFAULTS[kind][1])
    return storage
