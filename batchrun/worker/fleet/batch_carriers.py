"""Which worker of a fleet carries a batch out, or did so last, and how that is said."""

from batchrun.worker.fleet.fleet_list import ListedBatch
from batchrun.worker.fleet.fleet_members import Member, Page
from batchrun.worker.fleet.sharded_batch import ShardedBatch


def other_carrier(page: Page, own_id: str, batch: str) -> Member | None:
    """Return the worker that carries a batch out; None: the one of `own_id` does, or none."""
    member_id = page.carrier(batch)
    if member_id is None or member_id == own_id:
        return None
    member = page.members[member_id]
    return None if member.has_left else member


def carrier_words(carrier: Member) -> str:
    """Say which worker carries a batch out."""
    return f"carried out by the worker {carrier.name}, at {carrier.address}"


def shard_carriers_words(page: Page, whole: ShardedBatch) -> str:
    """Say which workers carry out how many parts of a batch in shards; empty: none does."""
    parts = {part.submission.id for part in whole.parts}
    carriers = {
        f"{member.name}, at {member.address}": len(parts & member.batches.keys())
        for member in page.members.values()
        if parts & member.batches.keys()
    }
    if not carriers:
        return ""
    each = "; ".join(f"{count} by {carrier}" for carrier, count in carriers.items())
    return f"{sum(carriers.values())} of {len(parts)} shards are carried out: {each}"


def name_on_list(member: Member) -> str:
    """Return how an entry of the list names the worker that has written it."""
    return f"{member.name} at {member.address}"


def last_carrier_words(listed: ListedBatch | None) -> str:
    """Say which worker has carried out a batch that rests."""
    return f"was carried out last by the worker {listed.worker}" if listed and listed.worker else "waits"
