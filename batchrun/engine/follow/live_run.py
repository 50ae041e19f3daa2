"""A live Run with its job, attempt, permit and deadlines, so that another child or the sweep can continue with it."""

from copy import copy

from batchrun.engine.follow.deadline_watch import DeadlineWatch
from batchrun.engine.limits.permits import Permit
from batchrun.engine.work import Work
from batchrun.model import Attempt

#: Seconds until a Run that the platform does not know is read again.
UNKNOWN_RETRY_S = 1.0


class LiveRun:
    """One Run, from its start to its end.

    Args:
        work: its job.
        attempt: the attempt that started it.
        permit: held until the Run is terminal.
        watch: judges whether the Run takes too long.
    """

    __slots__ = ("attempt", "has_poll", "is_let_go", "permit", "run_id", "unknown_since", "watch", "work")

    def __init__(self, work: Work, attempt: Attempt, permit: Permit, watch: DeadlineWatch) -> None:
        assert attempt.run_id is not None, "a bound attempt has a Run"
        self.run_id = attempt.run_id
        self.work = work
        self.attempt = attempt
        self.permit = permit
        self.watch = watch
        #: Since when the platform does not know the Run (monotonic); None: it knows the Run.
        self.unknown_since: float | None = None
        #: Whether a poll is reserved for the Run.
        self.has_poll = False
        #: Whether the sweep has let the Run go, so that it is read by its id: it may have ended.
        self.is_let_go = False

    @property
    def patience_s(self) -> float:
        """Seconds until the Run must be read again; infinite if only its end is awaited."""
        return self.watch.patience_s if self.unknown_since is None else UNKNOWN_RETRY_S

    def transferred(self) -> "LiveRun":
        """Return the same Run, with its permit, for its next follower; a later release of this permit does nothing."""
        heir = copy(self)
        heir.permit = self.permit.transferred()
        heir.has_poll = heir.is_let_go = False
        return heir
