"""A Run that is followed: all that a child holds for it, so that it can be laid aside and taken up by another child."""

from copy import copy

from batchrun.engine.follow.deadline_watch import DeadlineWatch
from batchrun.engine.limits.permits import Permit
from batchrun.engine.work import Work
from batchrun.model import Attempt

#: How soon a Run that the platform does not know is asked for again, in seconds.
UNKNOWN_PATIENCE_S = 1.0


class LiveRun:
    """One Run, from its start to its end.

    Args:
        work: its job.
        attempt: the attempt that started it.
        permit: held until it is terminal.
        watch: judges it while it is live.
    """

    __slots__ = ("attempt", "has_poll", "is_let_go", "permit", "run_id", "unknown_since", "watch", "work")

    def __init__(self, work: Work, attempt: Attempt, permit: Permit, watch: DeadlineWatch) -> None:
        assert attempt.run_id is not None, "a bound attempt has a Run"
        self.run_id = attempt.run_id
        self.work = work
        self.attempt = attempt
        self.permit = permit
        self.watch = watch
        #: Since when the platform has said that it does not know the Run (monotonic); None: it knows it.
        self.unknown_since: float | None = None
        #: Whether a poll is reserved for it.
        self.has_poll = False
        #: Whether the sweep has let it go, so that it is looked at: it may have ended.
        self.is_let_go = False

    @property
    def patience_s(self) -> float:
        """How long it may go without a look; infinite where only its end is awaited."""
        return self.watch.patience_s if self.unknown_since is None else UNKNOWN_PATIENCE_S

    def transferred(self) -> "LiveRun":
        """Return it for whoever follows it next, with its permit."""
        heir = copy(self)
        heir.permit = self.permit.transferred()
        heir.has_poll = heir.is_let_go = False
        return heir
