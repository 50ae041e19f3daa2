"""What a worker does for its fleet, again and again: read the page, obey it, write what it has, take what waits."""

from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from itertools import count

import anyio
import structlog
from anyio.abc import TaskGroup

from batchrun.account.account import Account
from batchrun.batch.running_batch import Batch
from batchrun.errors import BatchrunError, LedgerError, LogUnreachable, OutputError
from batchrun.runtime.steady_time import boot_time
from batchrun.worker.account_share import AccountShare
from batchrun.worker.batch_deletion import drop
from batchrun.worker.batch_orders import follow_order
from batchrun.worker.fleet.fleet import Fleet
from batchrun.worker.fleet.fleet_limits import Resource, micro_usd
from batchrun.worker.fleet.fleet_list import ListedBatch
from batchrun.worker.fleet.fleet_members import Page
from batchrun.worker.fleet.sharded_order import OrderVerb
from batchrun.worker.shard_duty import ShardDuty
from batchrun.worker.submission import BatchState, Submission
from batchrun.worker.worker import Worker

#: Seconds between two looks at the page; less if a tenth of the lease is less.
LOOK_INTERVAL_S = 0.4
#: Seconds between two tries to bring a batch's files here.
RETRY_INTERVAL_S = 2.0
#: Tries after which a batch with live Runs is left to other workers.
MAX_RETRIES = 3
#: Tries after which a batch has failed whose files the store lacks, or has damaged.
MAX_FILE_RETRIES = 5
#: Seconds between two batches that a worker gives away to one that has fewer.
GIVE_AWAY_INTERVAL_S = 3.0
#: Max characters of a trouble that quotes what others have written.
_MAX_TROUBLE = 500
#: What comes of it where it fits no model: whoever can write to the store must not end all workers, at each start.
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)

_log = structlog.get_logger()


async def serve_fleet(worker: Worker, fleet: Fleet) -> None:
    """Do a worker's duty for its fleet, until cancelled."""
    await _look_until_connected(worker, fleet)
    assert worker.account is not None, "the worker is connected"
    async with anyio.create_task_group() as children:
        duty = FleetDuty(worker, fleet, worker.account, children)
        while not fleet.is_leaving:
            await duty.turn_or_trouble()
            with anyio.move_on_after(min(LOOK_INTERVAL_S, fleet.lease_s / 10)):
                await fleet.alarm.wait()
            fleet.alarm = anyio.Event()


async def _look_until_connected(worker: Worker, fleet: Fleet) -> None:
    """Show all batches as long as the platform has not answered: orders for them can be put on the list."""
    while not worker.connected.is_set():
        try:
            await fleet.read()
            fleet.note_trouble("")
            assert worker.mirrored is not None, "the worker is in a fleet"
            worker.mirrored.mirror()
        except (LogUnreachable, LedgerError) as error:
            fleet.note_trouble(str(error))
        except _UNREADABLE as error:
            _note_unreadable(fleet, error)
        with anyio.move_on_after(LOOK_INTERVAL_S):
            await worker.connected.wait()


def _note_unreadable(fleet: Fleet, error: Exception) -> None:
    if not fleet.trouble:
        _log.exception("fleet_unreadable")
    fleet.note_trouble(f"what others have written cannot be worked with: {error!r}"[:_MAX_TROUBLE])


async def leave_fleet(worker: Worker, fleet: Fleet) -> None:
    """Leave this worker's batches to the others, once none is open here.

    Raises:
        LogUnreachable: the store does not answer: the others take them over after 1.5 leases.
    """
    fleet.is_leaving = True
    await _publish(worker, fleet)
    while True:
        await fleet.read()
        if fleet.member.id not in fleet.page.members:
            return
        over = {batch: _money(worker, fleet, batch) for batch in _over(worker, fleet)}
        left = {batch: _money(worker, fleet, batch) for batch in fleet.member.aside}
        page = fleet.member.leave(fleet.page, boot_time(), over, left)
        if await fleet.call(partial(fleet.pages.replace, page)):
            return


async def _publish(worker: Worker, fleet: Fleet) -> None:
    """Put on the list what has become of this worker's batches, with what those have spent that are closed."""
    for batch in sorted(fleet.ready - fleet.deleted):
        counted = _counted(worker, batch) if batch not in worker.runners else None
        await fleet.publish(worker.store[batch], counted)


def _over(worker: Worker, fleet: Fleet) -> list[str]:
    """Return the batches in this worker's name that nobody carries out any more.

    The list says first what they have spent: when one of them goes on, this is what is taken back from what the page
    counts as spent for good.
    """
    mine = fleet.page.members.get(fleet.member.id)
    over = []
    for batch in mine.batches if mine is not None else ():
        listed = fleet.listed.get(batch)
        state = listed.submission.state if listed is not None else BatchState.FAILED
        is_listed = listed is None or _counted(worker, batch) in (None, listed.spent_micro_usd)
        if not state.is_under_way and state is not BatchState.STOPPED and batch not in worker.runners and is_listed:
            over.append(batch)
    return over


def _counted(worker: Worker, batch: str) -> int | None:
    """Return what a closed batch has spent and reserved, in millionths of a US dollar; None: it was not open here."""
    assert worker.account is not None, "batches are carried out in an account"
    money = worker.account.money_of(worker.directory.of(batch) / "out")
    return None if money is None else micro_usd(money)


def _money(worker: Worker, fleet: Fleet, batch: str) -> int:
    """Return what a batch that is closed has spent and reserved, in millionths of a US dollar."""
    if (counted := _counted(worker, batch)) is not None:
        return counted
    # It was over when this worker took it over, or has only obeyed an order here.
    if batch in fleet.listed:
        return _listed_money(fleet.listed[batch])
    carried = fleet.page.members[fleet.member.id].batches.get(batch)
    return carried.spent_before if carried is not None else 0  # it was deleted


def _listed_money(listed: ListedBatch) -> int:
    spent = listed.spent_micro_usd
    return spent if spent is not None else micro_usd(listed.submission.counts.cost_usd)


def set_all_aside(worker: Worker, fleet: Fleet) -> None:
    """Set the open batches aside, once no start of them is let through any more: this worker is about to leave."""
    for batch, runner in worker.runners.items():
        if runner.batch is not None and runner.batch.has_adopted_all:
            _set_aside(fleet, batch, runner.batch)


def _set_aside(fleet: Fleet, batch: str, opened: Batch) -> None:
    runs, memory_mb = opened.held_permits
    fleet.member.set_aside(batch, {Resource.RUNS: runs, Resource.MEMORY: memory_mb})


class FleetDuty:
    """One worker's duty.

    Args:
        worker: carries batches out.
        fleet: its fleet.
        account: of the worker.
        children: bring batches here.
    """

    def __init__(self, worker: Worker, fleet: Fleet, account: Account, children: TaskGroup) -> None:
        self._worker = worker
        self._fleet = fleet
        self._account = account
        self._children = children
        self._share = AccountShare(worker, fleet, account)
        #: Batches in shards of which this worker has some.
        self._parts = ShardDuty(worker, fleet)
        #: Failed jobs of those as they stand on the page.
        self._failed = 0
        #: Batches whose files are being brought here.
        self._coming: set[str] = set()
        #: Batches for which orders are being carried out.
        self._following: set[str] = set()
        #: Batches that were closed here, and whose money is counted as long as the page names them beside this worker.
        self._closed: set[str] = set()
        #: Deleted batches of which nothing is here any more.
        self._dropped: set[str] = set()
        self._gave_away_at = float("-inf")
        self.obey(Page())

    async def turn_or_trouble(self) -> None:
        """Look at the page once; trouble with the store, and with what others have written there, is shown."""
        try:
            try:
                await self.turn()
                self._fleet.note_trouble("")
            except (LogUnreachable, LedgerError) as error:
                self._fleet.note_trouble(str(error))
                self._fleet.member.hear_nothing(boot_time())
                self.obey(self._fleet.page)
        except _UNREADABLE as error:
            _note_unreadable(self._fleet, error)
            self._share.use_nothing()

    async def turn(self) -> None:
        """Look at the page once, and write it if there is something to change."""
        fleet, worker = self._fleet, self._worker
        await fleet.read()
        if not fleet.member.see(fleet.page, boot_time()):
            await self._begin_anew()
        self._forget()
        self._drop_deleted()
        self._mirror()
        await _publish(worker, fleet)
        self._follow_orders()
        over = [batch for batch in _over(worker, fleet) if batch not in self._coming and not self._is_wanted(batch)]
        fleet.member.settle([batch for batch in fleet.member.unsettled if self._is_settled(batch)])
        for batch in fleet.member.unsettled & fleet.refused:  # it has come back, with others of a member that is gone
            fleet.member.give_back(batch)
        fleet.member.count_money([batch for batch in fleet.ready if _counted(worker, batch) is not None])
        self.obey(fleet.page)
        if worker.is_draining:
            over, waiting = [], list[str]()
        else:
            open_batches = fleet.to_carry_out | (fleet.wanted & fleet.listed.keys())
            carried = fleet.page.carriers()
            waiting = [each for each in fleet.listed if each in open_batches and each not in carried]
        number = fleet.pages.number + 1
        after = fleet.member.propose(
            fleet.page,
            number,
            boot_time(),
            self._share.use(),
            waiting=waiting,
            rested={batch: _listed_money(fleet.listed[batch]) for batch in waiting},
            wanted=fleet.wanted,
            over={batch: _money(worker, fleet, batch) for batch in over},
            left={batch: _money(worker, fleet, batch) for batch in fleet.member.aside if batch not in worker.runners},
            refused=fleet.refused,
            max_batches=worker.config.worker.max_open_batches,
            is_urgent=(failed := self._parts.failed()) != self._failed,
        )
        changed, is_news = self._parts.change(after or fleet.page)
        if after is not None or is_news:
            after = changed
            # Before the others may see that they are free: an order for one of them has it taken anew.
            dropped = self._drop_from_ready(after)
            if not await fleet.call(partial(fleet.pages.replace, after)):
                fleet.ready |= dropped
                self._closed -= dropped
                fleet.alarm.set()  # another member was first: look again at once
                return
            fleet.member.see(after, boot_time())
            fleet.page, self._failed = after, failed
            self.obey(after)
        self._bring()
        if not worker.is_draining:
            self._give_away()

    def _give_away(self) -> None:
        """Close a batch for a worker that has two fewer: one at a time, and only if all is known of all."""
        fleet, members = self._fleet, self._fleet.page.members
        mine = members.get(fleet.member.id)
        counts = [len(member.batches) for member in members.values()]
        runs = fleet.page.limit(Resource.RUNS) or 0
        if (
            mine is None
            or len(mine.batches) < min(counts) + 2
            or len(mine.batches) < max(counts)
            or any(member.has_left for member in members.values())
            or sum(1 for count in counts if count) >= runs
            or fleet.member.unsettled
            or fleet.member.aside
            or mine.batches.keys() != self._worker.runners.keys()
            or anyio.current_time() - self._gave_away_at < GIVE_AWAY_INTERVAL_S
        ):
            return
        opened = {batch: runner.batch for batch, runner in self._worker.runners.items() if runner.batch is not None}
        ready = {batch: opened[batch] for batch in opened if opened[batch].has_adopted_all}
        if len(ready) == len(mine.batches):
            batch = min(ready, key=lambda each: (ready[each].held_permits, each))
            self._gave_away_at = anyio.current_time()
            ready[batch].stop_starting()
            _set_aside(fleet, batch, ready[batch])
            self.obey(fleet.page)
            fleet.ready.discard(batch)
            self._closed.add(batch)
            self._worker.runners[batch].let_go()

    async def _begin_anew(self) -> None:
        """Leave all batches, which others carry out by now, and become a new member."""
        _log.warning("fleet_left", reason="nothing was heard of this worker for 1.5 leases: others have its batches")
        # First: a batch that is being brought here for the old member must not be begun any more.
        await anyio.to_thread.run_sync(self._fleet.new_member)
        for runner in self._worker.runners.values():
            runner.let_go()
        await self._worker.wait_until_drained()
        self._closed.clear()
        self._account.forget_money()
        self._fleet.member.see(self._fleet.page, boot_time())

    def _drop_deleted(self) -> None:
        """Delete here what was deleted from the list."""
        for batch in self._fleet.deleted - self._dropped:
            self._dropped.add(batch)
            if self._worker.store.get(batch) is not None:
                self._children.start_soon(self._drop, batch)

    async def _drop(self, batch: str) -> None:
        try:
            await drop(self._worker, batch)
        except OutputError as error:
            _log.warning("batch_not_deleted", batch=batch, reason=str(error))

    def _mirror(self) -> None:
        """Let the store of submissions have the batches of the others."""
        if self._worker.mirrored is not None:
            self._worker.mirrored.mirror()

    def _is_wanted(self, batch: str) -> bool:
        """True if there is an order for a batch, which is carried out by the worker that has it."""
        return batch in self._fleet.wanted or bool(self._fleet.orders_for(batch))

    def _follow_orders(self) -> None:
        """Carry out orders for the parts of batches in shards that this worker has."""
        for batch in self._fleet.ready - self._following:
            if self._fleet.orders_for(batch):
                self._following.add(batch)
                self._children.start_soon(self._follow, batch)

    async def _follow(self, batch: str) -> None:
        try:
            part = self._worker.store[batch]
            if (whole := self._fleet.whole_of(part)) is None:
                return
            for order in whole.orders_for(part):
                if self._worker.store[batch].retry is not None and order.verb is OrderVerb.RETRY:
                    return  # one after the other
                await follow_order(self._worker, batch, whole.listed.submission, order)
        except (BatchrunError, OSError) as error:
            _log.warning("order_not_followed", batch=batch, reason=str(error))
        finally:
            self._following.discard(batch)

    def _is_settled(self, batch: str) -> bool:
        """True if the live Runs of a batch count as used, or it has none that this worker will follow."""
        runner = self._worker.runners.get(batch)
        if runner is not None and runner.batch is not None:
            return runner.batch.has_adopted_all
        return batch in self._fleet.ready and batch not in self._coming and runner is None

    def _drop_from_ready(self, after: Page) -> set[str]:
        """Own the batches no more that a page is about to take from this worker; return them."""
        mine = after.members.get(self._fleet.member.id)
        dropped = self._fleet.ready - (mine.batches.keys() if mine is not None else set())
        self._fleet.ready -= dropped
        self._closed |= dropped
        return dropped

    def _forget(self) -> None:
        """Let go of batches that the page does not give to this worker any more: they are over."""
        mine = self._fleet.page.members.get(self._fleet.member.id)
        for batch in (self._fleet.ready | self._closed) - (mine.batches.keys() if mine is not None else set()):
            self._fleet.ready.discard(batch)
            self._closed.discard(batch)
            self._account.uncount_money(self._worker.directory.of(batch) / "out")

    def obey(self, page: Page) -> None:
        """Use no more than what the page allows, from now on."""
        self._share.obey(page)
        self._parts.obey(page)

    def _bring(self) -> None:
        """Bring the batches here that the page gives to this worker."""
        mine = self._fleet.page.members.get(self._fleet.member.id)
        for batch in mine.batches if mine is not None else ():
            is_here = batch in self._fleet.ready or batch in self._coming or batch in self._fleet.member.aside
            if not is_here and batch in self._fleet.listed and batch not in self._fleet.refused:
                self._coming.add(batch)
                self._children.start_soon(self._bring_one, batch, self._fleet.member.id)

    async def _bring_one(self, batch: str, member_id: str) -> None:
        fleet = self._fleet
        try:
            for tries in count(1):
                listed = fleet.listed.get(batch)
                if listed is None or fleet.member.id != member_id or fleet.carrier(batch) is not None:
                    return
                try:
                    await anyio.to_thread.run_sync(fleet.prepare, listed)  # for long, if the job file is large
                    await self._worker.store.take_over(listed.submission)
                except (BatchrunError, OSError) as error:
                    _log.warning("batch_not_brought", batch=batch, reason=str(error))
                    if tries > MAX_RETRIES and batch in fleet.member.unsettled:
                        await fleet.give_back(listed.submission, str(error))
                        return
                    if tries > MAX_FILE_RETRIES and isinstance(error, LedgerError):
                        await self._take_without_files(listed.submission, str(error), member_id)
                        return
                    await anyio.sleep(RETRY_INTERVAL_S)
                    continue
                if await self._is_taken(batch, member_id):
                    self._worker.begin(batch)
                return
        finally:
            self._coming.discard(batch)
            with suppress(RuntimeError):
                fleet.alarm.set()

    async def _is_taken(self, batch: str, member_id: str) -> bool:
        """Have a batch from now on, and let it obey its orders; False: another member has it by now."""
        if self._fleet.member.id != member_id:
            return False
        self._fleet.ready.add(batch)
        self._following.add(batch)
        await self._follow(batch)  # before it begins
        return True

    async def _take_without_files(self, submission: Submission, reason: str, member_id: str) -> None:
        """Let a batch fail whose files cannot be had: it takes no place any more, and obeys orders all the same."""
        if submission.state.is_under_way:
            submission = submission.but(
                state=BatchState.FAILED, reason=f"its files cannot be had: {reason}", ended_at=datetime.now(UTC)
            )
        await self._worker.store.take_over(submission)
        await self._is_taken(submission.id, member_id)
