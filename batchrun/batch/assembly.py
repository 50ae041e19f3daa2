"""The engine, put together for one batch from its configuration and from what its opening has found."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from batchrun.account.limits_watch import AccountWatch
from batchrun.account.shared_account import SharedAccount, Standing, watch_account
from batchrun.account.task_watch import TaskWatch
from batchrun.apify.client import ApifyClient
from batchrun.batch.opening import Opening
from batchrun.config import Config, LimitsConfig, OutputConfig
from batchrun.config.policy_builders import (
    breaker,
    deadlines,
    group_limits,
    group_weights,
    retry_policy,
    start_bucket,
)
from batchrun.engine.background.aborter import Aborter
from batchrun.engine.background.final_costs import CostReader
from batchrun.engine.background.log_keeper import LogKeeper
from batchrun.engine.collect import Collector, OutputPlan
from batchrun.engine.doubt.reconcile import Reconciler
from batchrun.engine.follow.polls import Follower, Polls
from batchrun.engine.instruments import Instruments
from batchrun.engine.job_runner import JobRunner
from batchrun.engine.limits.account_pool import Member
from batchrun.engine.limits.purse import Purse
from batchrun.engine.limits.slot_use import SlotMeter
from batchrun.engine.limits.slots import Slots
from batchrun.engine.limits.start_gate import StartGate
from batchrun.engine.notices import BatchOutOfTime, WaitingForFinalCosts
from batchrun.engine.ports import JobSource
from batchrun.engine.progress import Progress
from batchrun.engine.scheduler import Scheduler
from batchrun.engine.work import Postponed, Terms, Work
from batchrun.ledger.sqlite.group_commit import GroupCommit
from batchrun.model import Ending, Record, RunOptions
from batchrun.output.log_tails import LogTails
from batchrun.policy.expectation import Expectation
from batchrun.policy.token_bucket import BothBuckets, TokenBucket
from batchrun.runtime.open_files import polls_within_limit

#: How long the end of a batch waits for the last costs to be settled.
COSTS_PATIENCE_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Materials:
    """What the engine is put together from, beside the configuration."""

    opening: Opening
    client: ApifyClient
    commit: GroupCommit
    source: JobSource
    #: Open jobs of earlier processes.
    resumed: Sequence[Work | Postponed]
    #: Called at the end of the job file; raises when lines of open jobs did not come again.
    check_all_came: Callable[[], None]
    #: Takes each record once it is durable.
    sending: MemoryObjectSendStream[Record]
    #: Whether the platform echoes marks, as far as earlier processes know.
    echoes: bool | None
    #: Options of every Run; what they leave open is the task's.
    options: RunOptions
    task_options: RunOptions
    purse: Purse
    expectation: Expectation | None
    #: What the batch shares with others; None: it has its account for itself.
    shared: SharedAccount | None
    standing: Standing
    instruments: Instruments


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A batch's place in its account."""

    slots: Slots
    gate: StartGate
    #: The batch's own rate of starts.
    bucket: TokenBucket
    polls: Polls
    #: None where batches share an account: then that is watched for all of them.
    watch: AccountWatch | None = None
    #: The share in what those batches have together; None where there is only this one.
    member: Member | None = None

    def leave(self) -> None:
        """Leave to other batches what this one had."""
        self.gate.withdraw()
        if self.member is not None:
            self.member.leave()


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The engine's parts, put together for one batch."""

    client: ApifyClient
    scheduler: Scheduler
    reconciler: Reconciler
    aborter: Aborter
    follower: Follower
    place: Place
    purse: Purse
    meter: SlotMeter
    task_watch: TaskWatch
    progress: Progress
    instruments: Instruments
    costs: CostReader
    #: None where no logs are wanted.
    log_keeper: LogKeeper | None
    resumed: Sequence[Work | Postponed]
    check_all_came: Callable[[], None]
    sending: MemoryObjectSendStream[Record]
    max_batch_s: float | None
    #: Whether the end waits until the platform has settled all costs.
    wants_final_costs: bool

    async def run(self) -> None:
        """Carry the batch out.

        Raises:
            BatchRefused: the platform refused the batch; it can be resumed.
            OutputError: this machine got in the way; it can be resumed.
            JobFileError: the job file cannot be read to its end, or not all its lines came again.
        """
        async with self.sending, anyio.create_task_group() as children:
            children.start_soon(self.reconciler.run)
            children.start_soon(self.aborter.run)
            children.start_soon(self.costs.run)
            if self.place.watch is not None:
                children.start_soon(self.place.watch.run)
            children.start_soon(self.task_watch.run)
            if self.max_batch_s is not None:
                children.start_soon(self._stop_in_time, self.max_batch_s)
            async with self.log_keeper.working() if self.log_keeper is not None else nullcontext():
                await self.scheduler.run(self.resumed)
            if self.wants_final_costs and not self.scheduler.is_interrupted.is_set():
                await self._wait_for_final_costs()
            children.cancel_scope.cancel()
        if self.scheduler.stopped_for is None:
            self.check_all_came()

    def leave(self) -> None:
        """Leave to the account's other batches what this one had, once all children have ended; its Runs go on."""
        self.instruments.close(self.progress)
        self.follower.leave()
        self.place.leave()

    def keep_places(self) -> None:
        """Keep the places of Runs that are live beyond the end of this engine, for the next one."""
        if self.place.member is not None:
            self.place.member.keep_places()

    def change_limits(self, limits: LimitsConfig, standing: Standing) -> None:
        """Keep another number of Runs, rate, budget and standing from now on; all else stays as it is."""
        place = self.place
        self._change_slots(limits.max_concurrent_runs)
        place.bucket.change_rate(limits.start_rate)
        place.gate.wake()
        self.purse.budget.limit_usd = limits.budget_usd
        self.purse.budget.on_change()
        if place.member is not None:
            place.member.weight, place.member.priority = standing.weight, standing.priority

    def _change_slots(self, wanted: int | Literal["auto"]) -> None:
        slots, member = self.place.slots, self.place.member
        if member is None:
            return  # the account's watch decides
        member.on_resize = slots.resize if wanted == "auto" else lambda _: None
        slots.resize(member.pool.limit if wanted == "auto" else wanted)

    async def _wait_for_final_costs(self) -> None:
        if not await self.costs.has_open():
            return
        self.progress.notices.add(WaitingForFinalCosts())
        with anyio.move_on_after(COSTS_PATIENCE_S):
            async with anyio.create_task_group() as children:

                async def leave() -> None:
                    await self.scheduler.is_interrupted.wait()
                    children.cancel_scope.cancel()

                children.start_soon(leave)
                await self.costs.finish()
                children.cancel_scope.cancel()

    async def _stop_in_time(self, max_batch_s: float) -> None:
        await anyio.sleep(max_batch_s)
        self.progress.notices.add(BatchOutOfTime())
        self.scheduler.stop_starting(Ending.OUT_OF_TIME)


def assemble(config: Config, given: Materials) -> Engine:
    """Put the engine together."""
    opening, client, commit = given.opening, given.client, given.commit
    place = _alone(config, given) if given.shared is None else _beside_others(config, given, given.shared)
    meter = SlotMeter(place.slots, lambda: scheduler.has_work, given.instruments)
    place.gate.meter = meter
    progress = Progress()
    given.instruments.open(progress)
    reconciler = _reconciler(config, given)
    follower = Follower(client, opening.task.id, place.polls)
    runner = JobRunner(
        client=client,
        ledger=commit,
        gate=place.gate,
        follower=follower,
        reconciler=reconciler,
        collector=Collector(client, commit, output_plan(config.output)),
        progress=progress,
        purse=given.purse,
        task_id=opening.task.id,
        terms=_terms(config, given),
    )
    log_keeper = LogKeeper(client, LogTails(config.out_dir)) if config.output.logs else None
    scheduler = Scheduler(
        source=given.source,
        ledger=commit,
        runner=runner,
        sweep=follower.sweep,
        slots=place.slots,
        gate=place.gate,
        purse=given.purse,
        breaker=breaker(config.breaker),
        weights=group_weights(config.groups),
        progress=progress,
        on_record=given.sending.send,
        keep_log=log_keeper.keep if log_keeper is not None else None,
    )
    return Engine(
        client=client,
        scheduler=scheduler,
        reconciler=reconciler,
        aborter=Aborter(client, commit),
        follower=follower,
        place=place,
        purse=given.purse,
        meter=meter,
        task_watch=TaskWatch(client, opening.task),
        progress=progress,
        instruments=given.instruments,
        costs=CostReader(client, commit, given.purse),
        log_keeper=log_keeper,
        resumed=given.resumed,
        check_all_came=given.check_all_came,
        sending=given.sending,
        max_batch_s=config.deadlines.max_batch_s,
        wants_final_costs=given.purse.is_limited or not config.api.is_loopback,
    )


def _reconciler(config: Config, given: Materials) -> Reconciler:
    return Reconciler(
        given.client,
        given.commit,
        task_id=given.opening.task.id,
        start_horizon_s=config.limits.start_horizon_s,
        listing_lag_s=config.limits.listing_lag_s,
        echoes=given.echoes,
        echo=given.shared.echo if given.shared is not None else None,
    )


def _terms(config: Config, given: Materials) -> Terms:
    """Return what holds for every attempt."""
    account_mb = given.opening.account.limits.max_total_memory_mb
    most_mb = min((mb for mb in (_set_memory_mb(config), account_mb) if mb is not None), default=None)
    return Terms(
        options=given.options,
        retry=retry_policy(config.retry, most_mb),
        task_options=given.task_options,
        most_memory_mb=most_mb,
        deadlines=deadlines(config.deadlines),
        expectation=given.expectation,
    )


def _set_memory_mb(config: Config) -> int | None:
    wanted_mb = config.limits.max_total_memory_mb
    return None if wanted_mb == "auto" else wanted_mb


def _alone(config: Config, given: Materials) -> Place:
    """Return the place of a batch that has its account for itself, as far as this process knows."""
    opening, client = given.opening, given.client
    slots = Slots(
        opening.max_concurrent_runs, memory_mb=_set_memory_mb(config), group_limits=group_limits(config.groups)
    )
    bucket = start_bucket(config.limits.start_rate)
    gate = StartGate(bucket, client.account)
    client.start_limit.subscribe(gate.stay_below)
    return Place(
        slots=slots,
        gate=gate,
        bucket=bucket,
        polls=Polls(polls_within_limit(config.limits.max_open_polls)),
        watch=watch_account(client, config.limits, opening.account, slots, gate.room, opening.live_before),
    )


def _beside_others(config: Config, given: Materials, shared: SharedAccount) -> Place:
    """Return the place of a batch that shares its account with others."""
    member = shared.pool.join(
        config.out_dir,
        weight=given.standing.weight,
        priority=given.standing.priority,
        live=given.opening.live_before,
    )
    wanted = config.limits.max_concurrent_runs
    slots = Slots(
        given.opening.max_concurrent_runs,
        memory_mb=_set_memory_mb(config),
        group_limits=group_limits(config.groups),
        share=member,
    )
    if wanted == "auto":
        member.on_resize = slots.resize
    bucket = start_bucket(config.limits.start_rate)
    gate = StartGate(
        BothBuckets(bucket, shared.start_bucket(given.opening.task.id)),
        given.client.account,
        room=shared.room,
        rank=lambda: member.rank,
        contenders=shared.contenders(given.opening.task.id),
    )
    return Place(slots=slots, gate=gate, bucket=bucket, polls=shared.polls, member=member)


def output_plan(output: OutputConfig) -> OutputPlan:
    """Return what is collected of every Run."""
    lists = {name: getattr(output, name) for name in ("fields", "omit", "unwind", "flatten")}
    query = {name: ",".join(value) for name, value in lists.items() if value}
    if output.clean:
        query["clean"] = "true"
    return OutputPlan(
        items=output.items,
        max_inline_items=output.max_inline_items,
        page_size=output.page_size,
        is_value_wanted=output.value,
        query=query,
    )
