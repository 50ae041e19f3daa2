"""Group commit: all steps that wait become durable with one append, one sync and one transaction.

One child commits, group after group. All others hand it their steps, and wait for the group of a step if they await it.

With a shared log in a bucket, a commit takes as long as the work of many jobs. So it must not find all jobs waiting for
it: those that it wakes go on a few at a time, and the next commit begins when half of them have come back.
"""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

import anyio

from batchrun.errors import OutputError
from batchrun.ledger.commit_meter import CommitMeter
from batchrun.ledger.sqlite.journal import Journal, Step
from batchrun.runtime.children import open_children

P = ParamSpec("P")
T = TypeVar("T")


#: Longest time in seconds for which steps are gathered for a commit that a shared log has first.
LONGEST_GATHERING_S = 0.1
#: Seconds of a commit from which on those who wait for it are woken a few at a time. Waking them so costs up to a tenth
#: of the CPU time of a job, which a near store does not repay: its commits take a few milliseconds.
SLOW_COMMIT_S = 0.02
#: Max children that a slow commit wakes in one turn of the loop. All at once they would send their requests together,
#: get their answers together, and wait for the next commit together. Measured with 4 to 32.
WOKEN_AT_ONCE = 16


class _Group:
    __slots__ = ("awaited", "error", "parts", "steps")

    def __init__(self) -> None:
        self.steps: list[Step[Any]] = []
        #: Number of steps that somebody waits for.
        self.awaited = 0
        #: Each is set for `WOKEN_AT_ONCE` of those who wait, in their order, once the group is durable or has failed.
        self.parts: list[anyio.Event] = []
        self.error: BaseException | None = None

    def join(self) -> anyio.Event:
        """Count one who waits for a step; return what to wait for."""
        if self.awaited % WOKEN_AT_ONCE == 0:
            self.parts.append(anyio.Event())
        self.awaited += 1
        if self.error is not None:  # it will not be committed
            self.parts[-1].set()
        return self.parts[-1]

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.wake_all()

    def wake_all(self) -> None:
        for part in self.parts:
            part.set()

    async def wake_by_parts(self) -> None:
        """Wake one part per turn of the loop; all that are left, if cancelled."""
        try:
            for part in self.parts:
                part.set()
                await anyio.lowlevel.checkpoint()
        finally:
            self.wake_all()


class GroupCommit:
    """The `Ledger` protocol over a journal: each verb is one step of the group that is committed next.

    Without `in_thread`, commits block the event loop: for tests on virtual time.
    """

    def __init__(self, journal: Journal, *, in_thread: bool = True, meter: CommitMeter | None = None) -> None:
        self._journal = journal
        self._meter = CommitMeter() if meter is None else meter
        #: Of the thread that commits: with a shared log that cannot be reached, it waits in there. None: no thread.
        self._thread = anyio.CapacityLimiter(1) if in_thread else None
        self._group = _Group()
        self._arrived = anyio.Event()
        #: Set once enough steps have joined the group that is gathered.
        self._gathered = anyio.Event()
        #: How many awaited steps are enough.
        self._enough = 1
        #: How long the last commit took, in seconds.
        self._last_s = 0.0
        self._is_closing = False
        tables = journal.ledger
        self.admit = self._durably(journal.admit)
        self.intend = self._durably(journal.intend)
        self.note_abort = self._durably(tables.note_abort)
        self.write_items = self._durably(journal.write_items)
        self.settle = self._durably(journal.settle)
        self.open_costs = self._durably(tables.open_costs)
        self.note_final_costs = self._durably(tables.note_final_costs)
        self.known_runs = self._durably(tables.known_runs)
        self.attempts_marked = self._durably(tables.attempts_marked)
        self.note_second_run = self._durably(tables.note_second_run)
        self.bound_runs = self._durably(tables.bound_runs)
        self.note_notified = self._durably(journal.note_notified)
        self.withdraw = self._in_passing(tables.withdraw)
        self.bind = self._in_passing(tables.bind)
        self.note_reservation = self._in_passing(tables.note_reservation)
        self.postpone = self._in_passing(tables.postpone)
        self.note_trip = self._in_passing(journal.note_trip)
        self.note_echo = self._in_passing(journal.note_echo)
        self.note_watched = self._in_passing(journal.note_watched)
        self.note_unlisted = self._in_passing(journal.note_unlisted)
        self.note_all_read = self._in_passing(journal.note_all_read)
        self.note_wait = self._in_passing(journal.note_wait)
        self._log = tables.log

    def may_start(self) -> bool:
        return self._log is None or self._log.may_start()

    def _durably(self, verb: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Return a verb that waits until its step is committed."""

        async def durable(*args: P.args, **kwargs: P.kwargs) -> T:
            step, group = Step(partial(verb, *args, **kwargs)), self._group
            group.steps.append(step)
            committed = group.join()
            self._arrived.set()
            if group.awaited == self._enough:
                self._gathered.set()
            await committed.wait()
            if group.error is not None:
                raise _for_one_waiter(group.error) from group.error
            if step.refusal is not None:
                raise step.refusal
            return step.result

        return durable

    def _in_passing(self, verb: Callable[P, None]) -> Callable[P, None]:
        """Return a verb that leaves its step to the next commit."""

        def noted(*args: P.args, **kwargs: P.kwargs) -> None:
            self._group.steps.append(Step(partial(verb, *args, **kwargs)))
            self._arrived.set()

        return noted

    async def run(self) -> None:
        """Commit group after group until `close`; ends with the first group that cannot be committed."""
        async with open_children() as wakers:
            while True:
                await self._arrived.wait()
                if not self._group.steps:
                    return
                await self._gather()
                group = await self._commit_waiting()
                if self._log is None or self._last_s < SLOW_COMMIT_S:
                    group.wake_all()
                else:
                    wakers.start_soon(group.wake_by_parts)
                if not self._is_closing and not self._group.steps:
                    self._arrived = anyio.Event()

    async def _gather(self) -> None:
        """With a shared log, wait for the next steps of those that the last commit has woken.

        They arrive together, a little later than the first of them. A commit for that one alone would hold up the
        others for as long as the log takes. Once half as many wait as the last commit had, the other half can go on
        working while these wait; and no longer than a commit takes is waited.
        """
        if self._log is None or self._is_closing or self._group.awaited >= self._enough:
            return
        self._gathered = anyio.Event()
        with anyio.move_on_after(min(self._last_s, LONGEST_GATHERING_S)):
            await self._gathered.wait()

    async def _commit_waiting(self) -> _Group:
        """Commit the group that waits, and return it; whoever waits for it is not woken yet, unless it fails."""
        group, self._group = self._group, _Group()
        began_s = perf_counter()
        try:
            if self._thread is not None:
                await anyio.to_thread.run_sync(self._journal.commit_group, group.steps, limiter=self._thread)
            else:
                self._journal.commit_group(group.steps)
        except BaseException as error:
            # Nothing is committed after this: the next group's steps must not wait for it for ever.
            group.fail(error)
            self._group.fail(error)
            raise
        self._last_s, self._enough = perf_counter() - began_s, max(1, group.awaited // 2)
        self._meter.note(self._last_s, len(group.steps))
        return group

    def close(self) -> None:
        """Let `run` end once everything handed in is durable."""
        self._is_closing = True
        if self._log is not None:
            self._log.give_up_soon()
        self._arrived.set()
        self._gathered.set()


def _for_one_waiter(error: BaseException) -> Exception:
    """Return an error for one of those that waited for a commit; a bug is raised as itself by the committing child."""
    return type(error)(str(error)) if isinstance(error, OutputError) else RuntimeError("the commit failed")


@asynccontextmanager
async def open_commit(
    journal: Journal, *, in_thread: bool = True, meter: CommitMeter | None = None
) -> AsyncIterator[GroupCommit]:
    """Open a group commit. Leaving the context, even by cancellation, makes durable what was handed in."""
    commit = GroupCommit(journal, in_thread=in_thread, meter=meter)
    async with open_children() as children:
        # Shielded: what was paid for is noted before the process may end.
        children.start_soon(_run_shielded, commit)
        try:
            yield commit
        finally:
            commit.close()


async def _run_shielded(commit: GroupCommit) -> None:
    with anyio.CancelScope(shield=True):
        await commit.run()
