"""How many Runs, and how much memory, are ours: read from the account again and again while the batch runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import anyio
import structlog

from batchrun.apify.wire import AccountInfo, AccountLimits
from batchrun.config import AccountLimitsConfig
from batchrun.engine.limits.account_capacity import FIRST_SLOTS
from batchrun.errors import ApiError
from batchrun.policy.capacity import Allowance
from batchrun.policy.retry import Backoff

#: Between two readings: a change is reacted to within twice this, a falling limit and more use by others alike.
READ_INTERVAL_S = 2.0
#: Waits after readings that are refused.
REFUSED_BACKOFF = Backoff(first_s=2.0, max_s=60.0)

_log = structlog.get_logger()


class LimitsReader(Protocol):
    """The platform, as far as the account's limits need it."""

    async def get_limits(self) -> AccountLimits:
        """Read what may be live in the account at once, and what is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedLimit:
    """One thing that the account limits: its Runs, or their memory in megabytes."""

    allowance: Allowance
    #: How much of it we use right now.
    own: Callable[[], int]
    #: Called with how much is ours whenever that has changed; None where the account does not say.
    tell: Callable[[int | None], None]


class AccountWatch:
    """Reads the account's limits every few seconds, and tells what of them is ours when that changes.

    Args:
        client: the platform.
        runs: what to do about Runs; None: nothing.
        memory: what to do about memory; None: nothing.
    """

    def __init__(
        self, client: LimitsReader, *, runs: WatchedLimit | None = None, memory: WatchedLimit | None = None
    ) -> None:
        self._client = client
        self._runs = runs
        self._memory = memory
        self._told: dict[str, int | None] = {}
        self._last: AccountLimits | None = None
        #: What of the last reading was ours.
        self._last_runs = self._last_memory_mb = 0

    def change(self, *, runs: WatchedLimit, memory: WatchedLimit) -> None:
        """Do something else about what is read, and about what was read last."""
        self._runs, self._memory = runs, memory
        self._told.clear()
        self.claim(0)

    def claim(self, runs: int) -> None:
        """Judge the last reading again, with this many more of its Runs known as ours."""
        if self._last is not None:
            self.note(self._last, runs=self._last_runs + runs, memory_mb=self._last_memory_mb)

    async def run(self) -> None:
        """Read on until cancelled; what was told last holds while the platform cannot be read."""
        if self._runs is None and self._memory is None:
            return
        refusals = 0
        while True:
            await anyio.sleep(REFUSED_BACKOFF.wait_s(refusals, 0.5) if refusals else READ_INTERVAL_S)
            runs, memory_mb = self._own()
            try:
                limits = await self._client.get_limits()
            except ApiError as error:
                refusals += 1
                _log.debug("account_limits_refused", refusals=refusals, error=str(error))
                continue
            refusals = 0
            runs_now, memory_now_mb = self._own()
            # What of ours began or ended while the answer was on its way may be counted in it, or not.
            self.note(limits, runs=max(runs, runs_now), memory_mb=max(memory_mb, memory_now_mb))

    def note(self, limits: AccountLimits, *, runs: int, memory_mb: int) -> None:
        """Take a reading over.

        Args:
            limits: what was read.
            runs: Runs of ours that may be counted in it.
            memory_mb: their memory.
        """
        self._last, self._last_runs, self._last_memory_mb = limits, runs, memory_mb
        if self._runs is not None:
            self._judge("runs", self._runs, limits.max_concurrent_runs, limits.live_runs, runs)
        if self._memory is not None:
            self._judge("memory_mb", self._memory, limits.max_total_memory_mb, limits.used_memory_mb, memory_mb)

    def _own(self) -> tuple[int, int]:
        return (
            self._runs.own() if self._runs is not None else 0,
            self._memory.own() if self._memory is not None else 0,
        )

    def _judge(self, name: str, watched: WatchedLimit, limit: int | None, used: int | None, own: int) -> None:
        ours = None if limit is None else watched.allowance.update(limit, used or 0, own)
        if name in self._told and self._told[name] == ours:
            return
        self._told[name] = ours
        _log.info("account_share_changed", what=name, ours=ours, limit=limit, used=used, own=own)
        watched.tell(ours)


def slot_count(limits: AccountLimitsConfig, account: AccountInfo, ours: int) -> int:
    """Return how many Runs may be live: what was asked for, but no more than the account has; one is always ours."""
    wanted = limits.max_concurrent_runs
    if account.limits.max_concurrent_runs is None:
        return FIRST_SLOTS if wanted == "auto" else wanted
    allowed = allowance_of_runs(limits).update(account.limits.max_concurrent_runs, account.limits.live_runs or 0, ours)
    return allowed if wanted == "auto" else min(wanted, allowed)


def allowance_of_runs(limits: AccountLimitsConfig) -> Allowance:
    """Return what of the account's Runs is ours; who asks for a number has thought of what it leaves to others."""
    return Allowance(leave_free=limits.leave_free_runs if limits.max_concurrent_runs == "auto" else 0, least=1)
