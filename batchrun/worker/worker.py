"""The worker: takes batches, carries them out side by side in one account, and goes on with all after a restart."""

from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import structlog
from anyio.abc import TaskGroup
from pydantic import ValidationError

from batchrun.account.account import Account, open_account
from batchrun.config.load import as_config_error
from batchrun.config.worker_config import WorkerConfig, WorkerLimitsConfig
from batchrun.errors import BatchrunError, ConfigError, LedgerError, OutputError
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.output.layout import BATCH_LOG
from batchrun.output.lock import enter_lock
from batchrun.policy.budget import Budget
from batchrun.runtime.children import open_children
from batchrun.worker.batch_runner import Carrier, Decide, Surroundings, Trace, no_trace
from batchrun.worker.spool import watch_spool
from batchrun.worker.submission import State, Submission
from batchrun.worker.submission_config import config_of
from batchrun.worker.submission_store import Layout, Shelf, has_begun
from batchrun.worker.summary_file import write_summary_file

#: Between two looks at how far the batches are.
TICK_S = 1.0
#: Slot use is kept for so many looks.
MAX_SAMPLES = 3600
RETENTION_INTERVAL_S = 600.0

_log = structlog.get_logger()


class WrongState(BatchrunError):
    """What is asked for cannot be done with a batch in the state that it is in."""


class UnknownBatch(BatchrunError):
    """There is no batch with this id or name, or several have the name."""


#: States out of which a batch can be told to go on, to rest, and to end.
RESUMABLE = frozenset(
    {State.PAUSING, State.PAUSED, State.STOPPED, State.TRIPPED, State.OUT_OF_BUDGET, State.FAILED, State.CANCELLED}
)
PAUSABLE = frozenset({State.QUEUED, State.ACTIVE})
CANCELLABLE = frozenset(state for state in State if not state.is_over)


class Worker:
    """All batches of one data directory; open it with `open_worker`.

    Args:
        layout: of the data directory.
        config: of the worker.
        environ: holds the token.
    """

    def __init__(self, layout: Layout, config: WorkerConfig, environ: Mapping[str, str]) -> None:
        self.layout = layout
        self.config = config
        self.environ = environ
        self.shelf = Shelf(layout)
        self.began_at = datetime.now(UTC)
        #: Live Runs and places once a second, the oldest first.
        self.samples: deque[tuple[datetime, int, int]] = deque(maxlen=MAX_SAMPLES)
        self.carriers: dict[str, Carrier] = {}
        #: None until the platform has told whose token this is.
        self.account: Account | None = None
        #: Why the platform cannot be reached; empty while it can.
        self.outage = ""
        self.is_draining = False
        #: How batches are traced that are taken up from now on.
        self.trace: Trace = no_trace
        self._budget = Budget(config.limits.budget_usd)
        self._noting = anyio.Lock()
        self._places = anyio.Semaphore(config.worker.max_open_batches)
        #: Made by who waits until a carrier has ended.
        self._closed: anyio.Event | None = None
        self._children: TaskGroup | None = None

    # What it is told to do.

    async def add(self, submission: Submission) -> Submission:
        """Take a batch: note it, and carry it out as soon as there is a place.

        Its files are to lie in their places already. What cannot be carried out is refused here, not noted.

        Raises:
            ConfigError: it cannot be used as it is.
            OutputError: it cannot be noted.
        """
        config = await anyio.to_thread.run_sync(config_of, submission, self.layout, self.config, self.environ)
        if not await anyio.Path(config.jobs.file).is_file():
            raise ConfigError(f"{config.jobs.file} is no file; hand the job file in with it", key="jobs.file")
        async with self._noting:
            await anyio.to_thread.run_sync(self.shelf.save, submission)
        _log.info("batch_taken", batch=submission.id, name=submission.name)
        self._take_up(submission.id)
        return submission

    async def note(self, submission: Submission) -> None:
        """Note a batch that is not to be carried out, or not now."""
        async with self._noting:
            await anyio.to_thread.run_sync(self.shelf.save, submission)

    async def pause(self, submission_id: str) -> Submission:
        """Start nothing more of a batch; it rests when its live Runs have ended.

        Raises:
            WrongState: it is not under way.
        """
        changed = await self._change(submission_id, PAUSABLE, "paused", state=State.PAUSING)
        await self._tell(changed)
        return self.get(submission_id)

    async def cancel(self, submission_id: str) -> Submission:
        """Start nothing more of a batch and abort its live Runs; it ends when these have, with all their records.

        Raises:
            WrongState: it is over.
        """
        changed = await self._change(submission_id, CANCELLABLE, "cancelled", state=State.CANCELLING)
        await self._tell(changed)
        return self.get(submission_id)

    async def resume(self, submission_id: str) -> Submission:
        """Go on with a batch that rests, or is about to.

        Raises:
            WrongState: it is under way, or finished.
        """
        await self._change(submission_id, RESUMABLE, "resumed", state=State.QUEUED, reason="", ended_at=None)
        carrier = self.carriers.get(submission_id)
        if carrier is not None:
            carrier.reopen()
        else:
            self._take_up(submission_id)
        return self.get(submission_id)

    async def change(self, submission_id: str, **changes: Any) -> Submission:
        """Change a batch's weight, priority or settings, also while it is carried out.

        Raises:
            ConfigError: the batch cannot be carried out with it; nothing is changed.
        """
        try:
            wanted = self.get(submission_id).but(**changes)
        except ValidationError as error:
            raise as_config_error(error, None, {}, Submission) from None
        await anyio.to_thread.run_sync(config_of, wanted, self.layout, self.config, self.environ)
        changed = await self._change(submission_id, frozenset(State), "changed", **changes)
        if (carrier := self.carriers.get(submission_id)) is not None:
            await carrier.adapt()
        return changed

    async def change_limits(self, limits: WorkerLimitsConfig) -> None:
        """Keep other limits for all batches together, from now until the next start or reload."""
        self.config = self.config.model_copy(update={"limits": limits})
        # Batches that are open without a budget are opened anew, below, before they keep to one.
        self._budget.limit_usd = limits.budget_usd
        if self.account is not None:
            self.account.change_limits(limits)
        for carrier in list(self.carriers.values()):
            await carrier.adapt()

    async def reload(self, config: WorkerConfig) -> None:
        """Take over a configuration that was read again, and try again what was stopped.

        What is fixed when the worker starts (the platform, address and port) stays as it is.
        """
        service = config.worker.model_copy(update={"host": self.config.worker.host, "port": self.config.worker.port})
        self.config = self.config.model_copy(update={"worker": service})
        await self.change_limits(config.limits)
        await self.retry_stopped()

    async def delete(self, submission_id: str) -> None:
        """Forget a batch that is not under way, with all that lies in its own directory, and what it has spent.

        Raises:
            WrongState: it is under way.
            OutputError: something cannot be deleted.
        """
        async with self._noting:
            submission = self.get(submission_id)
            if submission.state.is_under_way or submission_id in self.carriers:
                raise WrongState(f"batch {submission_id} is {submission.state}; cancel or pause it first")
            taken = await anyio.to_thread.run_sync(self._taken_by, submission)
            await anyio.to_thread.run_sync(self.shelf.delete, submission)
        # As the next start would have it, which adds up what the batches that are kept have spent.
        self._budget.spent_usd -= taken.spent_usd
        self._budget.reserved_usd -= taken.reserved_usd
        self._budget.notify_sharers()
        _log.info("batch_deleted", batch=submission_id)

    def drain(self) -> int:
        """Start nothing more of any batch; return how many Runs are live."""
        self.is_draining = True
        for carrier in self.carriers.values():
            carrier.drain()
        return self.live_runs

    # What it knows.

    def get(self, submission_id: str) -> Submission:
        """Return a submission as it is noted.

        Raises:
            UnknownBatch: there is none.
        """
        found = self.shelf.get(submission_id)
        if found is None:
            raise UnknownBatch(f"there is no batch {submission_id!r}")
        return found

    def find(self, named: str) -> Submission:
        """Return the submission with this id, or the only one with this name.

        Raises:
            UnknownBatch: there is none, or several have the name.
        """
        if (found := self.shelf.get(named)) is not None:
            return found
        same = [each for each in self.shelf if each.name == named]
        if len(same) > 1:
            ids = ", ".join(each.id for each in same)
            raise UnknownBatch(f"{len(same)} batches are named {named!r}; take an id: {ids}")
        if not same:
            raise UnknownBatch(f"there is no batch {named!r}")
        return same[0]

    def log_file(self, submission_id: str) -> Path | None:
        """Return where a batch's own log is, or None where there is no such batch; may be asked in any thread."""
        submission = self.shelf.get(submission_id)
        return None if submission is None else self.layout.out_dir(submission) / BATCH_LOG

    @property
    def live_runs(self) -> int:
        """Runs that are live or being started, of all batches."""
        return self.account.live_runs if self.account is not None else 0

    @property
    def budget(self) -> Budget:
        """What all batches may cost together, and what of it is spent and set aside."""
        return self._budget

    @property
    def is_ready(self) -> bool:
        """Whether batches can be taken and carried out now."""
        return self.account is not None and not self.outage and not self.is_draining

    # How it lives.

    async def run(self) -> None:
        """Carry out what is there and what comes, until cancelled or drained.

        Raises:
            BatchRefused: the platform does not accept the token.
            OutputError: this machine does not let us.
        """
        left = await anyio.to_thread.run_sync(self._read_ledgers)
        async with AsyncExitStack() as stack:
            self.account = await self._open_account(stack)
            for out_dir, live in left.items():
                self.account.keep_permits(out_dir, live)
            async with open_children() as children:
                self._children = children
                children.start_soon(self._tick)
                children.start_soon(self._retain)
                children.start_soon(watch_spool, self)
                for submission in self.shelf:
                    if submission.state.is_under_way:
                        self._take_up(submission.id)
                await self.retry_stopped()
                for submission in self.shelf:
                    if not submission.state.is_under_way:
                        await self._write_summary(submission)  # where the last process was killed before it did
                await anyio.sleep_forever()

    async def wait_until_drained(self) -> None:
        """Return when no batch is open any more."""
        while self.carriers:
            self._closed = self._closed or anyio.Event()
            await self._closed.wait()

    def let_go(self) -> None:
        """Leave all live Runs running and noted."""
        for carrier in self.carriers.values():
            carrier.let_go()

    async def retry_stopped(self) -> None:
        """Take up again what was stopped by something that may be gone."""
        for submission in self.shelf:
            if submission.state is State.STOPPED and submission.id not in self.carriers:
                try:
                    await self.resume(submission.id)
                except BatchrunError as error:
                    _log.warning("batch_not_resumed", batch=submission.id, reason=str(error))

    async def _open_account(self, stack: AsyncExitStack) -> Account:
        account = await stack.enter_async_context(
            open_account(
                self.config.api,
                self.config.limits,
                budget=self._budget,
                environ=self.environ,
                server=self.config.server,
                server_dir=self.layout.server,
                note_outage=self._note_outage,
            )
        )
        self._note_outage("")
        account.change_limits(self.config.limits)  # they may have changed while nobody answered
        return account

    def _take_up(self, submission_id: str) -> None:
        if self._children is None or self.account is None or self.is_draining:
            return  # the start of the worker takes up all that is noted
        if submission_id in self.carriers:
            return  # it is being closed, and taken up again then
        around = Surroundings(
            layout=self.layout,
            config=lambda: self.config,
            environ=self.environ,
            account=self.account,
            change=self._note_change,
            trace=self.trace,
        )
        carrier = Carrier(submission_id, partial(self.get, submission_id), around)
        self.carriers[submission_id] = carrier
        self._children.start_soon(self._carry, carrier)

    async def _carry(self, carrier: Carrier) -> None:
        try:
            await carrier.run(self._places)
        finally:
            del self.carriers[carrier.id]
            assert self.account is not None, "nothing is carried out without"
            self.account.keep_permits(self.layout.out_dir(carrier.submission), 0)
            if self._closed is not None:
                self._closed.set()
                self._closed = None
        submission = self.get(carrier.id)
        if submission.state.is_under_way:
            self._take_up(carrier.id)  # it was told to go on while it was being closed
        else:
            await self._write_summary(submission)

    async def _write_summary(self, submission: Submission) -> None:
        async with self._noting:
            if self.shelf.get(submission.id) is None:
                return  # deleted meanwhile, with the directory that it goes into
            try:
                await anyio.to_thread.run_sync(write_summary_file, self.layout, submission)
            except OutputError as error:
                _log.warning("summary_not_written", batch=submission.id, reason=str(error))

    async def _tell(self, submission: Submission) -> None:
        """Have a batch's carrier do what its new state asks for; without one, it rests at once or is taken up."""
        carrier = self.carriers.get(submission.id)
        if carrier is not None:
            carrier.obey(submission.state)
        elif await anyio.to_thread.run_sync(has_begun, self.layout.out_dir(submission)):
            self._take_up(submission.id)  # Runs of it may be live
        elif submission.state is State.CANCELLING:
            now = datetime.now(UTC)
            cancelled = await self._note_change(submission.id, lambda _: {"state": State.CANCELLED, "ended_at": now})
            await self._write_summary(cancelled)
        else:
            await self._note_change(submission.id, lambda _: {"state": State.PAUSED})

    async def _change(self, submission_id: str, allowed: frozenset[State], what: str, **changes: Any) -> Submission:
        async with self._noting:
            submission = self.get(submission_id)
            if submission.state not in allowed:
                raise WrongState(f"batch {submission_id} is {submission.state}: it cannot be {what}")
            changed = submission.but(**changes)
            await anyio.to_thread.run_sync(self.shelf.save, changed)
        _log.info("batch_changed", batch=submission_id, what=what, state=changed.state)
        return changed

    async def _note_change(self, submission_id: str, decide: Decide) -> Submission:
        """Take note of what a carrier has brought a submission to."""
        async with self._noting:
            submission = self.get(submission_id)
            changes = decide(submission)
            changed = submission.but(**changes)
            if changes:
                await anyio.to_thread.run_sync(self.shelf.save_or_keep, changed)
        return changed

    async def _save_what_is_not(self) -> None:
        async with self._noting:
            for submission in self.shelf.unsaved:
                await anyio.to_thread.run_sync(self.shelf.save_or_keep, submission)

    async def _tick(self) -> None:
        while True:
            for carrier in self.carriers.values():
                carrier.tick()
            assert self.account is not None, "the account is opened before"
            self._note_outage(self.account.client.outage)
            self.samples.append((datetime.now(UTC), self.live_runs, self.account.max_live_runs))
            if self.shelf.unsaved:
                await self._save_what_is_not()
            await anyio.sleep(TICK_S)

    def _note_outage(self, reason: str) -> None:
        """Know why the platform cannot be reached; its client has logged that, once."""
        self.outage = reason

    async def _retain(self) -> None:
        while True:
            days = self.config.worker.keep_finished_days
            if days is not None:
                await self._delete_ended_before(datetime.now(UTC) - timedelta(days=days))
            await anyio.sleep(RETENTION_INTERVAL_S)

    async def _delete_ended_before(self, limit: datetime) -> None:
        for submission in list(self.shelf):
            if submission.state.is_over and submission.ended_at is not None and submission.ended_at < limit:
                with suppress(WrongState, UnknownBatch):
                    try:
                        await self.delete(submission.id)
                    except OutputError as error:
                        _log.warning("batch_not_deleted", batch=submission.id, reason=str(error))

    def _read_ledgers(self) -> dict[Path, int]:
        """Add up what all batches have spent; return how many Runs may be live of those that are to go on."""
        left: dict[Path, int] = {}
        for submission in self.shelf:
            taken = self._taken_by(submission)
            self._budget.spent_usd += taken.spent_usd
            self._budget.reserved_usd += taken.reserved_usd
            if taken.live_runs and (submission.state.is_under_way or submission.state is State.STOPPED):
                left[self.layout.out_dir(submission)] = taken.live_runs
        return left

    def _taken_by(self, submission: Submission) -> "_Taken":
        """Return what a batch that nobody has open has of the account."""
        if submission.state.is_over and self._budget.limit_usd is None:
            # A budget may come later. What it was then is near enough, and a thousand ledgers take their time.
            return _Taken(spent_usd=submission.counts.cost_usd)
        out_dir = self.layout.out_dir(submission)
        if not has_begun(out_dir):
            return _Taken()
        try:
            with open_for_reading(out_dir) as ledger:
                money, totals = ledger.money(), ledger.totals()
        except LedgerError as error:
            _log.warning("ledger_unreadable", batch=submission.id, reason=str(error))
            return _Taken()
        return _Taken(money.spent_usd, money.reserved_usd, totals.live_runs + totals.in_doubt)


class _Taken(NamedTuple):
    """What a batch has spent and set aside, and how many of its Runs are live, or may be."""

    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    live_runs: int = 0


@asynccontextmanager
async def open_worker(data_dir: Path, config: WorkerConfig, environ: Mapping[str, str]) -> AsyncIterator[Worker]:
    """Hold a data directory; the worker lives while its `run` does.

    Raises:
        OutputError: another process holds the directory, or it cannot be written.
    """
    layout = Layout(data_dir)
    await anyio.to_thread.run_sync(layout.make)
    async with enter_lock(data_dir):
        worker = Worker(layout, config, environ)
        # Before anybody can hand something in: what was handed in by half only is removed here.
        await anyio.to_thread.run_sync(worker.shelf.load)
        yield worker
