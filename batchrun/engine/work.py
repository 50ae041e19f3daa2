"""What the engine passes along for a job: its work, its ended attempt, its wait, its terms."""

from dataclasses import field

from batchrun.ledger.protocol import OpenJob
from batchrun.model import Attempt, AttemptState, Job, JobId, Outcome, Problem, Run, RunOptions
from batchrun.policy.deadlines import Deadlines
from batchrun.policy.expectation import Expectation
from batchrun.policy.retry import RetryPolicy
from batchrun.policy.secret_fields import InputSecrets, SecretFields
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A job that is being carried out, with its attempts so far."""

    job: Job
    open: OpenJob
    attempts: tuple[Attempt, ...] = ()
    #: Reserved for its next start, in US dollars; None without a budget, or if nothing bounds the cost.
    reserved_usd: float | None = None

    @property
    def needs_start(self) -> bool:
        """Whether its next step is a start; otherwise an earlier process has begun an attempt that goes on."""
        return not self.attempts or self.attempts[-1].state is AttemptState.ENDED

    @property
    def id(self) -> JobId:
        """The job's row in the ledger."""
        return self.open.id

    @property
    def this_round(self) -> tuple[Attempt, ...]:
        """The attempts of the job's current round."""
        if self.open.round == 1:
            return self.attempts
        return tuple([attempt for attempt in self.attempts if attempt.round == self.open.round])

    def with_attempt(self, attempt: Attempt) -> "Work":
        """Return this work with its latest attempt added or updated."""
        before = tuple([each for each in self.attempts if each.attempt_no != attempt.attempt_no])
        return Work(job=self.job, open=self.open, attempts=(*before, attempt), reserved_usd=self.reserved_usd)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedAttempt:
    """How an attempt at a job ended."""

    work: Work
    #: None: the attempt started nothing, and the job is tried again.
    outcome: Outcome | None
    run: Run | None = None
    error: Problem | None = None
    #: True if the ledger does not have this attempt's end yet.
    is_news: bool = False
    #: True if no further attempt is possible, whatever the retry policy says.
    is_final: bool = False

    @property
    def attempt(self) -> Attempt | None:
        """The attempt whose end the ledger must note; None if it has noted it."""
        return self.work.attempts[-1] if self.is_news else None


@dataclass(frozen=True, slots=True)
class Postponed:
    """The job is to be tried again after a wait."""

    work: Work
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a batch's jobs are carried out."""

    #: Options of every Run. The job's own come before them; the task's apply where both are silent.
    options: RunOptions
    retry: RetryPolicy
    task_options: RunOptions = field(default_factory=RunOptions)
    #: Max memory that a Run can ever get, in megabytes; None: unknown.
    max_memory_mb: int | None = None
    deadlines: Deadlines = field(default_factory=Deadlines)
    expectation: Expectation | None = None
    #: Why no Run can be started, so that the first job that needs a start ends the batch; empty: Runs are started.
    no_starts: str = ""
    #: What no message and no log of a Run shows.
    secrets: InputSecrets = field(default_factory=lambda: InputSecrets(SecretFields()))
