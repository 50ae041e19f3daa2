"""Counters of what this process has done for a batch."""

from dataclasses import dataclass, field

from batchrun.engine.notices import Notices
from batchrun.model import Outcome, Record


class Ongoing:
    """Counts the children that are inside `with` now."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> None:
        self.count += 1

    def __exit__(self, *_: object) -> None:
        self.count -= 1


@dataclass(slots=True)
class Progress:
    """Counters that the engine updates and others read."""

    #: Settled jobs by outcome.
    outcomes: dict[Outcome, int] = field(default_factory=dict)
    #: Runs started.
    started: int = 0
    #: Attempts in doubt now.
    in_doubt: int = 0
    #: Jobs that wait for their next attempt now.
    postponed: int = 0
    #: Jobs whose output is being collected now.
    collecting: Ongoing = field(default_factory=Ongoing)
    #: Jobs whose records are being written now.
    settling: Ongoing = field(default_factory=Ongoing)
    #: Jobs whose records the batch's reader has not taken yet.
    unread: Ongoing = field(default_factory=Ongoing)
    #: Jobs that are left open: not started, or in doubt.
    left_open: int = 0
    #: Lines that repeat the job of another line.
    duplicates: int = 0
    #: Items of the settled jobs.
    items: int = 0
    #: Known costs of the settled jobs' Runs, in US dollars.
    cost_usd: float = 0.0
    #: Runs whose cost was unknown when their jobs were settled.
    unknown_costs: int = 0

    #: Unread notices for people.
    notices: Notices = field(default_factory=Notices)

    @property
    def settled(self) -> int:
        """How many jobs are settled."""
        return sum(self.outcomes.values())

    def add(self, other: "Progress") -> None:
        """Add the totals of another batch; its current states and its notices are left out."""
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + count
        self.started += other.started
        self.duplicates += other.duplicates
        self.items += other.items
        self.cost_usd += other.cost_usd
        self.unknown_costs += other.unknown_costs

    def correct_cost(self, known_usd: float | None, final_usd: float | None) -> None:
        """Replace the cost of a Run by its final one; None: unknown."""
        self.cost_usd += (final_usd or 0.0) - (known_usd or 0.0)

    def count(self, record: Record) -> None:
        """Count a settled job."""
        self.outcomes[record.outcome] = self.outcomes.get(record.outcome, 0) + 1
        self.items += record.items.count if record.items is not None else 0
        for attempt in record.attempts:
            if attempt.cost_usd is not None:
                self.cost_usd += attempt.cost_usd
            elif attempt.run_id is not None:
                self.unknown_costs += 1
