"""Judges whether a live Run takes too long: longer than its job may, longer than its own timeout, or without progress.

A Run is judged only right after the platform has answered how it is. So a suspend of this machine makes no Run late.
"""

from collections.abc import Awaitable, Callable

import anyio
import structlog

from batchrun.engine.notices import AbortRefused, Notice, RunAborted, RunSuspect
from batchrun.engine.ports import RunClient
from batchrun.engine.run_outcome import MAX_JOB_S
from batchrun.errors import ApiError, TransportError, Unauthorized
from batchrun.model import JobKey, Problem, Run, RunStatus
from batchrun.policy.deadlines import Deadlines
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.steady_time import loop_time

#: Bytes read from the end of a log, to see whether it has grown.
_LOG_TAIL_BYTES = 2048
#: Timeout for reading the signs of progress, in seconds. A Run whose signs cannot be read does not count as quiet.
SIGNS_TIMEOUT_S = 20.0
_NEVER = float("inf")
_ABORTED = "aborted by batchrun: "

_log = structlog.get_logger()


class DeadlineWatch:
    """Watches one Run.

    Args:
        client: reads signs of progress, and aborts.
        deadlines: the configured limits.
        job_key: for the log.
        job_left_s: what is left of the job's own time, in seconds; None: unlimited.
        ran_s: how long the Run has been live, at least, in seconds.
        timeout_s: the Run's own timeout; None: not known yet.
        aborted_for: why an earlier process noted that it aborts the Run; if the Run is still live, it is aborted again.
        note_abort: makes the reason durable before the Run is aborted, so that its job settles with that reason even
            if this process dies in between.
        report: takes notices for people.
    """

    # One for each live Run.
    __slots__ = (
        "_aborted_for",
        "_client",
        "_deadlines",
        "_is_aborting",
        "_is_quiet",
        "_job_ends_at",
        "_job_key",
        "_look_for_signs_at",
        "_moved_at",
        "_note_abort",
        "_overdue_at",
        "_report",
        "_running_since",
        "_signs",
        "_was_overdue",
    )

    def __init__(
        self,
        client: RunClient,
        deadlines: Deadlines,
        job_key: JobKey,
        *,
        job_left_s: float | None = None,
        ran_s: float = 0.0,
        timeout_s: int | None = None,
        aborted_for: Problem | None = None,
        note_abort: Callable[[Problem], Awaitable[None]],
        report: Callable[[Notice], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._deadlines = deadlines
        self._job_key = job_key
        self._aborted_for = aborted_for
        self._note_abort = note_abort
        self._report = report
        began_at = loop_time()
        self._job_ends_at = _NEVER if job_left_s is None else began_at + job_left_s
        self._running_since = began_at - ran_s
        self._overdue_at = self._running_since + timeout_s + deadlines.overdue_grace_s if timeout_s else _NEVER
        self._was_overdue = False
        self._is_quiet = False
        self._signs: tuple[object, ...] = ()
        self._moved_at = began_at
        self._look_for_signs_at = began_at if deadlines.quiet_s is not None else _NEVER
        self._is_aborting = False

    @property
    def patience_s(self) -> float:
        """Seconds until the Run must be judged again, at least 1; infinite if no deadline is open."""
        if self._is_aborting:
            return _NEVER
        if self._aborted_for is not None:
            return 1.0
        return max(1.0, min(self._job_ends_at, self._look_for_signs_at, self._overdue_at) - loop_time())

    @property
    def problem(self) -> Problem | None:
        """Why this process or an earlier one has aborted the Run; None: neither has."""
        return self._aborted_for

    async def look(self, run: Run) -> None:
        """Judge a live Run by the platform's latest answer."""
        if self._is_aborting:
            return
        if self._aborted_for is not None:
            await self._send_abort(run, self._aborted_for)
        elif loop_time() >= self._job_ends_at:
            limit_s = self._deadlines.max_job_s
            await self._abort(run, MAX_JOB_S, f"the job took longer than deadlines.max_job_s ({limit_s:g} s)")
        elif self._is_overdue(run):
            self._overdue_at = _NEVER
            why = f"the Run goes on {self._deadlines.overdue_grace_s:g} s past its own limit of {run.timeout_s} s"
            await self._judge(run, "run-overdue", why, aborts=self._deadlines.aborts_overdue)
        elif loop_time() >= self._look_for_signs_at:
            await self._look_for_signs(run)

    def _is_overdue(self, run: Run) -> bool:
        """Judge a Run's own timeout, once, by the Runs' clock; until then, note when to judge it again."""
        if not run.timeout_s or run.started_at is None or self._was_overdue:
            return False
        now = loop_time()
        ran_s = max(now - self._running_since, (self._client.clock.now.earliest - run.started_at).total_seconds())
        left_s = run.timeout_s + self._deadlines.overdue_grace_s - ran_s
        self._overdue_at = now + left_s
        self._was_overdue = left_s < 0
        return self._was_overdue

    async def _look_for_signs(self, run: Run) -> None:
        assert self._deadlines.quiet_s is not None, "signs are read only if deadlines.quiet_s is set"
        signs = await self._signs_of_life(run)
        now = loop_time()
        self._look_for_signs_at = now + self._deadlines.quiet_s / 2
        if signs != self._signs:
            self._signs, self._moved_at, self._is_quiet = signs, now, False
        elif not self._is_quiet and now - self._moved_at >= self._deadlines.quiet_s:
            self._is_quiet = True
            why = f"no new status message, item or log line for {now - self._moved_at:.0f} s"
            await self._judge(run, "run-quiet", why, aborts=self._deadlines.aborts_quiet)

    async def _signs_of_life(self, run: Run) -> tuple[object, ...]:
        if run.status is RunStatus.READY:
            return ("queued", loop_time())  # differs from all other signs: a queued Run is not quiet
        with anyio.move_on_after(SIGNS_TIMEOUT_S):
            return await self._read_signs(run)
        return ("unreadable", loop_time())

    async def _read_signs(self, run: Run) -> tuple[object, ...]:
        try:
            log = await self._client.get_log_tail(run.id, _LOG_TAIL_BYTES)
            items = await self._client.get_item_count(run.dataset_id) if run.dataset_id is not None else None
        except ApiError as error:
            _log.warning("signs_of_life_unreadable", run_id=run.id, error=str(error))
            return ("unreadable", loop_time())  # differs from all other signs
        return (run.fields.get("statusMessage"), items, log)

    async def _judge(self, run: Run, kind: str, why: str, *, aborts: bool) -> None:
        if aborts:
            await self._abort(run, kind, why)
        else:
            _log.warning(kind.replace("-", "_"), job_key=self._job_key, run_id=run.id, reason=why)
            self._report(RunSuspect(run_id=run.id, job_key=self._job_key, reason=why))

    async def _abort(self, run: Run, kind: str, why: str) -> None:
        problem = Problem(type=kind, message=f"{_ABORTED}{why}")
        await self._note_abort(problem)
        crash_point("abort_noted")
        self._aborted_for = problem
        await self._send_abort(run, problem)

    async def _send_abort(self, run: Run, problem: Problem) -> None:
        self._is_aborting = True
        try:
            await self._client.abort_run(run.id, gives_up=True)
            crash_point("aborted")
        except (ApiError, TransportError) as error:
            _log.warning("abort_refused", job_key=self._job_key, run_id=run.id, error=str(error))
            # A new Run may be unknown at first, or it has ended: it is asked again. Not if the token lacks the right.
            self._is_aborting = isinstance(error, Unauthorized)
            if self._is_aborting:
                self._report(AbortRefused(run_id=run.id, reason=str(error)))
            return
        why = problem.message.removeprefix(_ABORTED)
        _log.warning("run_aborted", job_key=self._job_key, run_id=run.id, reason=why)
        self._report(RunAborted(run_id=run.id, job_key=self._job_key, reason=why))
