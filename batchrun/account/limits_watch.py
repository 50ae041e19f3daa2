"""How many of the account's Runs, and how much of its memory, are ours; read again every few seconds.

It knows the account's limits and their use by others. It does not know batches.
"""

from collections.abc import Callable
from typing import Protocol

import anyio
import structlog

from batchrun.apify.wire import AccountInfo, AccountLimits
from batchrun.config import AccountLimitsConfig
from batchrun.engine.limits.account_capacity import FIRST_SLOTS
from batchrun.errors import ApiError
from batchrun.policy.leave_free import Allowance
from batchrun.policy.retry import Backoff
from batchrun.runtime.fast_dataclasses import dataclass

#: Seconds between two readings. A change takes effect within two of them.
READ_INTERVAL_S = 2.0
#: Waits after readings that are refused.
REFUSED_BACKOFF = Backoff(first_s=2.0, max_s=60.0)

_log = structlog.get_logger()


def slot_count(limits: AccountLimitsConfig, account: AccountInfo, ours: int) -> int:
    """Return how many Runs may be live; `ours` of the account's live Runs belong to the batch already."""
    wanted, limit = limits.wanted_runs, account.limits.max_concurrent_runs
    if limit is None:
        return FIRST_SLOTS if wanted is None else wanted
    allowed = allowance_of_runs(limits).update(limit, account.limits.live_runs or 0, ours)
    return allowed if wanted is None else min(wanted, allowed)


def allowance_of_runs(limits: AccountLimitsConfig) -> Allowance:
    """Return what of the account's Runs is ours: at least one; only "auto" leaves some free."""
    return Allowance(leave_free=limits.leave_free_runs if limits.wanted_runs is None else 0, least=1)


class LimitsReader(Protocol):
    """The platform, as far as the account's limits need it."""

    async def get_limits(self) -> AccountLimits:
        """Read the account's limits and their use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedLimit:
    """One limit of the account: of its live Runs, or of their memory in megabytes."""

    allowance: Allowance
    #: Returns what of our own counts towards the limit now.
    own: Callable[[], int]
    #: Called with the part that is ours when it changes; None: the account does not show the limit.
    on_change: Callable[[int | None], None]


class LimitsWatch:
    """Reads the account's limits every few seconds, and reports each change of the part that is ours.

    Args:
        client: the platform.
        runs: the limit of live Runs.
        memory: the limit of their memory.
    """

    def __init__(self, client: LimitsReader, *, runs: WatchedLimit, memory: WatchedLimit) -> None:
        self._client = client
        self._runs = runs
        self._memory = memory
        #: The part that is ours as it was reported last, by limit.
        self._reported: dict[str, int | None] = {}
        #: Limits that were replaced since.
        self._replaced: set[str] = set()
        self._last: AccountLimits | None = None
        #: What of the last reading was ours.
        self._last_runs = self._last_memory_mb = 0

    def change(self, *, runs: WatchedLimit, memory: WatchedLimit) -> None:
        """Replace both limits, and report the parts that are ours by the last reading."""
        self._runs, self._memory = runs, memory
        self._replaced.update(self._reported)
        self.claim(0)

    def claim(self, runs: int) -> None:
        """Judge the last reading again, with this many more of its Runs known as ours."""
        if self._last is not None:
            self.note(self._last, runs=self._last_runs + runs, memory_mb=self._last_memory_mb)

    async def run(self) -> None:
        """Read until cancelled; while the platform cannot be read, the last reading holds."""
        refusals = 0
        while True:
            await anyio.sleep(REFUSED_BACKOFF.wait_s(refusals, 0.5) if refusals else READ_INTERVAL_S)
            runs, memory_mb = self._runs.own(), self._memory.own()
            try:
                limits = await self._client.get_limits()
            except ApiError as error:
                refusals += 1
                _log.debug("account_limits_refused", refusals=refusals, error=str(error))
                continue
            refusals = 0
            # A Run of ours that began or ended during the request may be counted in the answer or not.
            self.note(limits, runs=max(runs, self._runs.own()), memory_mb=max(memory_mb, self._memory.own()))

    def note(self, limits: AccountLimits, *, runs: int, memory_mb: int) -> None:
        """Judge a new reading.

        Args:
            limits: what was read.
            runs: Runs of ours that may be counted in it.
            memory_mb: their memory.
        """
        self._last, self._last_runs, self._last_memory_mb = limits, runs, memory_mb
        self._judge("runs", self._runs, limits.max_concurrent_runs, limits.live_runs, runs)
        self._judge("memory_mb", self._memory, limits.max_total_memory_mb, limits.used_memory_mb, memory_mb)

    def _judge(self, name: str, watched: WatchedLimit, limit: int | None, used: int | None, own: int) -> None:
        ours = None if limit is None else watched.allowance.update(limit, used or 0, own)
        if name not in self._reported or self._reported[name] != ours:
            _log.info("account_limit_changed", what=name, ours=ours, limit=limit, used=used, own=own)
        elif name not in self._replaced:
            return
        self._reported[name] = ours
        self._replaced.discard(name)
        watched.on_change(ours)
