"""The engine, put together for one batch from its configuration and from what its opening has found."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from batchrun.apify.client import ApifyClient
from batchrun.config import Config, OutputConfig
from batchrun.config.policies import (
    breaker,
    deadlines,
    group_limits,
    group_weights,
    retry_policy,
    start_bucket,
)
from batchrun.engine.account_watch import AccountWatch, AutoSlots, Watched
from batchrun.engine.attempt import JobRunner
from batchrun.engine.collect import Collector, OutputPlan
from batchrun.engine.costs import CostReader
from batchrun.engine.follow import Follower
from batchrun.engine.log_keeper import LogKeeper
from batchrun.engine.ports import JobSource
from batchrun.engine.progress import Progress
from batchrun.engine.purse import Purse
from batchrun.engine.reconcile import Reconciler
from batchrun.engine.scheduler import Scheduler
from batchrun.engine.slot_use import SlotMeter
from batchrun.engine.slots import Slots
from batchrun.engine.start_gate import StartGate
from batchrun.engine.sweep import Sweep
from batchrun.engine.work import Postponed, Terms, Work
from batchrun.files.log_tails import LogTails
from batchrun.ledger.commit import GroupCommit
from batchrun.model import Ending, Record, RunOptions
from batchrun.open_files import polls_within_limit
from batchrun.opening import Opening
from batchrun.platform import share_of_runs
from batchrun.policy.capacity import Share
from batchrun.policy.expectation import Expectation
from batchrun.task_watch import TaskWatch

#: Memory that is taken to be ours in any case: the smallest Run's.
LEAST_MEMORY_MB = 128
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The engine's parts, put together for one batch."""

    client: ApifyClient
    scheduler: Scheduler
    reconciler: Reconciler
    sweep: Sweep
    gate: StartGate
    meter: SlotMeter
    account_watch: AccountWatch
    task_watch: TaskWatch
    progress: Progress
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
            children.start_soon(self.sweep.run)
            children.start_soon(self.costs.run)
            children.start_soon(self.account_watch.run)
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

    async def _wait_for_final_costs(self) -> None:
        if not await self.costs.has_open():
            return
        self.progress.notices.append("All Runs have ended; waiting until their costs are final, some ten seconds")
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
        self.progress.notices.append("deadlines.max_batch_s is over: nothing more is started; what runs is followed")
        self.scheduler.stop_starting(Ending.OUT_OF_TIME)


def assemble(config: Config, given: Materials) -> Engine:
    """Put the engine together."""
    opening, client, commit = given.opening, given.client, given.commit
    wanted_mb = config.limits.max_total_memory_mb
    set_mb = None if wanted_mb == "auto" else wanted_mb
    known_mb = [mb for mb in (set_mb, opening.account.limits.max_total_memory_mb) if mb is not None]
    most_mb = min(known_mb, default=None)
    slots = Slots(opening.max_concurrent_runs, memory_mb=set_mb, group_limits=group_limits(config.groups))
    meter = SlotMeter(slots, lambda: scheduler.has_work)
    gate = StartGate(start_bucket(config.limits.start_rate), client.account, meter)
    client.start_limit.learn = gate.stay_below
    progress = Progress()
    reconciler = Reconciler(
        client,
        commit,
        task_id=opening.task.id,
        start_horizon_s=config.limits.start_horizon_s,
        listing_lag_s=config.limits.listing_lag_s,
        echoes=given.echoes,
    )
    terms = Terms(
        options=given.options,
        retry=retry_policy(config.retry, most_mb),
        task_options=given.task_options,
        most_memory_mb=most_mb,
        deadlines=deadlines(config.deadlines),
        expectation=given.expectation,
    )
    follower = Follower(client, opening.task.id, max_open_polls=polls_within_limit(config.limits.max_open_polls))
    runner = JobRunner(
        client=client,
        ledger=commit,
        gate=gate,
        follower=follower,
        reconciler=reconciler,
        collector=Collector(client, commit, output_plan(config.output)),
        progress=progress,
        purse=given.purse,
        task_id=opening.task.id,
        terms=terms,
    )
    log_keeper = LogKeeper(client, LogTails(config.out_dir)) if config.output.logs else None

    scheduler = Scheduler(
        source=given.source,
        ledger=commit,
        runner=runner,
        slots=slots,
        gate=gate,
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
        sweep=follower.sweep,
        gate=gate,
        meter=meter,
        account_watch=_account_watch(config, opening, client, slots, gate),
        task_watch=TaskWatch(client, opening.task),
        progress=progress,
        costs=CostReader(client, commit, given.purse),
        log_keeper=log_keeper,
        resumed=given.resumed,
        check_all_came=given.check_all_came,
        sending=given.sending,
        max_batch_s=config.deadlines.max_batch_s,
        wants_final_costs=given.purse.is_limited or not config.api.is_loopback,
    )


def _account_watch(
    config: Config, opening: Opening, client: ApifyClient, slots: Slots, gate: StartGate
) -> AccountWatch:
    """Return the watch over what the account has for us, beginning with what the opening has read.

    A number in the configuration is a wish, the account's own limit a fact: it holds where it is smaller.
    """
    limits = config.limits
    wanted = None if limits.max_concurrent_runs == "auto" else limits.max_concurrent_runs
    wanted_mb = None if limits.max_total_memory_mb == "auto" else limits.max_total_memory_mb

    def tell_memory(told_mb: int | None) -> None:
        slots.resize_memory(min((mb for mb in (wanted_mb, told_mb) if mb is not None), default=None))

    share_of_memory = Share(leave_free=limits.leave_free_memory_mb if wanted_mb is None else 0, least=LEAST_MEMORY_MB)
    watch = AccountWatch(
        client,
        runs=Watched(share=share_of_runs(limits), own=lambda: gate.live, tell=AutoSlots(slots, gate, wanted).set),
        memory=Watched(share=share_of_memory, own=lambda: slots.used_memory_mb, tell=tell_memory),
    )
    watch.note(opening.account.limits, runs=opening.live_before, memory_mb=0)
    return watch


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
