"""Builds the engine of one batch: which part gets which other parts."""

from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from contextlib import nullcontext
from datetime import timedelta

import anyio

from batchrun.engine.background.batch_abort import BatchAbort
from batchrun.engine.background.final_costs import FinalCostReader
from batchrun.engine.background.log_fetcher import LogFetcher
from batchrun.engine.child_pool import ChildPool
from batchrun.engine.collect import Collector, OutputPlan
from batchrun.engine.doubt.reconcile import EarlierDoubts, Reconciler
from batchrun.engine.follow.polls import Follower
from batchrun.engine.follow.sweep import Sweep
from batchrun.engine.job_runner import JobRunner
from batchrun.engine.limits.batch_priorities import EQUAL, BatchPriority
from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.limits.permits import Permits
from batchrun.engine.limits.slot_use import SlotMeter
from batchrun.engine.limits.start_gate import StartGate
from batchrun.engine.ports import JobSource, RunClient
from batchrun.engine.progress import Progress
from batchrun.engine.scheduler import Scheduler
from batchrun.engine.shared_limits import SharedLimits
from batchrun.engine.source_reader import SourceReader
from batchrun.engine.start_queue import StartQueue
from batchrun.engine.start_terms import StartTerms
from batchrun.engine.work import Postponed, Terms, Work
from batchrun.ledger.protocol import FinalCost, Ledger, OpenCost
from batchrun.model import Record, RunId, TaskId, WaitKind, WaitReason
from batchrun.policy.breaker import Breaker
from batchrun.policy.secret_fields import InputSecrets
from batchrun.policy.token_bucket import BothBuckets, TokenBucket
from batchrun.runtime.change_signal import ChangeSignal
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """The limits of one batch, beside the account's."""

    #: Max live Runs; None: as many as the account allows.
    max_live_runs: int | None = None
    #: Max memory of all live Runs together, in megabytes; None: unlimited.
    memory_mb: int | None = None
    #: Max live Runs, and weights, of the groups that have one.
    group_limits: Mapping[str, int]
    group_weights: Mapping[str | None, float]
    #: A start request takes effect within this time after it was sent, or never.
    start_horizon_s: float
    #: How long a new Run may be missing from lists.
    listing_lag_s: float
    #: Chunks of lines that are kept admitted, if their jobs are small.
    chunks_ready: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The engine of one batch, with the parts that its batch reads or changes."""

    scheduler: Scheduler
    reconciler: Reconciler
    batch_abort: BatchAbort
    costs: FinalCostReader
    follower: Follower
    permits: Permits
    gate: StartGate
    #: The batch's own rate of starts.
    bucket: TokenBucket
    reservations: CostReservations
    meter: SlotMeter
    progress: Progress
    shared: SharedLimits
    #: What no message and no log of a Run shows.
    secrets: InputSecrets
    #: Returns those of a live Run's input, longest first; None: it has ended.
    secrets_of: Callable[[RunId], tuple[str, ...] | None]
    #: None: no logs are kept.
    log_fetcher: LogFetcher | None

    async def run(
        self,
        resumed: Iterable[Work | Postponed] = (),
        on_record: Callable[[Record], Awaitable[None]] | None = None,
        at_the_end: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Carry the batch out; see `Scheduler.run`.

        Args:
            resumed: jobs that earlier processes have begun and left open.
            on_record: called with each record once it is durable.
            at_the_end: called once all jobs are done, and again after the last look for second Runs.

        Raises:
            BatchRefused: the platform refuses the batch; it can be resumed.
            OutputError: the ledger or an output file cannot be written; the batch can be resumed.
            JobFileError: the job file cannot be read to its end.
        """
        second_runs = self.reconciler.second_runs
        async with anyio.create_task_group() as children:
            children.start_soon(self.reconciler.run)
            children.start_soon(self.batch_abort.run)
            children.start_soon(second_runs.run)
            async with (
                self.costs.reading(),
                self.log_fetcher.working() if self.log_fetcher is not None else nullcontext(),
            ):
                await self.scheduler.run(resumed, on_record)
                await second_runs.finish(is_last=at_the_end is None)
            if at_the_end is not None:
                await at_the_end()
                # Lists lag: a second Run of the last moments may be listed only now, and has a cost, too.
                await second_runs.finish(is_last=True)
                await at_the_end()
            children.cancel_scope.cancel()

    def waits(self) -> list[WaitReason]:
        """Return what the batch waits for now, as far as the engine knows."""
        progress = self.progress
        counts = {
            WaitKind.LIVE_RUNS: self.gate.live_runs,
            WaitKind.OUTPUT: progress.collecting.count,
            WaitKind.DISK: progress.settling.count,
            WaitKind.READER: progress.unread.count,
            WaitKind.LINES: int(self.scheduler.is_reading),
            WaitKind.COSTS: int(self.costs.is_finishing),
        }
        counted = [WaitReason(kind=kind, count=count) for kind, count in counts.items() if count]
        return [*self.gate.waits(), *self.scheduler.waits(), *self.reconciler.waits(), *counted]

    def leave(self) -> None:
        """Leave the account, once all children have ended; live Runs go on."""
        self.shared.counters.close(self.progress)
        self.follower.leave()
        self.gate.leave()
        self.permits.leave()


def build_engine(
    *,
    client: RunClient,
    ledger: Ledger,
    source: JobSource,
    shared: SharedLimits,
    limits: BatchLimits,
    bucket: TokenBucket,
    terms: Terms,
    output: OutputPlan,
    reservations: CostReservations,
    breaker: Breaker,
    task_id: TaskId,
    batch: Hashable = None,
    priority: BatchPriority = EQUAL,
    live_before: int = 0,
    doubts: EarlierDoubts,
    log_fetcher: LogFetcher | None = None,
    costs_final_after: timedelta | None = None,
) -> Engine:
    """Build the engine of one batch.

    Args:
        client: the platform.
        ledger: of the batch.
        source: of its jobs.
        shared: limits that it shares with the other batches of its account.
        limits: its own.
        bucket: its own rate of starts.
        terms: how its jobs are carried out.
        output: what is collected from each Run.
        reservations: its money.
        breaker: judges its settled jobs.
        task_id: id of the task, as the platform spells it.
        batch: identifies the batch in the account.
        priority: among the batches of the account.
        live_before: Runs of earlier processes that may be live.
        doubts: what earlier processes have learned about starts in doubt.
        log_fetcher: keeps the ends of Runs' logs; None: no logs are kept.
        costs_final_after: see `FinalCostReader`.
    """

    def note_final_cost(noted: OpenCost, cost: FinalCost) -> None:
        if noted.attempt_no > 0:
            reservations.settle(noted.reserved_usd or 0.0, cost.cost_usd)
        else:  # it is a second Run
            reservations.pay(cost.cost_usd)
        progress.correct_cost(noted.cost_usd, cost.cost_usd)

    # Notified when a start may have become possible.
    changed = ChangeSignal()
    reservations.budget.subscribe(changed.notify)
    progress = Progress()
    shared.counters.open(progress)
    meter = SlotMeter(lambda: permits.limit, lambda: scheduler.has_work, shared.counters)
    gate = StartGate(
        BothBuckets(bucket, shared.start_bucket(task_id)),
        shared.capacity,
        changed,
        meter,
        shared.contenders(task_id),
        rank=lambda: permits.rank,
        throttle=shared.throttle,
    )
    permits = Permits(
        shared.pool,
        gate,
        changed,
        wanted=limits.max_live_runs,
        memory_mb=limits.memory_mb,
        group_limits=limits.group_limits,
        batch=batch,
        priority=priority,
        kept=live_before,
    )
    children = ChildPool(permits)
    start_terms = StartTerms(terms, reservations)
    queue = StartQueue(
        permits=permits,
        gate=gate,
        reservations=reservations,
        terms=start_terms,
        children=children,
        weights=limits.group_weights,
        progress=progress,
        changed=changed,
        chunks_ready=limits.chunks_ready,
    )
    reconciler = Reconciler(
        client,
        ledger,
        task_id=task_id,
        start_horizon_s=limits.start_horizon_s,
        listing_lag_s=limits.listing_lag_s,
        earlier=doubts,
        agents=shared.user_agents,
        progress=progress,
    )
    sweep = Sweep(client, task_id, lambda live: scheduler.take_up(live), reservations.note_so_far)  # noqa: PLW0108 - see below
    follower = Follower(client, shared.polls, sweep, task_id, reservations.note_so_far)
    runner = JobRunner(
        client=client,
        ledger=ledger,
        permits=permits,
        gate=gate,
        follower=follower,
        reconciler=reconciler,
        collector=Collector(client, ledger, output, shared.buffers, shared.disk_room),
        progress=progress,
        reservations=reservations,
        task_id=task_id,
        terms=terms,
        start_terms=start_terms,
        pausing=children.pausing,
        keep_log=log_fetcher.keep if log_fetcher is not None else None,
    )
    scheduler = Scheduler(
        source_reader=SourceReader(source, ledger, queue, shared.disk_room),
        queue=queue,
        children=children,
        permits=permits,
        gate=gate,
        runner=runner,
        sweep=sweep,
        ledger=ledger,
        breaker=breaker,
        progress=progress,
    )
    return Engine(
        scheduler=scheduler,
        reconciler=reconciler,
        batch_abort=BatchAbort(client, ledger, task_id, progress.notices.add),
        costs=FinalCostReader(client, ledger, note_final_cost, costs_final_after),
        follower=follower,
        permits=permits,
        gate=gate,
        bucket=bucket,
        reservations=reservations,
        meter=meter,
        progress=progress,
        shared=shared,
        secrets=terms.secrets,
        secrets_of=runner.secrets_of,
        log_fetcher=log_fetcher,
    )
