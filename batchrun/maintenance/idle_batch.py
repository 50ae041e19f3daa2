"""An output directory opened for upkeep: its lock, its journal, the platform it works with."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import anyio
import orjson
from pydantic import ValidationError

from batchrun.account.connect import open_platform, read_account
from batchrun.apify.client import ApifyClient
from batchrun.config import Config
from batchrun.engine.doubt.candidates import Candidates, Listing
from batchrun.errors import LedgerError
from batchrun.ledger.facts import COMMAND, CONFIG, TASK_ID
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.model import AttemptState, Command, RunId, TaskId
from batchrun.output.layout import LEDGER, SERVER_STATE
from batchrun.output.lock import enter_lock
from batchrun.report.batch_status import Doubt, doubts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """An output directory, held for this process alone."""

    config: Config
    task_id: TaskId
    client: ApifyClient

    async def list_since(self, earliest_start: datetime) -> Listing:
        """List the task's Runs since an intent, without those that the ledger accounts for."""
        directory = self.config.out_dir

        async def known(run_ids: Collection[RunId]) -> set[RunId]:
            return await anyio.to_thread.run_sync(_known_runs, directory, run_ids)

        return await Candidates(self.client, self.task_id).since(earliest_start, known)


def _known_runs(directory: Path, run_ids: Collection[RunId]) -> set[RunId]:
    with open_for_reading(directory) as ledger:
        return ledger.known_runs(run_ids)


@asynccontextmanager
async def open_upkeep(directory: Path, environ: Mapping[str, str]) -> AsyncIterator[Upkeep]:
    """Hold an output directory and talk to the platform its batch was last opened with.

    Raises:
        OutputError: there is no batch in it, or a process works in it.
        BatchRefused: the platform does not accept the token.
    """
    config, task_id = await anyio.to_thread.run_sync(read_config, directory)
    async with (
        enter_lock(directory),
        open_platform(
            config.api,
            environ=environ,
            request_rate_per_s=config.limits.request_rate,
            server=config.server,
            server_dir=directory / SERVER_STATE,
            inline_actors={},
        ) as client,
    ):
        await read_account(client)
        yield Upkeep(config=config, task_id=task_id, client=client)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """What a batch has left open at the platform."""

    #: Runs that had not ended when they were last looked at.
    bound: list[RunId]
    doubts: list[Doubt]


def read_unfinished(directory: Path) -> Unfinished:
    """Return the live and doubtful attempts of a batch."""
    with open_for_reading(directory) as ledger:
        begun_jobs = ledger.begun_jobs()
    last = [job.attempts[-1] for job in begun_jobs if job.attempts]
    bound = [each.run_id for each in last if each.state is AttemptState.BOUND and each.run_id is not None]
    return Unfinished(bound=bound, doubts=doubts_of(begun_jobs))


def read_command(directory: Path) -> Command | None:
    """Return the command that the batch was last run with; None where no command line was.

    Raises:
        LedgerError: there is no ledger, or it is damaged.
    """
    with open_for_reading(directory) as ledger:
        return ledger.fact(COMMAND)


def read_config(directory: Path) -> tuple[Config, TaskId]:
    """Return the configuration that the batch was last opened with, and its task's id.

    Raises:
        LedgerError: there is no batch in the directory, or none was ever opened to its end.
    """
    with open_for_reading(directory) as ledger:
        noted, task_id = ledger.fact(CONFIG), ledger.fact(TASK_ID)
    try:
        config = Config.model_validate_json(orjson.dumps(noted))
    except ValidationError as error:
        raise LedgerError(f"{directory / LEDGER}: holds no batch that was begun") from error
    output = config.output.model_copy(update={"dir": directory})
    return config.model_copy(update={"output": output}), TaskId(task_id or "")
