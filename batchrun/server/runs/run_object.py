"""The JSON object of a Run, new and at each later step. Pure except for ids and the wall clock."""

from batchrun.model import JsonObject, RunStatus
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.server import prices
from batchrun.server.catalog.actor_catalog import Actor
from batchrun.server.ids import iso, new_id, now_ms, parse_iso
from batchrun.server.store.storage_table import Kind

#: Events that the platform charges itself, if the Actor prices them: at each start, one per GB of memory; and for each
#: item in the default dataset. Source: pay per event, "Synthetic events".
START_EVENT, ITEM_EVENT = "apify-actor-start", "apify-default-dataset-item"
#: Max metamorphs of one Run. Source: account limits.
MAX_METAMORPHS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrder:
    """A merged and checked start request, from which a Run is made."""

    user_id: str
    actor: Actor
    task_id: str | None
    #: By their names in the API.
    options: JsonObject
    webhooks: list[JsonObject]
    #: Content type and bytes; None: no input.
    stored_input: tuple[str, bytes] | None
    origin: str
    client_ip: str | None
    user_agent: str | None
    #: What began the chain of webhooks to which it belongs; None: no webhook has led to it.
    chain: str | None = None
    #: Seconds that the Run stays READY.
    ready_s: float = 0.0


def new_doc(order: RunOrder, started_ms: int) -> JsonObject:
    return {
        "id": new_id(),
        "actId": order.actor.id,
        "userId": order.user_id,
        "actorTaskId": order.task_id,
        "startedAt": iso(started_ms),
        "finishedAt": None,
        "status": RunStatus.READY.value,
        "statusMessage": None,
        "isStatusMessageTerminal": None,
        "meta": {"origin": order.origin, "clientIp": order.client_ip, "userAgent": order.user_agent},
        "stats": {
            "inputBodyLen": len(order.stored_input[1]) if order.stored_input else 0,
            "migrationCount": 0,
            "rebootCount": 0,
            "restartCount": 0,
            "resurrectCount": 0,
            "metamorph": 0,
            "computeUnits": 0,
        },
        "options": order.options | {"diskMbytes": order.options["memoryMbytes"] * 2},
        "buildId": order.actor.build_id,
        "buildNumber": order.actor.build_number,
        "exitCode": None,
        "generalAccess": "FOLLOW_USER_SETTING",
        **_storages(order.actor),
        "usageTotalUsd": 0,
        **_pricing(order.actor, started_ms, order.options["memoryMbytes"]),
    }


def _storages(actor: Actor) -> JsonObject:
    """Return the ids of a new Run's storages: the three default ones, and those that actor.json names."""
    ids = {kind: {alias: new_id() for alias in ("default", *named)} for kind, named in actor.storage_aliases.items()}
    return {
        "defaultKeyValueStoreId": ids[Kind.KEY_VALUE_STORE.plural]["default"],
        "defaultDatasetId": ids[Kind.DATASET.plural]["default"],
        "defaultRequestQueueId": ids[Kind.REQUEST_QUEUE.plural]["default"],
        "storageIds": ids,
    }


def _pricing(actor: Actor, started_ms: int, memory_mb: int) -> JsonObject:
    """Return the prices and charges of a new Run of a pay-per-event Actor; empty for other Actors."""
    if not actor.charge_events:
        return {}
    return {
        "pricingInfo": prices.pricing_info(actor.charge_events, iso(started_ms)),
        "chargedEventCounts": _with_start(dict.fromkeys(actor.charge_events, 0), memory_mb),
    }


def _with_start(counts: dict[str, int], memory_mb: int) -> dict[str, int]:
    """Return the counts of events after one more start."""
    return counts | ({START_EVENT: counts[START_EVENT] + max(memory_mb // 1024, 1)} if START_EVENT in counts else {})


def metamorphosed(doc: JsonObject, actor: Actor) -> tuple[JsonObject, str]:
    """Return the changes of a Run that becomes one of `actor`, and the key of its new input."""
    metamorphs = list(doc.get("metamorphs") or [])
    key = f"INPUT-METAMORPH-{len(metamorphs) + 1}"
    entry = {"createdAt": iso(now_ms()), "actorId": actor.id, "buildId": actor.build_id, "inputKey": key}
    stats = doc["stats"] | {"metamorph": len(metamorphs) + 1}
    return {"metamorphs": [*metamorphs, entry], "stats": stats}, key


def current_part(doc: JsonObject) -> tuple[str, str]:
    """Return the id of the Run's current Actor and the key of its current input; a metamorph changes both."""
    metamorphs = doc.get("metamorphs")
    return (metamorphs[-1]["actorId"], metamorphs[-1]["inputKey"]) if metamorphs else (doc["actId"], "INPUT")


def resurrected(doc: JsonObject, options: JsonObject) -> JsonObject:
    changed = doc["options"] | options
    counts = doc.get("chargedEventCounts")
    charges = {} if counts is None else {"chargedEventCounts": _with_start(counts, changed["memoryMbytes"])}
    return {
        **doc,
        **charges,
        "options": changed,
        "stats": doc["stats"] | {"resurrectCount": doc["stats"]["resurrectCount"] + 1},
        "finishedAt": None,
        "exitCode": None,
        "statusMessage": None,
        "isStatusMessageTerminal": None,
    }


def migrated_extras(doc: JsonObject, extras: JsonObject, alive_ms: int) -> JsonObject:
    """Return the extras of a Run whose server process has died, with its run time up to `alive_ms`."""
    begun_ms = extras.get("begunMs") or parse_iso(doc["startedAt"], "startedAt")
    lived_s = max(alive_ms - begun_ms, 0) / 1000
    lived = {name: extras.get(name, 0) + lived_s for name in ("usedS", "ranS")}
    return {**extras, **lived, "begunMs": now_ms()}


def ended_stats(stats: JsonObject, *, memory_mb: int, duration_s: float) -> JsonObject:
    return stats | {
        "durationMillis": round(duration_s * 1000),
        "runTimeSecs": round(duration_s, 3),
        "computeUnits": prices.compute_units(memory_mb, duration_s),
    }
