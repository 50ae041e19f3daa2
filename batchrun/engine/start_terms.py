"""What the next start of a job asks for and takes: its run options, its memory, its money."""

from batchrun.engine.limits.permits import Demand
from batchrun.engine.limits.purse import Purse
from batchrun.engine.verdict import took_too_long
from batchrun.engine.work import Terms, Work
from batchrun.model import Problem, Run, RunOptions


class StartTerms:
    """Resolves the options of each start: the escalation's over the job's own, over the batch's, over the task's.

    Args:
        terms: of the batch.
        purse: says whether starts need a bound on what they cost.
    """

    def __init__(self, terms: Terms, purse: Purse) -> None:
        self._terms = terms
        self._purse = purse
        #: Memory of a Run for which job, batch and task ask for none, in megabytes; 0 until one was started.
        self._usual_memory_mb = 0

    def options_of(self, work: Work) -> RunOptions:
        """Return what the job's next start asks for."""
        own = work.job.options.over(self._terms.options) if work.job.options else self._terms.options
        if self._purse.is_limited:
            # Asked for explicitly, so that no edit of the task makes a Run cost more than is reserved for it.
            own = own.over(self._terms.task_options)
        return self._terms.retry.escalation.next_options(work.this_round).over(own) if work.attempts else own

    def demand(self, work: Work) -> Demand:
        """Return what the job's next Run takes beside a permit."""
        memory_mb, max_mb = self._memory_mb(work), self._terms.max_memory_mb
        if max_mb is not None and memory_mb > max_mb and work.needs_start:
            memory_mb = 0  # it is too large, and will not be started
        return Demand(memory_mb, work.job.group)

    def quote_usd(self, work: Work) -> float | None:
        """Return what to reserve for the job's next start; None where nothing bounds it and a bound is needed."""
        return self._purse.quote(self.options_of(work))

    def note_run(self, run: Run) -> None:
        """Learn from a Run what memory Runs get that ask for none."""
        self._usual_memory_mb = run.memory_mb or self._usual_memory_mb

    def why_not(self, work: Work, job_left_s: float | None) -> Problem | None:
        """Return why the platform is not even asked to start this job's Run; None where it is.

        Args:
            work: the job.
            job_left_s: what is left of the job's own time, in seconds; None: unlimited, or it has not begun.
        """
        max_mb = self._terms.max_memory_mb
        if max_mb is not None and (memory_mb := self._memory_mb(work)) > max_mb:
            message = f"asks for {memory_mb:,} MB, and {max_mb:,} MB are all there is"
            return Problem(type="memory-never-available", message=message)
        if self._purse.is_limited and work.reserved_usd is None:
            message = "nothing bounds what its Run may cost, and there is a budget: see its @options"
            return Problem(type="cost-not-bounded", message=message)
        if job_left_s is not None and job_left_s <= 0:
            return took_too_long(self._terms.deadlines.max_job_s)
        return None

    def _memory_mb(self, work: Work) -> int:
        asked_mb = self.options_of(work).memory_mb
        return self._terms.task_options.memory_mb or self._usual_memory_mb if asked_mb is None else asked_mb
