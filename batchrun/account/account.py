"""An account that batches run in, one or many: its client, its watched limits, and what its batches share.

A batch that is launched alone is the only one in its account.
"""

from dataclasses import dataclass
from pathlib import Path

from batchrun.account.connect import read_account
from batchrun.account.disk_watch import DiskWatch
from batchrun.account.limits_watch import LimitsWatch, WatchedLimit, allowance_of_runs, slot_count
from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import AccountInfo
from batchrun.config import AccountLimitsConfig
from batchrun.engine.shared_limits import SharedLimits
from batchrun.policy.budget import Budget
from batchrun.policy.leave_free import Allowance
from batchrun.policy.platform_rates import STARTS_PER_TASK_PER_S
from batchrun.runtime.open_files import polls_within_limit

#: Memory that is ours even when others use all of it, in megabytes: that of the smallest Run.
MIN_MEMORY_MB = 128
#: The least part of the rate of requests that is used: enough to follow live Runs, and to read the account's limits.
_LEAST_RATE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A part of an account's limits."""

    #: Live Runs, and their memory in megabytes; None: unlimited.
    runs: int | None
    memory_mb: int | None
    #: Of the rates of starts and requests, from 0 to 1; with 0, `runs` is 0, too.
    rate: float


class Account:
    """An account that batches run in; made by `open_account`.

    Args:
        client: the platform, with the account's token.
        info: the account as it was read.
        limits: the part of the account that is ours.
        budget: of all batches together.
        work_dir: on the disk that is written to.
        starts_per_task_per_s: starts of one task, at most; fewer where the platform announces fewer.
        page_link: opens the page of the embedded server, if that is the platform.
        is_for_one: whether there is never more than one batch.
    """

    def __init__(
        self,
        client: ApifyClient,
        info: AccountInfo,
        limits: AccountLimitsConfig,
        budget: Budget,
        work_dir: Path,
        starts_per_task_per_s: float = STARTS_PER_TASK_PER_S,
        page_link: str | None = None,
        *,
        is_for_one: bool = False,
    ) -> None:
        self.client = client
        self.page_link = page_link
        self.info = info
        self.limits = limits
        self.budget = budget
        #: The part of the limits that is ours while other workers use the rest; None: all.
        self._share: Share | None = None
        #: Money of each batch that the budget counts, spent and reserved; None: it counts that of all batches anyway.
        self._counted: dict[Path, tuple[float, float]] | None = None
        self.shared = SharedLimits(
            max_live_runs=slot_count(limits, info, 0),
            wanted=limits.wanted_runs,
            max_open_polls=polls_within_limit(limits.max_open_polls, is_embedded=client.is_embedded),
            starts_per_task_per_s=starts_per_task_per_s,
            throttle=client.account,
            max_buffer_mb=limits.max_buffer_mb,
            is_for_one=is_for_one,
        )
        self.watch = LimitsWatch(client, runs=self._watched_runs(), memory=self._watched_memory())
        self.watch.note(info.limits, runs=0, memory_mb=0)
        client.start_limit.subscribe(self.shared.stay_below)

        self.disk = DiskWatch(work_dir, lambda: self.limits.min_free_disk_mb, self.shared)

    async def read_again(self) -> None:
        """Read the account again.

        Raises:
            BatchRefused: the platform does not accept the token any more.
            ConnectFailed: the platform does not answer.
        """
        self.info = await read_account(self.client)

    @property
    def live_runs(self) -> int:
        """Runs of ours that are live or being started."""
        return self.shared.capacity.live

    @property
    def max_live_runs(self) -> int:
        """Runs of ours that may be live."""
        return self.shared.pool.limit

    def keep_permits(self, batch: Path, live: int) -> None:
        """Keep permits for the live Runs of a batch that is about to be opened; 0 keeps none."""
        kept_before = self.shared.pool.kept
        self.shared.pool.keep(batch, live)
        if self.shared.pool.kept > kept_before:
            self.watch.claim(self.shared.pool.kept - kept_before)

    def change_limits(self, limits: AccountLimitsConfig) -> None:
        """Replace the limits; live Runs above a smaller limit go on to their end."""
        self.limits = limits
        self.shared.capacity.want(_least(limits.wanted_runs, self._share.runs if self._share is not None else None))
        self.shared.buffers.total = limits.max_buffer_mb << 20
        most = polls_within_limit(limits.max_open_polls, is_embedded=self.client.is_embedded)
        self.shared.polls.resize(most)
        if self.shared.throttle is not None:
            self.shared.throttle.change_rate(limits.request_rate * self._part)
        self.watch.change(runs=self._watched_runs(), memory=self._watched_memory())

    def use_share(self, share: "Share") -> None:
        """Use no more than a share of the limits from now on; live Runs above a smaller one go on to their end."""
        before, self._share = self._share, share
        if self._counted is None:
            self._counted = {}
        if before is None or before.rate != share.rate:
            self.shared.take_part(share.rate or _LEAST_RATE)
        if before != share:
            self.change_limits(self.limits)

    @property
    def _part(self) -> float:
        return 1.0 if self._share is None else max(self._share.rate, _LEAST_RATE)

    def count_money(self, batch: Path, *, spent_usd: float, reserved_usd: float) -> None:
        """Count what a batch has spent and reserved, as it is opened, in place of what was counted of it before."""
        if self._counted is not None:
            spent_before, reserved_before = self._counted.get(batch, (0.0, 0.0))
            self.budget.spent_usd += spent_usd - spent_before
            self.budget.reserved_usd += reserved_usd - reserved_before
            self.note_money(batch, spent_usd=spent_usd, reserved_usd=reserved_usd)

    def note_money(self, batch: Path, *, spent_usd: float, reserved_usd: float) -> None:
        """Note what the budget counts of a batch, as it is closed."""
        if self._counted is not None:
            self._counted[batch] = (spent_usd, reserved_usd)

    def uncount_money(self, batch: Path) -> None:
        """Count nothing of a closed batch any more."""
        if self._counted is not None:
            self.count_money(batch, spent_usd=0.0, reserved_usd=0.0)
            del self._counted[batch]

    def forget_money(self) -> None:
        """Count nothing of any batch, once none is open."""
        for batch in list(self._counted or ()):
            self.uncount_money(batch)

    def money_of(self, batch: Path) -> float | None:
        """Return what the budget counts of a closed batch, in US dollars; None: the batch was not open here."""
        counted = (self._counted or {}).get(batch)
        return None if counted is None else sum(counted)

    def _watched_runs(self) -> WatchedLimit:
        return WatchedLimit(
            allowance=allowance_of_runs(self.limits),
            own=lambda: self.shared.capacity.live + self.shared.pool.kept,
            on_change=self.shared.capacity.set_limit,
        )

    def _watched_memory(self) -> WatchedLimit:
        wanted_mb, pool = self.limits.wanted_memory_mb, self.shared.pool
        share_mb = self._share.memory_mb if self._share is not None else None
        pool.is_memory_shared = share_mb is not None

        def resize(ours_mb: int | None) -> None:
            pool.resize_memory(_least(wanted_mb, ours_mb, share_mb))

        leave_free = self.limits.leave_free_memory_mb if wanted_mb is None else 0
        allowance = Allowance(leave_free=leave_free, least=MIN_MEMORY_MB)
        return WatchedLimit(allowance=allowance, own=lambda: pool.used_memory_mb, on_change=resize)


def _least(*limits: int | None) -> int | None:
    return min((each for each in limits if each is not None), default=None)
