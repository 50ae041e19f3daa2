"""A Run that is followed: all that a child has in hand for it, so that it can be laid aside and taken up by another."""

from batchrun.engine.follow.deadline_watch import Watch
from batchrun.engine.limits.slots import Slot
from batchrun.engine.limits.start_gate import Turn
from batchrun.engine.work import Work
from batchrun.model import Attempt

#: How soon a Run that the platform does not know is asked for again.
UNKNOWN_PATIENCE_S = 1.0


class LiveRun:
    """One Run, from its start to its end.

    Args:
        work: its job.
        attempt: the attempt that started it.
        turn: its place among live Runs, and
        slot: among those of the batch; both are held until `over`.
        watch: judges it while it is live.
    """

    __slots__ = ("attempt", "has_poll", "is_let_go", "run_id", "slot", "turn", "unknown_since", "watch", "work")

    def __init__(self, work: Work, attempt: Attempt, turn: Turn, slot: Slot, watch: Watch) -> None:
        assert attempt.run_id is not None, "a bound attempt has a Run"
        self.run_id = attempt.run_id
        self.work = work
        self.attempt = attempt
        self.turn = turn
        self.slot = slot
        self.watch = watch
        #: Since when the platform has said that it does not know it; None: it was not asked, or knows it.
        self.unknown_since: float | None = None
        #: Whether one of the polls is its own already.
        self.has_poll = False
        #: Whether the sweep has let it go, to be looked at: it may have ended.
        self.is_let_go = False

    @property
    def patience_s(self) -> float:
        """How long it may go without a look; infinite where nothing is awaited but its end."""
        return self.watch.patience_s if self.unknown_since is None else UNKNOWN_PATIENCE_S

    def over(self) -> None:
        """Give back what is held for it, since it is live no more; may be said more than once."""
        self.turn.over()
        self.slot.release()

    def handed_over(self) -> "LiveRun":
        """Return it as whoever follows it next has it; what is held is held there from now on."""
        heir = LiveRun(self.work, self.attempt, self.turn.handed_over(), self.slot.handed_over(), self.watch)
        heir.unknown_since = self.unknown_since
        return heir
