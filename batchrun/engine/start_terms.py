"""What the next start of a job needs: its run options, its memory, its money."""

from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.limits.permits import Demand
from batchrun.engine.run_outcome import took_too_long
from batchrun.engine.work import Terms, Work
from batchrun.model import Problem, Run, RunOptions


class StartTerms:
    """Resolves the options of each start. In this order, the first that sets an option counts: escalation, job, batch.

    Args:
        terms: of the batch.
        reservations: whether starts need a bound on their cost.
    """

    def __init__(self, terms: Terms, reservations: CostReservations) -> None:
        self._terms = terms
        self._reservations = reservations
        # With a budget, the task's options are sent too, so that no edit of the task makes a Run cost more than is
        # reserved.
        self._options = terms.options.over(terms.task_options) if reservations.is_limited else terms.options
        #: Memory of a Run for which no option sets any, in megabytes; 0 until a Run has shown it.
        self._usual_memory_mb = 0
        #: Memory of the largest Run that was started, in megabytes.
        self.largest_mb = 0

    def options_of(self, work: Work) -> RunOptions:
        """Return the options of the job's next start."""
        own = work.job.options.over(self._options) if work.job.options else self._options
        return self._terms.retry.escalation.next_options(work.this_round).over(own) if work.attempts else own

    def demand(self, work: Work) -> Demand:
        """Return what the job's next Run needs beside a permit."""
        memory_mb, max_mb = self.memory_mb(work), self._terms.max_memory_mb
        if max_mb is not None and memory_mb > max_mb and work.needs_start:
            memory_mb = 0  # the Run is too large, and `why_not` ends its job
        return Demand(memory_mb, work.job.group)

    def quote_usd(self, work: Work) -> float | None:
        """Return what the job's next start reserves, in US dollars; None if a bound is required and there is none."""
        return self._reservations.quote(self.options_of(work))

    def note_run(self, run: Run) -> None:
        """Learn from a Run how much memory Runs get if no option sets it."""
        self._usual_memory_mb = run.memory_mb or self._usual_memory_mb
        self.largest_mb = max(self.largest_mb, run.memory_mb or 0)

    def why_not(self, work: Work, job_left_s: float | None) -> Problem | None:
        """Return why no start request is sent for this job; None if one is.

        Args:
            work: the job.
            job_left_s: what is left of the job's own time, in seconds; None: unlimited, or not begun.
        """
        max_mb = self._terms.max_memory_mb
        if max_mb is not None and (memory_mb := self.memory_mb(work)) > max_mb:
            message = f"asks for {memory_mb:,} MB, and {max_mb:,} MB are all there is"
            return Problem(type="memory-never-available", message=message)
        if self._reservations.is_limited and work.reserved_usd is None:
            message = "nothing bounds what its Run may cost, and there is a budget: see its @options"
            return Problem(type="cost-not-bounded", message=message)
        if job_left_s is not None and job_left_s <= 0:
            return took_too_long(self._terms.deadlines.max_job_s)
        return None

    def memory_mb(self, work: Work) -> int:
        """Return the memory of the job's next Run, in megabytes; 0: unknown."""
        asked_mb = self.options_of(work).memory_mb
        return self._terms.task_options.memory_mb or self._usual_memory_mb if asked_mb is None else asked_mb
