"""Charges Runs of Actors that are paid per event."""

import anyio

from batchrun.model import JsonObject
from batchrun.server.error_answers import ErrorAnswer, value_invalid
from batchrun.server.runs.hosted_run import HostedRun, store_live
from batchrun.server.store.database import Database

#: Seconds that a charge's idempotency key is remembered. Source: the SDK's charging.
_REMEMBER_CHARGE_S = 180
#: Max events of one name in a Run: JSON holds 64 bits.
_MAX_CHARGED = 10**12


async def charge(database: Database, live: HostedRun, event: str, count: int, key: str | None) -> None:
    """Charge for events. The same key within three minutes charges once."""
    now = anyio.current_time()
    live.charge_keys = {known: until for known, until in live.charge_keys.items() if until > now}
    if key is not None and key in live.charge_keys:
        return
    live.doc |= charged(live.doc, event, count)
    if key is not None:
        live.charge_keys[key] = now + _REMEMBER_CHARGE_S
    await store_live(database, live)


def charged(doc: JsonObject, event: str, count: int, *, is_by_actor: bool = True) -> JsonObject:
    """Return the change of a Run's document that events make."""
    counts = doc.get("chargedEventCounts")
    if is_by_actor and event.startswith("apify-"):
        raise value_invalid(f'The event "{event}" is charged by the platform itself')
    if counts is None:
        raise ErrorAnswer(400, "cannot-charge-non-pay-per-event-actor", "The Actor is not paid per event")
    if event not in counts:
        raise value_invalid(f'The Actor has no event "{event}" to charge for')
    if counts[event] + count > _MAX_CHARGED:
        raise value_invalid(f'The event "{event}" can be charged up to {_MAX_CHARGED:,} times')
    return {"chargedEventCounts": counts | {event: counts[event] + count}}
