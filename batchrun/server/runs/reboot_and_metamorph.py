"""What a running Run's owner may do to it: restart it, or turn it into another Actor's."""

from batchrun.model import JsonObject
from batchrun.server.catalog.actor_catalog import Actor
from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.runs.hosted_run import HostedRun, store_live
from batchrun.server.runs.run_object import MAX_METAMORPHS, metamorphosed
from batchrun.server.store import stored_value_table
from batchrun.server.store.database import Database


async def reboot(database: Database, live: HostedRun) -> JsonObject:
    """Restart the Actor, with the same storages."""
    live.doc["stats"] = live.doc["stats"] | {"rebootCount": live.doc["stats"]["rebootCount"] + 1}
    await store_live(database, live)
    live.restart()
    return live.doc


async def metamorph(
    database: Database, live: HostedRun, actor: Actor, stored_input: tuple[str, bytes] | None
) -> JsonObject:
    """Go on as a Run of another Actor, with the same storages and a new input (content type and bytes)."""
    if len(live.doc.get("metamorphs") or ()) >= MAX_METAMORPHS:
        message = f"A run can be metamorphed at most {MAX_METAMORPHS} times"
        raise ErrorAnswer(400, "max-metamorphs-exceeded", message)
    changes, key = metamorphosed(live.doc, actor)
    live.doc |= changes
    live.actor, live.input_key = actor, key
    live.input_body = stored_input[1] if stored_input and not live.is_process else None
    if stored_input is not None:
        store_id, user_id = live.doc["defaultKeyValueStoreId"], live.doc["userId"]
        await database.write(stored_value_table.put, store_id, user_id, key, *stored_input)
    await store_live(database, live)
    live.restart()
    return live.doc
