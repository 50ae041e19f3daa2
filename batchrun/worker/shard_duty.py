"""What a worker does for the batches in shards of its fleet: divide their budgets, and count for their breakers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio
import structlog

from batchrun.batch.running_batch import Batch
from batchrun.model import Outcome
from batchrun.worker.fleet.fleet import Fleet
from batchrun.worker.fleet.fleet_limits import HUNGER_S, MICRO, Need, micro_usd
from batchrun.worker.fleet.fleet_members import Page
from batchrun.worker.fleet.shard_breaker import ShardTrip, ShardWindow
from batchrun.worker.fleet.shard_budgets import BudgetShare, BudgetShares
from batchrun.worker.fleet.sharded_batch import ShardedBatch
from batchrun.worker.submission import BatchCounts, Submission
from batchrun.worker.worker import Worker

_log = structlog.get_logger()


@dataclass(slots=True)
class _Hunger:
    """When a start of a part has last lacked money, and the most that one has lacked."""

    lacked_at: float = float("-inf")
    start_cost: int = 0


@dataclass(slots=True)
class _Seen:
    """What this worker remembers of a batch."""

    window: ShardWindow = field(default_factory=ShardWindow)
    hunger: dict[str, _Hunger] = field(default_factory=dict)
    #: Its parts that were open here at the last look.
    open: dict[str, Batch] = field(default_factory=dict)


class ShardDuty:
    """The parts that one worker carries out.

    Args:
        worker: carries them out.
        fleet: its fleet.
    """

    def __init__(self, worker: Worker, fleet: Fleet) -> None:
        self._worker = worker
        self._fleet = fleet
        self._seen: dict[str, _Seen] = {}

    def _open_parts(self, whole: ShardedBatch) -> dict[str, Batch]:
        found = {}
        for part in whole.parts:
            runner = self._worker.runners.get(part.submission.id)
            if runner is not None and runner.batch is not None:
                found[part.submission.id] = runner.batch
        return found

    def obey(self, page: Page) -> None:
        """Use no more than what the page allows, and start nothing of a batch whose breaker has tripped."""
        for batch, whole in self._fleet.wholes.items():
            shares = page.wholes.get(batch, BudgetShares())
            for part, opened in self._open_parts(whole).items():
                self._obey_one(shares, part, opened)

    def _obey_one(self, shares: BudgetShares, part: str, opened: Batch) -> None:
        if reason := self._fleet.trip_of(self._worker.store[part]):
            opened.trip(reason)
        budget = opened.budget
        if budget.limit_usd is None:
            budget.share_usd = None
            return
        before = (budget.share_usd, budget.gone_usd)
        budget.share_usd = shares.allowed(part, int(budget.limit_usd * MICRO)) / MICRO
        budget.gone_usd = shares.gone(part) / MICRO
        if before != (budget.share_usd, budget.gone_usd):
            budget.notify()

    def change(self, page: Page) -> tuple[Page, bool]:
        """Return the page with what has become of the parts, and whether the others are waiting for it.

        To be called after `obey`, without a wait between them.
        """
        wholes, is_news, carriers = dict(page.wholes), False, page.carriers()
        for batch, whole in self._fleet.wholes.items():
            before = wholes.pop(batch, BudgetShares())
            if not _is_under_way(whole, carriers):
                self._seen.pop(batch, None)  # what the parts have used stands on the list
                continue
            after = self._change_one(carriers, whole, before)
            if after != BudgetShares():
                wholes[batch] = after
            is_news = is_news or _is_news(before, after)
        return (page if wholes == page.wholes else page.model_copy(update={"wholes": wholes})), is_news

    def _change_one(self, carriers: Mapping[str, str], whole: ShardedBatch, shares: BudgetShares) -> BudgetShares:
        seen = self._seen.setdefault(whole.listed.submission.id, _Seen())
        opened = self._open_parts(whole)
        parts = dict(shares.parts)
        for part in whole.parts:
            if (at_rest := self._share_at_rest(carriers, part.submission, parts)) is not None:
                parts[part.submission.id] = at_rest
        for each in opened:
            shares = shares.model_copy(update={"parts": parts})
            if carriers.get(each) == self._fleet.member.id and self._fleet.owns(each):
                share = self._share_of_open(each, opened[each], shares, seen)
                parts = parts if share is None else {**parts, each: share}
        shares = shares.model_copy(update={"parts": parts})
        trip = self._trip(whole, opened, seen)
        if trip is not None and (shares.trip is None or shares.trip.after < trip.after):
            _log.warning("batch_in_shards_tripped", batch=whole.listed.submission.id, reason=trip.reason)
            shares = shares.model_copy(update={"trip": trip})
        seen.open = opened
        return shares

    def _share_at_rest(
        self, carriers: Mapping[str, str], part: Submission, parts: Mapping[str, BudgetShare]
    ) -> BudgetShare | None:
        """Return the share of a part that uses no money now, by what it has used; None: it may use some, or used none.

        A part that the page does not have rested when the page forgot the batch, or had no budget until now.
        """
        carrier, own = carriers.get(part.id), self._fleet.member.id
        rests = self._worker.store[part.id] if self._fleet.owns(part.id) else part
        is_over = not rests.state.is_under_way and part.id not in self._worker.runners and carrier in (None, own)
        if not is_over and part.id in parts:
            return None
        counts = rests.counts if is_over else self._counts_now(part)
        used = micro_usd(counts.used_usd)
        return BudgetShare.at_rest(used) if used or part.id in parts else None

    def _share_of_open(self, part: str, opened: Batch, shares: BudgetShares, seen: _Seen) -> BudgetShare | None:
        budget, now = opened.budget, anyio.current_time()
        if budget.limit_usd is None:
            return None
        hunger = seen.hunger.setdefault(part, _Hunger())
        if (lacked := round(budget.take_lack() * MICRO)) > 0:
            hunger.lacked_at, hunger.start_cost = now, max(hunger.start_cost, lacked)
        used = micro_usd(budget.used_usd)
        is_hungry = now - hunger.lacked_at < HUNGER_S and opened.could_start_more
        more = opened.max_concurrent_runs * hunger.start_cost if is_hungry else 0
        spent = min(used, micro_usd(budget.spent_usd))
        need = Need(amount=min(used + more, 2**53), lump=max(1, hunger.start_cost), is_short=is_hungry, gone=spent)
        held = shares.held_next(part, int(budget.limit_usd * MICRO), used)
        return BudgetShare(held=held, spent=spent, need=need)

    def _trip(self, whole: ShardedBatch, opened: Mapping[str, Batch], seen: _Seen) -> ShardTrip | None:
        """Return the trip of a batch of which this worker has parts; None: it has not tripped."""
        after = whole.resumed
        for part, each in (*opened.items(), *seen.open.items()):
            if each.has_tripped_whole and self._worker.store[part].resumed == after:
                return ShardTrip(reason="the breaker of one shard has tripped", after=after)
        if not opened:
            seen.window = ShardWindow()
            return None
        # Until it was resumed, all jobs count: they were too few of them to trip.
        before = {part.submission.id: _sums(part.submission.counts) for part in whole.parts} if after else {}
        seen.window.note(
            {part.submission.id: _sums(self._counts_now(part.submission)) for part in whole.parts}, after, before
        )
        reason = seen.window.reason_to_trip(next(iter(opened.values())).breaker_limits)
        return ShardTrip(reason=reason, after=after) if reason else None

    def _counts_now(self, part: Submission) -> BatchCounts:
        runner = self._worker.runners.get(part.id)
        return runner.counts() if runner is not None else self._fleet.counts(part.id) or part.counts

    def failed(self) -> int:
        """Return how many jobs of parts that this worker has open did not succeed: others wait for that number."""
        runners = [self._worker.runners.get(part) for seen in self._seen.values() for part in seen.open]
        return sum(runner.counts().failed for runner in runners if runner is not None)


def _sums(counts: BatchCounts) -> tuple[int, int]:
    """Return the jobs that are settled, and those of them without success; bad lines are no jobs."""
    invalid = counts.outcomes.get(Outcome.INVALID, 0)
    return counts.settled - invalid, counts.failed - invalid


def _is_under_way(whole: ShardedBatch, carriers: Mapping[str, str]) -> bool:
    """True if a part may use money: by the page with these carriers, which only the next one replaces, or soon."""
    return any(part.submission.state.is_under_way or part.submission.id in carriers for part in whole.parts)


def _is_news(before: BudgetShares, after: BudgetShares) -> bool:
    """True if others are to know of a change at once; else it goes with the next one."""
    if before.trip != after.trip or before.parts.keys() != after.parts.keys():
        return True
    return any(
        share.held != before.parts[part].held
        or share.need.is_short != before.parts[part].need.is_short
        or (share.need.is_short and share.need.lump != before.parts[part].need.lump)
        for part, share in after.parts.items()
    )
