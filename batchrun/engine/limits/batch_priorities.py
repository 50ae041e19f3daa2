"""Which of an account's batches is next: how they rank among each other.

Next: batches without a live Run, in turns by weight (stride scheduling, as in `FairGroupQueue`); then higher priority;
then fewest live Runs per weight. So each batch gets one live Run, whatever the priorities and weights.
"""

from batchrun.runtime.fast_dataclasses import dataclass

#: The place of a batch in the order; the smallest is next.
Rank = tuple[bool, int, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPriority:
    """How a batch ranks among the batches of its account."""

    #: The batch's part of the account's Runs is its weight over the sum of all weights.
    weight: float = 1.0
    #: A higher number goes first, once each batch has a live Run.
    priority: int = 0

    def rank(self, live: int, passed: float) -> Rank:
        """Return the rank of a batch that waits.

        Args:
            live: permits that it has.
            passed: its stride-scheduling pass, which grows by 1 / weight with each permit.
        """
        if not live:
            return (False, 0, 0.0, passed)
        return (True, -self.priority, live / self.weight, passed)


EQUAL = BatchPriority()
