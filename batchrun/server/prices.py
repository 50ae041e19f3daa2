"""The cost of a Run. Pure arithmetic.

The price model is a pay-per-usage plan without discounts, in US dollars:

- a compute unit is one gigabyte of reserved memory for one hour, at 0.25;
- writes: dataset 0.000005 per item, key-value store 0.00005, request queue 0.00002;
- other usage that the platform charges for (reads, lists, transfer, proxies) is counted and costs nothing here;
- the events of a pay-per-event Actor cost what the Actor says; in an account's sums they are one usage item, whose unit
  is a dollar.
"""

import math
from collections.abc import Mapping

from batchrun.model import JsonObject

_CHARGES = "PAID_ACTORS_PER_EVENT"
_USD_PER_UNIT: Mapping[str, float] = {
    "ACTOR_COMPUTE_UNITS": 0.25,
    "DATASET_WRITES": 0.000005,
    "KEY_VALUE_STORE_WRITES": 0.00005,
    "REQUEST_QUEUE_WRITES": 0.00002,
    _CHARGES: 1.0,
}


def compute_units(memory_mb: int, duration_s: float) -> float:
    return memory_mb / 1024 * duration_s / 3600


def usd_per_unit(name: str) -> float:
    return _USD_PER_UNIT.get(name, 0.0)


def add_usage(doc: JsonObject, uses: Mapping[str, int]) -> None:
    """Set `usage`, `usageUsd` and `usageTotalUsd` of an ended Run, by its time and the use counts of its storages."""
    usage: dict[str, float | int] = {"ACTOR_COMPUTE_UNITS": doc["stats"]["computeUnits"], **uses}
    usage_usd = {name: amount * usd_per_unit(name) for name, amount in usage.items()}
    doc["usage"], doc["usageUsd"] = usage, usage_usd
    doc["usageTotalUsd"] = sum(usage_usd.values()) + charged_usd(doc)


def pricing_info(charge_events: JsonObject, at: str) -> JsonObject:
    """Return the prices of a pay-per-event Actor, as the API shows them."""
    return {
        "pricingModel": "PAY_PER_EVENT",
        "apifyMarginPercentage": 0.2,
        "createdAt": at,
        "startedAt": at,
        "pricingPerEvent": {"actorChargeEvents": charge_events},
    }


def charged_usd(doc: JsonObject) -> float:
    """Return the dollars charged for events of a Run of a pay-per-event Actor, up to its cap."""
    total_usd, cap_usd = _events_usd(doc), _cap_usd(doc)
    return total_usd if cap_usd is None else min(total_usd, cap_usd)


def is_over_cap(doc: JsonObject) -> bool:
    """True if the events of a Run cost more than its `maxTotalChargeUsd`."""
    cap_usd = _cap_usd(doc)
    # Sums of prices are not exact; no price is as small as this.
    return cap_usd is not None and _events_usd(doc) > cap_usd + 1e-9


def _events_usd(doc: JsonObject) -> float:
    events = ((doc.get("pricingInfo") or {}).get("pricingPerEvent") or {}).get("actorChargeEvents") or {}
    counts = doc.get("chargedEventCounts") or {}
    return math.fsum(count * events[name]["eventPriceUsd"] for name, count in counts.items() if name in events)


def _cap_usd(doc: JsonObject) -> float | None:
    cap_usd: float | None = (doc.get("options") or {}).get("maxTotalChargeUsd")
    return cap_usd


def countable(doc: JsonObject) -> dict[str, float]:
    """Return the quantities that an ended Run adds to its account's sums: its usage and its charges."""
    charges_usd = charged_usd(doc)
    return {**doc.get("usage", {}), **({_CHARGES: charges_usd} if charges_usd else {})}


def difference(quantities: Mapping[str, float], counted: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return the usage that is not `counted` yet: quantity and dollars by usage item, without zeros."""
    added = {name: amount - counted.get(name, 0) for name, amount in quantities.items()}
    return {name: (amount, amount * usd_per_unit(name)) for name, amount in added.items() if amount > 0}
