"""A live Run with its job, attempt, permit and deadlines, so that another child or the sweep can continue with it."""

from dataclasses import dataclass, replace

from batchrun.engine.follow.deadline_watch import DeadlineWatch
from batchrun.engine.limits.permits import Permit
from batchrun.engine.work import Work
from batchrun.model import Attempt, RunId

#: Seconds until a Run that the platform does not know is read again.
UNKNOWN_RETRY_S = 1.0


@dataclass(slots=True, eq=False)
class LiveRun:
    """One Run, from its start to its end."""

    work: Work
    #: The attempt that started the Run.
    attempt: Attempt
    #: Held until the Run is terminal.
    permit: Permit
    #: Judges whether the Run takes too long.
    watch: DeadlineWatch
    #: Since when the platform does not know the Run (monotonic); None: it knows the Run.
    unknown_since: float | None = None
    #: Whether a poll is reserved for the Run.
    has_poll: bool = False
    #: Whether the sweep has let the Run go, so that it is read by its id: it may have ended.
    is_let_go: bool = False

    @property
    def run_id(self) -> RunId:
        """The Run's id."""
        assert self.attempt.run_id is not None, "a bound attempt has a Run"
        return self.attempt.run_id

    @property
    def patience_s(self) -> float:
        """Seconds until the Run must be read again; infinite if only its end is awaited."""
        return self.watch.patience_s if self.unknown_since is None else UNKNOWN_RETRY_S

    def transferred(self) -> "LiveRun":
        """Return the same Run, with its permit, for its next follower; a later release of this permit does nothing."""
        return replace(self, permit=self.permit.transferred(), has_poll=False, is_let_go=False)
