"""The worker: runs submitted batches side by side in one account, and resumes all of them after a restart."""

from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import structlog
from anyio.abc import TaskGroup

from batchrun.account.account import Account
from batchrun.account.open_account import open_account
from batchrun.config import ApiConfig
from batchrun.config.worker_config import WorkerConfig, WorkerLimitsConfig, changed_while_running
from batchrun.errors import BatchrunError, ConfigError, OutputError
from batchrun.notify.delivery import Notifier, delivering, open_channels
from batchrun.notify.delivery_queue import Channel
from batchrun.notify.outbox import Outbox
from batchrun.output.layout import BATCH_LOG
from batchrun.policy.budget import Budget, is_larger
from batchrun.preflight.plan import Plan
from batchrun.runtime.children import open_children
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.private_files import confined
from batchrun.runtime.resizable_semaphore import ResizableSemaphore
from batchrun.words.progress_words import Speed
from batchrun.worker.account_use import AccountUse, read_account_use
from batchrun.worker.batch_plans import BatchPlans
from batchrun.worker.batch_runner import BatchRunner, Trace, may_have_begun, no_trace
from batchrun.worker.data_directory import DataDirectory, has_begun
from batchrun.worker.disk_probe import DiskProbe
from batchrun.worker.fleet.fleet import Fleet, open_fleet
from batchrun.worker.mirrored_batches import MirroredBatches
from batchrun.worker.readiness import disk_words, fleet_words, platform_words, stopped_words
from batchrun.worker.spool import watch_spool
from batchrun.worker.spool_summary import remove_summary_file, with_old_summary, write_summary_file
from batchrun.worker.submission import (
    RESUMABLE,
    BatchState,
    Submission,
)
from batchrun.worker.submission_intake import Intake
from batchrun.worker.submission_store import SubmissionStore, WrongState
from batchrun.worker.worker_notify_conditions import WorkerNotifyConditions

#: Seconds between two samples of the batches' progress and of slot use.
SAMPLE_INTERVAL_S = 1.0
#: Max samples of slot use: an hour's.
MAX_SAMPLES = 3600

#: States of batches that are resumed when the configuration is read: what has stopped them may be gone.
_MAY_GO_ON = (BatchState.STOPPED, BatchState.OUT_OF_BUDGET)

_log = structlog.get_logger()


class Worker:
    """All batches of one data directory; open it with `open_worker`.

    Commands raise:
        WrongState: the state of the batch does not allow it.
        UnknownBatch, OutputError: as the store does.
    """

    def __init__(
        self,
        directory: DataDirectory,
        config: WorkerConfig,
        environ: Mapping[str, str],
        channels: list[Channel],
        fleet: Fleet | None = None,
    ) -> None:
        self.directory = directory
        #: The fleet that this worker belongs to; None: it works alone.
        self.fleet = fleet
        self.config = config
        self.environ = environ
        self.store = SubmissionStore(directory)
        #: Checks what is submitted.
        self.intake = Intake(directory, environ, lambda: self.config, fleet)
        self.began_at = datetime.now(UTC)
        #: Time, live Runs and max live Runs, once a second, oldest first.
        self.samples: deque[tuple[datetime, int, int]] = deque(maxlen=MAX_SAMPLES)
        #: The runners of batches that are queued or open, by id.
        self.runners: dict[str, BatchRunner] = {}
        #: None until the platform has answered.
        self.account: Account | None = None
        #: Set once it has.
        self.connected = anyio.Event()
        #: Why the platform cannot be reached; empty while it can.
        self.outage = ""
        #: The disk of its directory.
        self.disk = DiskProbe(directory.path)
        #: Requests to the platform per second.
        self.request_speed = Speed()
        self.is_draining = False
        #: Traces batches that are opened from now on.
        self.trace: Trace = no_trace
        #: The budget of all batches together.
        self.budget = Budget(config.limits.budget_usd)
        #: The batches in shards; None: it works alone, and has none.
        self.mirrored = MirroredBatches(fleet, self.store, directory, self.runners) if fleet is not None else None
        self._open_batches = ResizableSemaphore(config.worker.max_open_batches)
        self._plans = BatchPlans()
        #: Ids of batches that rest and are being looked at or repaired.
        self.mended: set[str] = set()
        #: Held while a retry is taken.
        self.retrying = anyio.Lock()
        #: Notifies people of what happens to the batches and to the worker.
        self.notifier = Notifier(config.notify, channels, Outbox(directory.outbox))
        self._watch = WorkerNotifyConditions(self.notifier, self.budget)
        #: Set when a runner ends; None while no child waits for that.
        self._runner_ended: anyio.Event | None = None
        self._children: TaskGroup | None = None

    # Commands.

    async def submit(self, submission: Submission) -> Submission:
        """Check and take a batch whose files are in place.

        Raises:
            ConfigError: as `Intake.check` does; it is not stored.
            OutputError: it cannot be stored.
        """
        await self.intake.check(submission)
        return await self.take(submission)

    async def plan(self, submission: Submission, shown: int) -> Plan:
        """Check and forecast a batch that is not stored, as `BatchPlans.make` does; start nothing.

        Raises:
            ConfigError: as `Intake.check` does.
            OutputError: the platform has not answered yet.
        """
        config = await self.intake.check(submission)
        if self.account is None:
            raise OutputError(f"nothing can be planned now: {self.why_not_ready}")
        return await self._plans.make(self.account, config, shown)

    async def take(self, submission: Submission) -> Submission:
        """Store a checked batch under a name of its own; run it as soon as it has a place among the open batches.

        In a fleet, return the batch that another worker has taken before with the same key.
        """
        if self.fleet is not None:
            if submission.profile is not None:  # the other workers need not have it
                submission = await anyio.to_thread.run_sync(self.intake.with_own_file, submission)
            listed = (await self.fleet.submit(submission)).submission
            if listed.id not in self.store:  # else this worker has it by now, and knows more of it
                self.store.mirror(listed)
            return self.store[listed.id]
        taken = await self.store.add(submission)
        _log.info("batch_taken", batch=taken.id, name=taken.name)
        self._start_runner(taken.id)
        return taken

    @asynccontextmanager
    async def ordered(self, submission_id: str) -> AsyncIterator[None]:
        """Carry out an order for a batch, in a fleet as its only owner; the others know of it once this ends."""
        if self.fleet is None:
            yield
            return
        if self.account is None:  # it takes no batch before
            raise OutputError(f"not possible now: {self.why_not_ready}")
        self.fleet.refuse_unread()
        async with self.fleet.taken(submission_id):
            yield
            await self.fleet.publish(self.store[submission_id])

    def refuse_without_files(self, submission_id: str) -> None:
        """Refuse what needs the files of a batch that another worker of the fleet has.

        Raises:
            WrongState: they are not here.
        """
        if self.fleet is not None:
            self.fleet.refuse_without_files(submission_id)

    def orders_for(self, submission_id: str) -> MirroredBatches | None:
        """Return what puts orders for a batch on the list; None: this worker has it, or takes it at once to obey."""
        if self.fleet is None or self.mirrored is None:
            return None
        waits_for_platform = self.account is None and submission_id in self.fleet.listed
        return self.mirrored if waits_for_platform or self.mirrored.are_ordered_of(submission_id) else None

    def sharded_with(self, submission_id: str) -> MirroredBatches | None:
        """Return what gives orders to all parts of a batch in shards; None: this one is not in shards."""
        return self.mirrored if self.mirrored is not None and self.mirrored.has(submission_id) else None

    async def open_again(self, submission_id: str, allowed: frozenset[BatchState], what: str, **changes: Any) -> None:
        """Change a batch that is in one of some states, and open it once more.

        Raises:
            WrongState: it is in another one; `what` says in the message what cannot be done.
        """
        again = {"state": BatchState.QUEUED, "reason": "", "ended_at": None}
        async with self.ordered(submission_id):
            await self.store.change(submission_id, allowed, what, **again, **changes)
            await self.sync_summary(submission_id)
            if "retry" in changes:
                crash_point("retry_ordered")
            runner = self.runners.get(submission_id)
            if runner is not None:
                runner.reopen()
            else:
                self._start_runner(submission_id)

    @asynccontextmanager
    async def mending(self, submission_id: str) -> AsyncIterator[tuple[Path, Account]]:
        """Keep a batch that rests from being opened; one that is resumed meanwhile is opened afterwards.

        Raises:
            WrongState: it does not rest, has not begun, or is being mended already.
            OutputError: the platform has not answered yet.
        """
        submission = self.store[submission_id]
        if self.fleet is not None:
            self.fleet.refuse_from_before(submission)
        self.refuse_without_files(submission_id)
        if submission.state.is_under_way or submission_id in self.runners:
            raise WrongState(f"batch {submission_id} is {submission.state}; pause it first")
        if submission_id in self.mended:
            raise WrongState(f"batch {submission_id} is being looked at or repaired; try again in a moment")
        if self.account is None:
            raise OutputError(f"not possible now: {self.why_not_ready}")
        out_dir = self.directory.out_dir(submission)
        if not await anyio.to_thread.run_sync(has_begun, out_dir):
            raise WrongState(f"batch {submission_id} is {submission.state}: it has not begun")
        self.mended.add(submission_id)
        try:
            yield out_dir, self.account
        finally:
            self.mended.discard(submission_id)
            known = self.store.get(submission_id)
            if known is not None and known.state.is_under_way:
                self._start_runner(submission_id)

    async def change_limits(self, limits: WorkerLimitsConfig) -> None:
        """Change the limits of all batches together, until the next start or reload."""
        self.config = self.config.model_copy(update={"limits": limits})
        has_more = is_larger(limits.budget_usd, self.budget.limit_usd)
        # Open batches without a budget are reopened by `apply_limits`, so that they reserve money.
        if self.fleet is None:  # in a fleet, the page decides
            self.budget.limit_usd = limits.budget_usd
        if self.account is not None:
            self.account.change_limits(limits)
        for runner in list(self.runners.values()):
            await runner.apply_limits()
        if has_more:
            await self._resume_all(BatchState.OUT_OF_BUDGET)

    async def reload(self, config: WorkerConfig) -> list[str]:
        """Apply a configuration that was read again, with the profiles and the secrets of `[notify]`.

        Stopped batches are resumed. Returns the changed keys that wait for the next start, as the platform does.

        Raises:
            ConfigError: a secret of `[notify]` cannot be read, or is none; nothing is changed.
        """
        channels = await anyio.to_thread.run_sync(open_channels, config.notify, self.environ)
        self.config, later = changed_while_running(self.config, config)
        await self.notifier.change(self.config.notify, channels)
        self._open_batches.resize(self.config.worker.max_open_batches)
        await self.change_limits(self.config.limits)
        await self._resume_all(*_MAY_GO_ON)  # a profile may have changed
        return later

    def count_again(self, before: AccountUse, now: AccountUse) -> None:
        """Change in the budget of all batches what one that rests has spent and reserved."""
        self.budget.spent_usd += now.spent_usd - before.spent_usd
        self.budget.reserved_usd += now.reserved_usd - before.reserved_usd
        self.budget.notify()

    def drain(self) -> int:
        """Stop new starts of all batches; return the number of live Runs."""
        self.is_draining = True
        for runner in self.runners.values():
            runner.drain()
        return self.live_runs

    @property
    def hands_over(self) -> bool:
        """True if other workers of a fleet go on with this one's batches once it leaves them."""
        return self.fleet is not None and self.fleet.has_others

    async def wait_until_drained(self) -> None:
        """Return when no batch is open."""
        while self.runners:
            self._runner_ended = self._runner_ended or anyio.Event()
            await self._runner_ended.wait()

    def let_go(self) -> None:
        """End all batches at once; live Runs keep running, with their ids in the ledgers."""
        for runner in self.runners.values():
            runner.let_go()

    async def _resume_all(self, *states: BatchState) -> None:
        """Resume the batches that rest in one of some states, or are about to: their cause may be gone."""
        for submission in self.store:
            if submission.state in states and self._is_own(submission):
                try:
                    await self.open_again(submission.id, RESUMABLE, "resumed")
                except BatchrunError as error:
                    _log.warning("batch_not_resumed", batch=submission.id, reason=str(error))

    # State.

    @property
    def api(self) -> ApiConfig:
        """The platform; an embedded server, which lives as long as this worker, with its address."""
        api = self.config.api
        if not api.is_embedded or self.account is None:
            return api
        return api.model_copy(update={"base_url": self.account.client.base_url})

    def log_file(self, submission_id: str) -> Path | None:
        """Return a batch's log file; None if there is no such batch. May be called in any thread."""
        submission = self.store.get(submission_id)
        return None if submission is None else self.directory.out_dir(submission) / BATCH_LOG

    def per_s(self, submission_id: str) -> float | None:
        """Return the settled jobs per second of a batch; None: it settles none, or that is not known yet."""
        if (mirrored := self.orders_for(submission_id)) is not None:
            speed = mirrored.speeds.get(submission_id)
            return speed.per_s() if speed is not None else None
        runner = self.runners.get(submission_id)
        return runner.speed.per_s() if runner is not None else None

    @property
    def live_runs(self) -> int:
        """The number of Runs of all batches that are live or being started."""
        return self.account.live_runs if self.account is not None else 0

    @property
    def is_ready(self) -> bool:
        """True if batches can be submitted and run now."""
        return not self.why_not_ready

    @property
    def why_not_ready(self) -> str:
        """Why batches cannot be submitted or run now; empty if they can."""
        return (
            ("stops when its live Runs have ended" if self.is_draining else "")
            or disk_words(self.disk, self.account)
            or platform_words(self.outage, self.account)
            or fleet_words(self.fleet)
            or self._refusal
            or stopped_words(filter(self._is_own, self.store))
        )

    @property
    def _refusal(self) -> str:
        """Why the platform refuses the account to all batches under way; empty if it does not."""
        refusals = [runner.refusal for runner in self.runners.values()]
        return refusals[0] if refusals and all(refusals) else ""

    # Life.

    async def run(self) -> None:
        """Run all batches, also those submitted meanwhile, until cancelled.

        Raises:
            BatchRefused: the platform does not accept the token.
            OutputError: an error on this machine.
        """
        live_before = {} if self.fleet is not None else await anyio.to_thread.run_sync(self._read_ledgers)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(delivering(self.notifier))
            watch = await stack.enter_async_context(open_children(cancels_on_leaving=True))
            watch.start_soon(self._watch_conditions)  # the platform may be away now
            self.account = await self._open_account(stack)
            for out_dir, live in live_before.items():
                self.account.keep_permits(out_dir, live)
            async with open_children() as children:
                self._children = children
                self.connected.set()
                children.start_soon(self._sample)
                children.start_soon(self.disk.run)
                children.start_soon(watch_spool, self.directory, self.store, self._take_spooled)
                for submission in self.store:
                    if submission.state.is_under_way:
                        self._start_runner(submission.id)
                await self._resume_all(*_MAY_GO_ON)
                own = [*self.store] if self.fleet is None else []
                for submission in await anyio.to_thread.run_sync(with_old_summary, self.directory, own):
                    await self.sync_summary(submission.id)  # the last process was killed before it did
                await anyio.sleep_forever()

    async def _take_spooled(self, submission: Submission) -> Submission:
        if self.fleet is not None:
            raise ConfigError(
                "this worker is one of a fleet, which takes nothing from the spool, as the results may be on another"
                " machine: submit it with `batchrun worker submit`"
            )
        taken = await self.submit(submission)
        await self.sync_summary(taken.id)  # of the earlier lines, to a program that takes away what is finished
        return taken

    async def _open_account(self, stack: AsyncExitStack) -> Account:
        account = await stack.enter_async_context(
            open_account(
                self.config.api,
                self.config.limits,
                budget=self.budget,
                environ=self.environ,
                server=self.config.server,
                work_dir=self.directory.path,
                note_outage=self._note_outage,
            )
        )
        self._note_outage("")
        account.change_limits(self.config.limits)  # they may have changed during the wait for the platform
        return account

    def begin(self, submission_id: str) -> None:
        """Carry out a batch that the fleet has given to this worker."""
        if self.store[submission_id].state.is_under_way or self.store[submission_id].state is BatchState.STOPPED:
            self._start_runner(submission_id)

    def _is_own(self, submission: Submission) -> bool:
        return self.fleet is None or self.fleet.owns(submission.id)

    def _start_runner(self, submission_id: str) -> None:
        if not self._is_own(self.store[submission_id]):
            return  # another worker of the fleet carries it out
        if self._children is None or self.account is None or self.is_draining:
            return  # the next `run` starts the runners of all batches under way
        if submission_id in self.mended:
            return  # `mending` starts it in the end
        if submission_id in self.runners:
            return  # `_run_batch` starts a new runner when this one has ended
        runner = BatchRunner(
            submission_id,
            self.store,
            self.directory,
            lambda: self.config,
            self.environ,
            self.account,
            self.trace,
            self.notifier,
            self.fleet,
        )
        self.runners[submission_id] = runner
        self._children.start_soon(self._run_batch, runner, self.account)

    async def _run_batch(self, runner: BatchRunner, account: Account) -> None:
        try:
            await runner.run(self._open_batches)
            if not self.store[runner.id].state.is_under_way:
                await self.sync_summary(runner.id)  # while a worker that drains waits for it
        finally:
            del self.runners[runner.id]
            account.keep_permits(self.directory.out_dir(runner.submission), 0)
            if self._runner_ended is not None:
                self._runner_ended.set()
                self._runner_ended = None
        if self.store[runner.id].state.is_under_way:
            self._start_runner(runner.id)  # it was resumed while it was being closed

    async def sync_summary(self, submission_id: str) -> None:
        """Write the summary of a batch that rests; remove it otherwise."""
        async with self.store.lock:
            submission = self.store.get(submission_id)
            if submission is None:
                return  # it was deleted, with the directory of its summary
            try:
                if submission.state.is_under_way:
                    await anyio.to_thread.run_sync(remove_summary_file, self.directory, submission)
                else:
                    await anyio.to_thread.run_sync(write_summary_file, self.directory, submission, self.store)
            except OutputError as error:
                _log.warning("summary_not_written", batch=submission_id, reason=str(error))

    async def apply_state(self, submission: Submission) -> None:
        """Have a batch paused or cancelled by its runner; without one, store that it rests, or start a runner."""
        runner = self.runners.get(submission.id)
        if runner is not None:
            runner.apply_state(submission.state)
        elif await may_have_begun(submission, self.directory, self.fleet):
            self._start_runner(submission.id)  # to abort or to follow its live Runs
        elif submission.state is BatchState.CANCELLING:
            ended = {"state": BatchState.CANCELLED, "ended_at": datetime.now(UTC)}
            await self.store.update(submission.id, lambda _: ended)
            await self.sync_summary(submission.id)
        else:
            await self.store.update(submission.id, lambda _: {"state": BatchState.PAUSED})

    async def _sample(self) -> None:
        while True:
            for runner in self.runners.values():
                runner.sample()
            assert self.account is not None, "`run` opens the account first"
            self._note_outage(self.account.client.outage)
            self.request_speed.note(anyio.current_time(), self.account.client.requests.count)
            self.samples.append((datetime.now(UTC), self.live_runs, self.account.max_live_runs))
            await self.store.save_unsaved()
            await anyio.sleep(SAMPLE_INTERVAL_S)

    async def _watch_conditions(self) -> None:
        while True:
            disk_low = None if self.account is None else self.account.disk.low
            await self._watch.look(self.outage or self._refusal, disk_low)
            await anyio.sleep(SAMPLE_INTERVAL_S)

    def _note_outage(self, reason: str) -> None:
        """Note why the platform cannot be reached; its client has logged that, once."""
        self.outage = reason

    def _read_ledgers(self) -> dict[Path, int]:
        """Add up the costs of all batches; return the number of possibly live Runs of each batch to resume."""
        live: dict[Path, int] = {}
        for submission in self.store:
            use = self.account_use(submission)
            self.budget.spent_usd += use.spent_usd
            self.budget.reserved_usd += use.reserved_usd
            if use.live_runs and (submission.state.is_under_way or submission.state is BatchState.STOPPED):
                live[self.directory.out_dir(submission)] = use.live_runs
        return live

    def account_use(self, submission: Submission) -> AccountUse:
        """Return what a batch uses of the account, by its ledger. Blocks."""
        return read_account_use(submission, self.directory, has_budget=self.budget.limit_usd is not None)


@asynccontextmanager
async def open_worker(
    directory: DataDirectory, config: WorkerConfig, environ: Mapping[str, str]
) -> AsyncIterator[Worker]:
    """Read the batches of an open data directory; they run while the worker's `run` does.

    Raises:
        OutputError: the directory cannot be read or written.
        ConfigError: a secret of `[notify]` cannot be read, or is none.
    """
    channels = await anyio.to_thread.run_sync(open_channels, config.notify, environ)
    with confined(directory.spool):
        async with _fleet_of(directory, config) as fleet:
            worker = Worker(directory, config, environ, channels, fleet)
            # Before any batch can be submitted: `load` removes directories of incomplete submissions.
            await anyio.to_thread.run_sync(worker.store.load)
            yield worker


@asynccontextmanager
async def _fleet_of(directory: DataDirectory, config: WorkerConfig) -> AsyncIterator[Fleet | None]:
    service = config.worker
    if service.fleet is None:
        yield None
        return
    if config.api.is_embedded:
        raise ConfigError("must be a platform that all workers of a fleet reach", key="api.base_url")
    async with open_fleet(service.fleet, service.lease_s, directory) as fleet:
        yield fleet
