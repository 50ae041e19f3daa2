"""The limits of a fleet's account: which of those that its workers know counts, and how it is divided among them.

All amounts are whole numbers, so that sums are exact. A worker never uses more than it holds. It takes more only if all
together then hold no more than the limit, and it gives up only what it has stopped using.
"""

import math
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Resource(StrEnum):
    """What is divided."""

    #: Live Runs.
    RUNS = "runs"
    #: Memory of live Runs, in megabytes.
    MEMORY = "memory_mb"
    #: The rates of starts and of requests, in thousandths of the account's.
    RATE = "rate_permille"
    #: Money that is spent or reserved, in millionths of a US dollar.
    MONEY = "micro_usd"


#: Within what JSON numbers hold exactly: whoever writes the page may have written anything.
Amount = Annotated[int, Field(ge=0, le=2**53)]
#: By resource; a missing one counts as 0, and as a limit it is unlimited.
Amounts = Mapping[Resource, int]
#: Shares of money are in millionths of a US dollar.
MICRO = 1_000_000
#: Seconds for which who lacked something holds, or asks for, what it needs beside that.
HUNGER_S = 1.5
#: The whole rate.
WHOLE_RATE = 1000
#: Max steps in which a limit is divided, about.
_MAX_STEPS = 1000


class Need(BaseModel):
    """What a worker needs of a resource now."""

    model_config = ConfigDict(frozen=True)

    #: What it uses, or has used a moment ago. If it is short: the most that it could use.
    amount: Amount = 0
    #: Smaller additions are of no use to it: the memory of one Run, say.
    lump: Amount = 1
    #: True if it could use more than it holds.
    is_short: bool = False
    #: Of the amount: what never comes free again. Lumps are added to it.
    gone: Amount = 0


def least_limit(known: Iterable[Amounts], resource: Resource) -> int | None:
    """Return the limit of all workers together: the least that one of them knows; None: unlimited.

    Args:
        known: the limits of each worker.
        resource: that is limited.
    """
    return min((limits[resource] for limits in known if resource in limits), default=None)


def micro_usd(usd: float) -> int:
    """Return what is spent or reserved, in millionths of a US dollar: rounded up, but for errors of floats."""
    return math.ceil(usd * MICRO - 1e-3)


def targets(limit: int, needs: Mapping[str, Need], held: Mapping[str, int]) -> dict[str, int]:
    """Divide a limit among workers: to each as much as it needs, as long as the others have as much or need less.

    Args:
        limit: of all together.
        needs: by worker.
        held: by worker. Those that are short and hold nothing come first, so that each has its turn.
    """
    order = sorted(needs, key=lambda each: (not (needs[each].is_short and not held.get(each)), each))
    wanted = {each: min(limit, needs[each].amount) for each in order}
    shares, left = dict.fromkeys(order, 0), limit
    for each in order:
        shares[each] = min(needs[each].gone, wanted[each], left)
        left -= shares[each]
    while order:
        more = []
        for each in order:
            lump = min(_step(limit, needs[each]), wanted[each] - shares[each])
            if 0 < lump <= left:
                shares[each] += lump
                left -= lump
                more.append(each)
        order = more
    return shares


def _step(limit: int, need: Need) -> int:
    """Return by how much a share grows at once: whole lumps, and enough for the division to take few steps."""
    lump = max(1, need.lump)
    return lump * max(1, limit // (_MAX_STEPS * lump))


def next_amount(*, limit: int, held: int, held_by_others: int, target: int, used: int) -> int:
    """Return what a worker holds next: less than before only as far as it does not use it, more only if it is free.

    Args:
        limit: of all together.
        held: by this worker.
        held_by_others: all of them together, and what is gone for good.
        target: of this worker. If it is less than `held`, the worker uses no more than `target`, or than `used`.
        used: by this worker now.
    """
    if target < held:
        return min(held, max(target, used))
    return max(held, min(target, limit - held_by_others))
