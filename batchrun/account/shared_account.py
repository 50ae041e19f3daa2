"""One account and what the batches that run in it side by side share: places, room, rates, polls and money."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from batchrun.account.connect import allowance_of_runs, open_platform, read_account, slot_count
from batchrun.account.limits_watch import AccountWatch, AutoSlots, Watched
from batchrun.apify.client import ApifyClient
from batchrun.apify.wire import Account
from batchrun.config import AccountLimitsConfig, ApiConfig, ServerConfig
from batchrun.config.policy_builders import start_bucket
from batchrun.engine.doubt.reconcile import Echo
from batchrun.engine.follow.polls import Polls
from batchrun.engine.instruments import Instruments
from batchrun.engine.limits.account_capacity import Room
from batchrun.engine.limits.account_pool import Pool
from batchrun.errors import TransportError
from batchrun.model import TaskId
from batchrun.policy.budget import Budget
from batchrun.policy.capacity import Allowance
from batchrun.policy.token_bucket import Contenders, TokenBucket
from batchrun.runtime.children import open_children
from batchrun.runtime.open_files import polls_within_limit

#: Memory that is taken to be ours in any case: the smallest Run's.
LEAST_MEMORY_MB = 128
#: Starts per second that the platform allows for one task, with a margin.
STARTS_PER_TASK_AND_S = 380.0


class Places(Protocol):
    """Places for live Runs and their memory: one batch's `Slots`, or the `Pool` of several."""

    limit: int
    used_memory_mb: int

    def resize(self, limit: int) -> None:
        """Change how many places there are."""

    def resize_memory(self, memory_mb: int | None) -> None:
        """Change how much memory there is."""


def watch_account(
    client: ApifyClient, limits: AccountLimitsConfig, account: Account, places: Places, room: Room, live_before: int
) -> AccountWatch:
    """Return the watch over what the account has for us, beginning with what is known of it."""
    watch = AccountWatch(client, runs=_watched_runs(limits, places, room), memory=_watched_memory(limits, places))
    watch.note(account.limits, runs=live_before, memory_mb=0)
    return watch


def _watched_runs(limits: AccountLimitsConfig, places: Places, room: Room) -> Watched:
    wanted = None if limits.max_concurrent_runs == "auto" else limits.max_concurrent_runs
    tell = AutoSlots(places, room, wanted).set
    return Watched(allowance=allowance_of_runs(limits), own=lambda: room.live, tell=tell)


def _watched_memory(limits: AccountLimitsConfig, places: Places) -> Watched:
    """Return what to do about memory; a wish holds where it is smaller than what the account has."""
    wanted_mb = None if limits.max_total_memory_mb == "auto" else limits.max_total_memory_mb

    def tell(told_mb: int | None) -> None:
        places.resize_memory(min((mb for mb in (wanted_mb, told_mb) if mb is not None), default=None))

    allowance = Allowance(leave_free=limits.leave_free_memory_mb if wanted_mb is None else 0, least=LEAST_MEMORY_MB)
    return Watched(allowance=allowance, own=lambda: places.used_memory_mb, tell=tell)


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a batch stands among those it shares an account with."""

    #: Its share in what there is, against the others' weights.
    weight: float = 1.0
    #: Higher ones first, as soon as each batch has a live Run.
    priority: int = 0


EQUAL = Standing()


class SharedAccount:
    """What batches in one account share; made by `open_account`."""

    def __init__(self, client: ApifyClient, account: Account, limits: AccountLimitsConfig, budget: Budget) -> None:
        self.client = client
        self.account = account
        self.room = Room()
        self.pool = Pool(slot_count(limits, account, 0))
        self.polls = Polls(polls_within_limit(limits.max_open_polls))
        self.budget = budget
        self.limits = limits
        self.instruments = Instruments()
        self.watch = watch_account(client, limits, account, self.pool, self.room, 0)
        self.echo = Echo()
        self._buckets: dict[TaskId, TokenBucket] = {}
        self._contenders: dict[TaskId, Contenders] = {}
        self._announced_per_s: float | None = None
        client.start_limit.subscribe(self._stay_below)

    def change_limits(self, limits: AccountLimitsConfig) -> None:
        """Keep other limits from now on; Runs above smaller ones run out."""
        self.limits = limits
        self.watch.change(runs=_watched_runs(limits, self.pool, self.room), memory=_watched_memory(limits, self.pool))

    def slots_for(self, limits: AccountLimitsConfig) -> int:
        """Return how many Runs one batch may have live, as far as that is its own affair."""
        return self.pool.limit if limits.max_concurrent_runs == "auto" else limits.max_concurrent_runs

    def start_bucket(self, task_id: TaskId) -> TokenBucket:
        """Return the bucket that all starts of a task pass."""
        bucket = self._buckets.get(task_id)
        if bucket is None:
            bucket = self._buckets[task_id] = start_bucket(STARTS_PER_TASK_AND_S)
            if self._announced_per_s is not None:
                bucket.stay_below(self._announced_per_s)
        return bucket

    def contenders(self, task_id: TaskId) -> Contenders:
        """Return those who wait for tokens of that bucket."""
        return self._contenders.setdefault(task_id, Contenders())

    def _stay_below(self, limit_per_s: float) -> None:
        self._announced_per_s = limit_per_s
        for bucket in self._buckets.values():
            bucket.stay_below(limit_per_s)


@asynccontextmanager
async def open_account(
    api: ApiConfig,
    limits: AccountLimitsConfig,
    *,
    budget: Budget,
    environ: Mapping[str, str],
    server: ServerConfig,
    server_dir: Path,
    tell_outage: Callable[[str], None],
) -> AsyncIterator[SharedAccount]:
    """Open an account for several batches, however long that takes; its limits are watched while the context lasts.

    Args:
        api: which platform.
        limits: what of it is ours.
        budget: of all batches together.
        environ: holds the token.
        server: of the embedded server, where that is the platform.
        server_dir: where it keeps its state.
        tell_outage: called with why the platform cannot be reached, as long as it cannot.

    Raises:
        BatchRefused: the platform does not accept the token.
        ConfigError: the token's file, an Actor's directory or the file of faults cannot be used.
    """
    async with open_platform(
        api,
        environ=environ,
        request_rate_per_s=limits.request_rate,
        server=server,
        server_dir=server_dir,
        inline_actors={},
    ) as client:
        shared = SharedAccount(client, await _wait_for_account(client, tell_outage), limits, budget)
        async with open_children(cancels_on_leaving=True) as children:
            children.start_soon(shared.watch.run)
            yield shared


async def _wait_for_account(client: ApifyClient, tell_outage: Callable[[str], None]) -> Account:
    """Read whose token this is, as soon as the platform can be reached; each try is a patient one."""
    while True:
        try:
            return await read_account(client)
        except TransportError as error:
            tell_outage(client.last_failure or str(error))  # without advice that is for one command
