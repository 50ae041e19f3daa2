"""A worker's part of the account that its fleet shares: what it may use by the page, uses, and needs."""

from collections.abc import Mapping

import anyio

from batchrun.account.account import Account, Share
from batchrun.engine.limits.account_capacity import MAX_GROWN_SLOTS
from batchrun.worker.fleet.fleet import Fleet
from batchrun.worker.fleet.fleet_limits import HUNGER_S, MICRO, WHOLE_RATE, Need, Resource, micro_usd
from batchrun.worker.fleet.fleet_members import Page
from batchrun.worker.fleet.own_member import Use
from batchrun.worker.worker import Worker

#: The part of the rates that a worker without batches keeps, in thousandths.
IDLE_RATE = 20
#: Memory of a Run of which nothing is known, in megabytes: that of the smallest.
LEAST_MB = 128


class AccountShare:
    """What one worker may use of the account, and uses. It may use nothing until it has obeyed a page.

    Args:
        worker: carries batches out.
        fleet: its fleet.
        account: of the worker.
    """

    def __init__(self, worker: Worker, fleet: Fleet, account: Account) -> None:
        self._worker = worker
        self._fleet = fleet
        self._account = account
        #: Peak of live Runs between the last two looks.
        self._peak = 0
        #: When a start last lacked Runs, memory or money, and the most money that one has lacked.
        self._lacked_at = float("-inf")
        self._start_cost = 0

    def use_nothing(self) -> None:
        """Start nothing more: what this worker may use is not known."""
        self._account.use_share(Share(runs=0, memory_mb=0, rate=0.0))

    def obey(self, page: Page) -> None:
        """Use no more than what the page allows, from now on."""
        member = self._fleet.member
        allowed = member.allowed(page)
        # Once its lease is over, the others may have all of its rate. Without a part of the rate, it starts nothing.
        rate = allowed.get(Resource.RATE, 0) / WHOLE_RATE if member.may_start() else 0.0
        self._account.use_share(
            Share(
                runs=allowed.get(Resource.RUNS, 0) if rate > 0 else 0,
                memory_mb=allowed.get(Resource.MEMORY),
                rate=rate,
            )
        )
        self._divide_money(page, allowed.get(Resource.MONEY, 0), page.limit(Resource.MONEY))

    def _divide_money(self, page: Page, allowed: int, limit: int | None) -> None:
        budget = self._account.budget
        if limit is None:  # with a budget of its own, this worker must not spend before the page knows of it
            budget.limit_usd = self._worker.config.limits.budget_usd
            budget.share_usd = None if budget.limit_usd is None else 0.0
            return
        mine = page.members.get(self._fleet.member.id)
        gone = page.spent_micro_usd + sum(
            round(carried.counts.cost_usd * MICRO)
            for member in page.members.values()
            if member is not mine
            for carried in member.batches.values()
        )
        before = (budget.limit_usd, budget.share_usd, budget.gone_usd)
        budget.limit_usd, budget.share_usd, budget.gone_usd = limit / MICRO, allowed / MICRO, gone / MICRO
        if before != (budget.limit_usd, budget.share_usd, budget.gone_usd):
            budget.notify()

    def use(self) -> Use:
        """Return what this worker uses and needs; to be called after `obey`, without a wait between them."""
        pool, limits = self._account.shared.pool, self._limits()
        return Use(
            used={
                Resource.RUNS: pool.used,
                Resource.MEMORY: pool.used_memory_mb,
                Resource.MONEY: micro_usd(self._account.budget.used_usd),
            },
            needs=self._needs(limits),
            limits=limits,
            counts={batch: runner.counts() for batch, runner in self._worker.runners.items()},
        )

    def _needs(self, limits: Mapping[Resource, int]) -> dict[Resource, Need]:
        worker, pool, budget = self._worker, self._account.shared.pool, self._account.budget
        peak = pool.take_peak()
        amount, self._peak = max(peak, self._peak), peak
        open_batches = [runner.batch for runner in worker.runners.values() if runner.batch is not None]
        run_mb = max([pool.lacked_memory_mb, *(batch.opening.run_memory_mb or 0 for batch in open_batches)]) or LEAST_MB
        lacked, used_money = round(budget.take_lack() * MICRO), micro_usd(budget.used_usd)
        self._start_cost = max(self._start_cost, lacked)
        if pool.used >= pool.limit or pool.lacked_memory_mb > 0 or lacked > 0:
            self._lacked_at = anyio.current_time()
        # A Run needs all of them: a worker that lacks one holds as much of the others as it could use then, for a
        # while. Otherwise two workers would each give up what the other one waits for, again and again.
        is_hungry = anyio.current_time() - self._lacked_at < HUNGER_S and any(
            batch.could_start_more for batch in open_batches
        )
        most_runs = limits[Resource.RUNS]
        if (memory_mb := limits.get(Resource.MEMORY)) is not None:
            most_runs = max(1, min(most_runs, memory_mb // run_mb))
        # A batch takes a permit also to find that no job is left, so that one without any would never end.
        needs_runs = most_runs if is_hungry else max(amount, int(len(worker.runners) > 0))
        is_starved = len(worker.runners) > 0 and pool.limit == 0
        return {
            Resource.RUNS: Need(amount=needs_runs, is_short=is_hungry or is_starved),
            Resource.MEMORY: Need(
                amount=max(needs_runs * run_mb, pool.used_memory_mb), lump=run_mb, is_short=is_hungry
            ),
            Resource.RATE: Need(
                amount=WHOLE_RATE if worker.runners else IDLE_RATE, lump=10, is_short=bool(worker.runners)
            ),
            Resource.MONEY: Need(
                amount=used_money + (needs_runs * self._start_cost if is_hungry else 0),
                lump=max(1, self._start_cost),
                is_short=is_hungry and self._start_cost > 0,
                gone=min(used_money, micro_usd(budget.spent_usd)),
            ),
        }

    def _limits(self) -> Mapping[Resource, int]:
        """Return the limits of all workers together, as this one knows them."""
        limits, info = self._worker.config.limits, self._account.info.limits
        runs = [each for each in (limits.wanted_runs, info.max_concurrent_runs) if each is not None]
        if runs and limits.wanted_runs is None:
            runs = [max(1, runs[0] - limits.leave_free_runs)]
        memory = [each for each in (limits.wanted_memory_mb, info.max_total_memory_mb) if each is not None]
        known = {Resource.RUNS: min(runs, default=MAX_GROWN_SLOTS), Resource.RATE: WHOLE_RATE}
        if memory:
            known[Resource.MEMORY] = min(memory)
        if limits.budget_usd is not None:
            known[Resource.MONEY] = int(limits.budget_usd * MICRO)
        return known
