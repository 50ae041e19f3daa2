"""What a Run costs. Pure arithmetic.

The price model is a plain pay-per-usage plan without discounts, in US dollars:

- a compute unit is one gigabyte of reserved memory for one hour, at 0.25;
- writes: dataset 0.000005 per item, key-value store 0.00005, request queue 0.00002;
- whatever else the platform charges for (reads, transfer, proxies) costs nothing on one's own machine.
"""

from collections.abc import Mapping

from batchrun.model import JsonObject

_USD_PER_UNIT: Mapping[str, float] = {
    "ACTOR_COMPUTE_UNITS": 0.25,
    "DATASET_WRITES": 0.000005,
    "KEY_VALUE_STORE_WRITES": 0.00005,
    "REQUEST_QUEUE_WRITES": 0.00002,
}


def compute_units(memory_mb: int, duration_s: float) -> float:
    """Return the compute units of a Run."""
    return memory_mb / 1024 * duration_s / 3600


def settle(doc: JsonObject, writes: Mapping[str, int]) -> None:
    """Note `usage`, `usageUsd` and `usageTotalUsd` on an ended Run.

    Args:
        doc: the Run; its `stats.computeUnits` is known.
        writes: how often each kind of storage was written to, by the name of its usage counter.
    """
    usage: dict[str, float | int] = {"ACTOR_COMPUTE_UNITS": doc["stats"]["computeUnits"], **writes}
    usage_usd = {name: amount * _USD_PER_UNIT[name] for name, amount in usage.items()}
    doc["usage"], doc["usageUsd"], doc["usageTotalUsd"] = usage, usage_usd, sum(usage_usd.values())
