"""The page of a fleet: who is a member, who carries out which batch, and what each of them holds of the limits.

Every change of the page replaces all of it; `shared_page` has the log of pages.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from batchrun.worker.fleet.fleet_limits import Amount, Need, Resource, least_limit
from batchrun.worker.fleet.shard_budgets import BudgetShares
from batchrun.worker.submission import BatchCounts, SubmissionId

#: Max members of a fleet, with the batches that some of them have left: each looks through all of them several times a
#: second. No member writes a page that has more, since none could read it.
MAX_MEMBERS = 500
#: Max characters of a text on the page.
MAX_WORDS = 500

#: A text that is shown: one line, cut where it is longer than any worker makes it.
Words = Annotated[str, AfterValidator(lambda words: " ".join(words[:MAX_WORDS].split()))]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Carried(_Model):
    """A batch that a member carries out."""

    #: Number of the page on which the member has taken it; a later owner's is larger.
    taken_at: Amount
    #: As of the member's last change of the page.
    counts: BatchCounts = BatchCounts()
    #: What it had spent before when it was taken from rest, in millionths of a US dollar: the member holds it since.
    spent_before: Amount = 0


class Member(_Model):
    """A worker, as it stands on the page. Only the worker itself changes that, until it falls silent."""

    #: Host and process, for people.
    name: Words
    #: Of its HTTP API.
    address: Words
    #: For how long it may start Runs after it has last changed the page, in seconds.
    lease_s: Annotated[float, Field(gt=0, le=86_400)]
    #: Grows with each change.
    beat: Amount = 0
    #: True once it has left its batches: they need not wait until it falls silent.
    has_left: bool = False
    #: The account's limits, as this worker knows them.
    limits: dict[Resource, Amount] = {}
    held: dict[Resource, Amount] = {}
    needs: dict[Resource, Need] = {}
    #: By id.
    batches: dict[SubmissionId, Carried] = {}


class Page(_Model):
    """One page."""

    v: Literal[1] = 1
    #: By id of the member; no id is used twice.
    members: Annotated[dict[str, Member], Field(max_length=MAX_MEMBERS)] = {}
    #: Money that batches have cost which are over, in millionths of a US dollar.
    spent_micro_usd: Amount = 0
    #: Batches in shards that are under way and have a budget, or whose breaker has tripped.
    wholes: dict[SubmissionId, BudgetShares] = {}

    def limit(self, resource: Resource) -> int | None:
        """Return the limit of all together; None: unlimited."""
        return least_limit((each.limits for each in self.members.values()), resource)

    def held(self, resource: Resource) -> int:
        """Return what all members hold together, and what is gone for good."""
        gone = self.spent_micro_usd if resource is Resource.MONEY else 0
        return gone + sum(each.held.get(resource, 0) for each in self.members.values())

    def carrier(self, batch: str) -> str | None:
        """Return the id of the member that carries out a batch."""
        return next((member for member, each in self.members.items() if batch in each.batches), None)

    def carriers(self) -> dict[str, str]:
        """Return the id of the member that carries out each batch; made once by who asks for many."""
        return {batch: member for member, each in reversed(self.members.items()) for batch in each.batches}
