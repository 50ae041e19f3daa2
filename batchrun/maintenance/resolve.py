"""Attempts that stay in doubt: a person decides which Run each of them started, if any."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import anyio

from batchrun.apify.client import ApifyClient
from batchrun.engine.doubt.candidates import CLOCK_MARGIN
from batchrun.errors import ConfigError, LedgerError
from batchrun.ledger.shared_commits import CommitLog
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.maintenance.idle_batch import open_idle_batch, read_unfinished
from batchrun.model import JobKey, Run, RunId, RunStatus
from batchrun.report.batch_status import Doubt
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """An attempt in doubt, and the Runs that it may have started."""

    doubt: Doubt
    candidates: list[Run]


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateRun:
    """A Run that an attempt in doubt may have started, as it is shown."""

    id: RunId
    status: RunStatus
    started_at: datetime | None
    user_agent: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownDoubt:
    """An attempt in doubt, as it is shown."""

    key: JobKey
    intended_at: datetime
    candidates: list[CandidateRun]


def show_doubt(question: Question) -> ShownDoubt:
    """Return what a person is shown of an attempt in doubt."""
    candidates = [
        CandidateRun(id=run.id, status=run.status, started_at=run.started_at, user_agent=run.user_agent)
        for run in question.candidates
    ]
    doubt = question.doubt
    return ShownDoubt(key=doubt.job_key, intended_at=doubt.attempt.intended_at, candidates=candidates)


class Resolver:
    """Notes a person's decisions; the next `run` of the batch follows them."""

    def __init__(self, directory: Path, log: CommitLog | None, questions: list[Question]) -> None:
        self._directory = directory
        self._log = log
        self.questions = questions

    def question_of(self, key: str) -> Question:
        """Return the attempt in doubt of a job.

        Raises:
            ConfigError: no start of that job is in doubt.
        """
        question = next((each for each in self.questions if each.doubt.job_key == key), None)
        if question is None:
            raise ConfigError(f"no start of a job {key!r} is in doubt")
        return question

    async def decide(self, question: Question, run_id: RunId | None) -> None:
        """Note which Run the attempt started; None: none. Raises what `adopt` does."""
        if run_id is None:
            await self.deny(question)
        else:
            await self.adopt(question, run_id)

    async def adopt(self, question: Question, run_id: RunId) -> None:
        """Note that the attempt started this Run.

        Raises:
            LedgerError: the Run is no candidate.
        """
        run = next((run for run in question.candidates if run.id == run_id), None)
        if run is None:
            raise LedgerError(f"Run {run_id} is no candidate for {question.doubt.job_key}")
        await anyio.to_thread.run_sync(self._note, question.doubt, run)
        for other in self.questions:
            other.candidates[:] = [each for each in other.candidates if each.id != run_id]

    async def deny(self, question: Question) -> None:
        """Note that the attempt started no Run; the job is started again."""
        await anyio.to_thread.run_sync(self._note, question.doubt, None)

    def _note(self, doubt: Doubt, run: Run | None) -> None:
        with open_ledger(self._directory, log=self._log) as ledger, ledger.transaction():
            if run is not None:
                ledger.bind(doubt.job_id, doubt.attempt.attempt_no, run)
            else:
                ledger.deny(doubt.job_id, doubt.attempt.attempt_no)


@asynccontextmanager
async def open_resolver(
    directory: Path, environ: Mapping[str, str], client: ApifyClient | None = None
) -> AsyncIterator[Resolver]:
    """List a batch's attempts in doubt with their candidates; decides nothing.

    Raises:
        OutputError: the directory holds no batch, or a process runs it.
        BatchRefused: the platform does not accept the token.
    """
    async with open_idle_batch(directory, environ, client) as batch:
        doubts = (await anyio.to_thread.run_sync(read_unfinished, directory)).doubts
        runs = (await batch.runs_for(doubts)).runs if doubts else []
        yield Resolver(directory, batch.log, [_question(doubt, runs) for doubt in doubts])


def _question(doubt: Doubt, runs: list[Run]) -> Question:
    """Leave out the Runs that began before the attempt was intended."""
    since = doubt.attempt.earliest_start - CLOCK_MARGIN
    candidates = [run for run in runs if run.started_at is None or run.started_at >= since]
    return Question(doubt=doubt, candidates=candidates)
