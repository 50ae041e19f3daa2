"""Resolves attempts in doubt: each is adopted, found not to have started, or stays in doubt.

A start whose answer was lost may have started a paid Run. The platform is asked which Runs exist, and a Run is
recognised by the mark in its `meta.userAgent` and by nothing else. If that is not possible, nothing is guessed: the
attempt stays in doubt.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import datetime, timedelta

import anyio
import structlog

from batchrun.apify.user_agent import by_mark
from batchrun.engine.doubt.candidates import CLOCK_MARGIN, Candidates
from batchrun.engine.doubt.second_runs import SecondRuns
from batchrun.engine.doubt.seen_user_agents import SeenUserAgents
from batchrun.engine.limits.permits import Permit
from batchrun.engine.ports import RunClient
from batchrun.engine.progress import Progress
from batchrun.errors import ApiError, BatchRefused
from batchrun.ledger.protocol import Ledger, MarkedAttempt
from batchrun.model import Attempt, JobKey, Mark, Run, RunId, TaskId, WaitKind, WaitReason
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.steady_time import steady_time

#: Bounds of the seconds between two listings while attempts are in doubt. Each gap is twice the one before; a new doubt
#: begins with the shortest.
MIN_GAP_S = 0.5
MAX_GAP_S = 2.0
#: A gap is at least this many times as long as the listing took, so that long lists are not read all the time; but at
#: most so long: a listing that waits for an outage to end takes as long as the outage.
GAP_PER_LISTING = 2.0
MAX_GAP_AFTER_LONG_LIST_S = 10.0
#: A listing proves nothing if it began later than it should by what is known now, by more than this. Shorter
#: differences come from the drift of clocks, and CLOCK_MARGIN covers them.
LISTING_SLACK = timedelta(seconds=1)

#: Max candidates that the log names.
_MAX_NAMED = 100

_log = structlog.get_logger()


class StillInDoubt(Exception):
    """It is unknown whether the attempt has started a Run; the candidates are in the log."""


@dataclass(slots=True)
class _Doubt:
    attempt: Attempt
    job_key: JobKey
    permit: Permit
    #: On the steady clock; None if an earlier process has intended the attempt.
    intended_at: float | None
    #: When the platform first answered after the attempt came in doubt (steady).
    answered_at: float | None = None
    #: A listing that is requested after this (monotonic) and does not show the Run proves that there is none. None
    #: until the platform has answered: while it cannot be reached, the lost request may still be on its way.
    certain_after: float | None = None
    #: A listing that is requested after this (monotonic) shows the Run, if it began before the platform answered.
    shown_after: float | None = None
    #: The candidates of the first listing that was requested after `certain_after`: no other Run can be its own. None:
    #: there is no such listing yet.
    listed: frozenset[RunId] | None = None
    #: The earliest start that this listing asked for, by the Runs' clock.
    listed_since: datetime | None = None
    settled: anyio.Event = field(default_factory=anyio.Event)
    found: Run | None = None
    is_hopeless: bool = False
    error: BatchRefused | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlierDoubts:
    """What earlier processes of a batch have learned about starts whose answers are lost."""

    #: True if the platform echoes marks; None: no process has learned it.
    echoes: bool | None = None
    #: For how long they have watched for the Run of each attempt in doubt, in seconds.
    watched_s: Mapping[Mark, float] = field(default_factory=dict)
    #: Since when they have not looked for Runs that repeat a start, by the Runs' clock; None: they have.
    unlisted_since: datetime | None = None


class Reconciler:
    """Resolves attempts in doubt, with one listing for all of them.

    Args:
        client: the platform.
        ledger: knows which Runs belong to other attempts.
        task_id: the task's id as the platform spells it; Runs of other tasks are left out.
        start_horizon_s: a start request takes effect within this time after it was sent, or never.
        listing_lag_s: how long a new Run may be missing from lists, in seconds.
        earlier: what earlier processes have learned.
        agents: what all batches of the account know of the clients that started its Runs, which may look like ours.
        progress: counters to update.
    """

    def __init__(
        self,
        client: RunClient,
        ledger: Ledger,
        *,
        task_id: TaskId,
        start_horizon_s: float,
        listing_lag_s: float,
        earlier: EarlierDoubts,
        agents: SeenUserAgents,
        progress: Progress | None = None,
    ) -> None:
        self._client = client
        self._ledger = ledger
        progress = Progress() if progress is None else progress
        self._agents = agents
        self._candidates = Candidates(client, task_id, agents, progress.notices.add)
        self.second_runs = SecondRuns(
            client, ledger, self._candidates, unlisted_since=earlier.unlisted_since, progress=progress
        )
        self._listing_lag_s = listing_lag_s
        self._patience_s = start_horizon_s + listing_lag_s
        self._horizon = timedelta(seconds=start_horizon_s)
        self._watched_s = earlier.watched_s
        self._doubts: dict[Mark, _Doubt] = {}
        self._arrived = anyio.Event()
        #: Whether the platform echoes the mark; None until a start has shown it.
        self.echoes = earlier.echoes

    async def resolve(
        self, attempt: Attempt, job_key: JobKey, permit: Permit, intended_at: float | None = None
    ) -> Run | None:
        """Find out whether a start request that was sent before now has started a Run.

        Args:
            attempt: the one in doubt.
            job_key: for the log.
            permit: of the start. It is lent while no Run is seen, and taken back as soon as one is found.
            intended_at: when the attempt was intended, as `steady_time` returned it; None: by an earlier process.

        Returns:
            The Run that it started; None if it certainly started none.

        Raises:
            StillInDoubt: it is unknown whether it started a Run.
            BatchRefused: the platform refuses to list Runs.
        """
        # The request was sent before now, also if an earlier process sent it: that process is dead.
        doubt = _Doubt(attempt, job_key, permit, intended_at)
        self._doubts[attempt.mark] = doubt
        self._arrived.set()
        _log.warning("start_in_doubt", job_key=job_key, mark=attempt.mark)
        try:
            await doubt.settled.wait()
        finally:
            del self._doubts[attempt.mark]
        if doubt.error is not None:
            raise doubt.error
        if doubt.is_hopeless:
            raise StillInDoubt
        return doubt.found

    async def run(self) -> None:
        """Resolve attempts as they come in doubt, until cancelled."""
        gap_s = MIN_GAP_S
        while True:
            if not (doubts := [doubt for doubt in self._doubts.values() if not doubt.settled.is_set()]):
                await self._arrived.wait()
                continue
            self._arrived, began_at = anyio.Event(), anyio.current_time()
            await self._try_once(doubts)
            took_s = anyio.current_time() - began_at
            await anyio.sleep(max(MIN_GAP_S, min(GAP_PER_LISTING * took_s, MAX_GAP_AFTER_LONG_LIST_S)))
            with anyio.move_on_after(self._next_listing_at(began_at, gap_s) - anyio.current_time()):
                await self._arrived.wait()
            gap_s = MIN_GAP_S if self._arrived.is_set() else min(MAX_GAP_S, 2 * gap_s)

    def _next_listing_at(self, last_at: float, gap_s: float) -> float:
        """Return when the gap is over or, sooner, the next moment at which a listing may show that there is no Run."""
        moments = [at for doubt in self._doubts.values() for at in (doubt.shown_after, doubt.certain_after)]
        return min(last_at + gap_s, *(at for at in moments if at is not None and at > last_at), math.inf)

    async def _try_once(self, doubts: list[_Doubt]) -> None:
        try:
            await self._reconcile(doubts)
        except ApiError as error:
            refused = BatchRefused(f"the platform does not list the Runs that it started: {error}", error)
            for doubt in doubts:
                doubt.error = refused
                doubt.settled.set()

    async def _reconcile(self, doubts: list[_Doubt]) -> None:
        begun_at = anyio.current_time()
        since = min(self._earliest_start(doubt) for doubt in doubts)
        listing = await self._candidates.since(since, self._ledger.known_runs)
        candidates = [*listing.runs, *listing.unreadable]
        found = by_mark(listing.runs, set(self._doubts))
        for doubt in doubts:
            if runs := found.get(doubt.attempt.mark):
                await self._adopt(doubt, runs)
                continue
            if doubt.shown_after is None:
                self._start_the_clock(doubt)
            elif not listing.is_complete:
                # Its Run may be among those that were not listed.
                self._judge(doubt, {run.id for run in candidates[:_MAX_NAMED]}, begun_at)
            elif begun_at >= doubt.shown_after and self._earliest_start(doubt) >= since - LISTING_SLACK:
                self._note_listed(doubt, candidates, since, begun_at)
                self._judge(doubt, self._suspects(doubt, candidates), begun_at)
        self._note_watched()
        await self.second_runs.look(listing.runs)

    def _note_watched(self) -> None:
        """Note how much of each horizon is over, so that a process which is killed early does not begin it again."""
        now, watched = anyio.current_time(), [each for each in self._doubts.values() if each.certain_after is not None]
        if watched:
            self._ledger.note_watched({each.attempt.mark: self._watched_for(each, now) for each in watched})

    def _watched_for(self, doubt: _Doubt, now: float) -> float:
        assert doubt.certain_after is not None, "its horizon has begun"
        return self._patience_s - max(0.0, doubt.certain_after - now)

    async def _adopt(self, doubt: _Doubt, runs: list[Run]) -> None:
        """Adopt the oldest Run for the attempt. We sent one request, so further Runs are aborted."""
        oldest, *others = runs
        owner = MarkedAttempt(job_key=doubt.job_key, state=doubt.attempt.state, run_id=oldest.id)
        for run in others:
            if not await self.second_runs.abort(run, doubt.attempt.mark, owner):
                return  # too new to be aborted; the next listing shows both again
        _log.warning("run_adopted", job_key=doubt.job_key, run_id=oldest.id)
        crash_point("adopted")
        doubt.permit.take_back()
        doubt.found = oldest
        doubt.settled.set()

    def _start_the_clock(self, doubt: _Doubt) -> None:
        """Count the horizon from the platform's first answer since the attempt came in doubt.

        The time for which earlier processes have watched is over already; each process counts by its own clock.
        """
        watched_s = min(self._patience_s, self._watched_s.get(doubt.attempt.mark, 0.0))
        doubt.certain_after = anyio.current_time() + self._patience_s - watched_s
        doubt.shown_after = anyio.current_time() + self._listing_lag_s - watched_s
        doubt.answered_at = steady_time()

    def _earliest_start(self, doubt: _Doubt) -> datetime:
        """Return the time on the Runs' clock before which no Run of the attempt began, by all that is known now."""
        if doubt.intended_at is None:
            return doubt.attempt.earliest_start
        # Better than the noted time: a later start may have measured the clock, or shown that it has jumped.
        return self._client.clock.at(doubt.intended_at).earliest

    def _latest_start(self, doubt: _Doubt) -> datetime:
        """Return the time on the Runs' clock after which no Run of the attempt began."""
        assert doubt.answered_at is not None, "nothing is concluded before the platform has answered"
        return self._client.clock.at(doubt.answered_at).latest + self._horizon

    def _suspects(self, doubt: _Doubt, candidates: list[Run]) -> set[RunId]:
        """Return the candidates that may be the attempt's Run, although its mark is not seen on them.

        Once its horizon was over, a Run that was not listed then is none of them: on a busy account, some Run is
        always too new to be read.
        """
        earliest, latest = self._earliest_start(doubt) - CLOCK_MARGIN, self._latest_start(doubt) + CLOCK_MARGIN
        unclaimed = [run for run in candidates if run.started_at is None or earliest <= run.started_at <= latest]
        # A Run that names another client is not ours, provided that this platform echoes marks.
        echoes = self._agents.are_echoed if self.echoes is None else self.echoes
        suspects = {run.id for run in unclaimed if not echoes or run.user_agent is None}
        return suspects if doubt.listed is None else suspects & doubt.listed

    def _note_listed(self, doubt: _Doubt, candidates: list[Run], since: datetime, listed_at: float) -> None:
        """Note which Runs are listed when the horizon is over; again if that listing began too late after all."""
        assert doubt.certain_after is not None, "nothing is judged before the platform has answered"
        if listed_at < doubt.certain_after:
            return
        if doubt.listed_since is None or self._earliest_start(doubt) < doubt.listed_since - LISTING_SLACK:
            doubt.listed, doubt.listed_since = frozenset(run.id for run in candidates), since

    def _judge(self, doubt: _Doubt, suspects: set[RunId], listed_at: float) -> None:
        """Lend the permit if a listing shows no Run that may be the attempt's; decide once its horizon is over."""
        assert doubt.certain_after is not None, "nothing is judged before the platform has answered"
        if not suspects:
            doubt.permit.lend()
        if listed_at < doubt.certain_after:
            return
        if not suspects:
            _log.info("start_had_no_effect", job_key=doubt.job_key)
        elif listed_at < doubt.certain_after + self._patience_s:
            return  # other jobs may yet bind some of them, or the next start may show whether marks are echoed
        else:
            doubt.is_hopeless = True
            named = sorted(suspects)[:_MAX_NAMED]
            _log.warning("start_stays_in_doubt", job_key=doubt.job_key, candidates=named)
        doubt.settled.set()

    def note_start(self, run: Run, mark: Mark) -> None:
        """Learn from the answer to a start whether the platform echoes the mark."""
        self._agents.note(run)
        echoes = self._agents.are_echoed = run.user_agent is not None and mark in run.user_agent
        if echoes is not self.echoes:
            self.echoes = echoes
            self._ledger.note_echo(echoes)
            if not echoes:
                _log.warning("mark_not_echoed", run_id=run.id)

    def waits(self) -> Iterator[WaitReason]:
        """Yield how long starts may stay in doubt, at most."""
        if not self._doubts:
            return
        now, latest = anyio.current_time(), [each.certain_after for each in self._doubts.values()]
        # After its horizon a doubt lasts as long again, at most, if Runs without a name may be its own.
        left = [at - now if at > now else at + self._patience_s - now for at in latest if at is not None]
        left_s = max(0.0, *left) if len(left) == len(latest) else None
        yield WaitReason(kind=WaitKind.DOUBTS, count=len(self._doubts), left_s=left_s)

    @property
    def in_doubt(self) -> int:
        """How many attempts are in doubt now."""
        return len(self._doubts)
