"""The three phases of opening a batch: connect -> preflight -> resume. Each returns what the next one needs."""

from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import anyio

from batchrun.account.account import STARTS_PER_TASK_PER_S, Account, open_account
from batchrun.account.task import Task, find_task
from batchrun.account.task_watch import note_task
from batchrun.batch.backlog import Backlog, check_identity, check_limit, open_backlog, take_up
from batchrun.batch.job_source import FileSource, open_source
from batchrun.batch.opening import Opening, read_opening
from batchrun.config import Config
from batchrun.engine.limits.purse import Purse
from batchrun.engine.work import Postponed, Work
from batchrun.errors import LedgerError
from batchrun.ledger.facts import ECHO
from batchrun.ledger.protocol import Money
from batchrun.ledger.sqlite.group_commit import GroupCommit, open_commit
from batchrun.ledger.sqlite.journal import Journal
from batchrun.ledger.sqlite.reader import LedgerReader
from batchrun.model import Command
from batchrun.output.layout import SERVER_STATE
from batchrun.policy.budget import Budget
from batchrun.preflight.job_file_head import look_at_head
from batchrun.preflight.preparation import Preparation, prepare, refuse_head
from batchrun.preflight.spending import TaskTerms, fill_purse, read_terms, refuse_unbounded
from batchrun.runtime.changed import Changed

if TYPE_CHECKING:
    from batchrun.server import InlineActor


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectedTask:
    """The platform, as a batch has it."""

    account: Account
    task: Task
    task_terms: TaskTerms


async def connect(
    stack: AsyncExitStack,
    config: Config,
    environ: Mapping[str, str],
    inline_actors: "Mapping[str, InlineActor]",
    account: Account | None,
) -> ConnectedTask:
    """Connect to the platform and find the task.

    Args:
        stack: closes what is opened here.
        config: names the platform and the task.
        environ: holds the token.
        inline_actors: coroutines that the embedded server carries out as Actors.
        account: where the batch runs; None: it opens one, and is alone in it.

    Raises:
        BatchRefused: the platform does not accept the token or knows no such task.
        ConfigError: the task exists and is another, or a budget cannot be kept.
    """
    if account is None:
        account = await stack.enter_async_context(
            open_account(
                config.api,
                config.limits,
                environ=environ,
                server=config.server,
                server_dir=config.out_dir / SERVER_STATE,
                inline_actors=inline_actors,
                # A rate above the documented limit is allowed where it was asked for.
                starts_per_task_per_s=max(config.limits.start_rate, STARTS_PER_TASK_PER_S),
            )
        )
    else:
        await account.read_again()
    task = await find_task(account.client, config.task)
    task_terms = await read_terms(account.client, config, account.info, task)
    return ConnectedTask(account=account, task=task, task_terms=task_terms)


async def preflight(
    config: Config, connected: ConnectedTask, journal: Journal, command: Command | None
) -> tuple[Preparation, tuple[str, ...]]:
    """Check what can be checked before the first start.

    Returns:
        What is settled before the first start; and what of the task (input, options, Actor) was edited since the batch
        was last opened.

    Raises:
        ConfigError: the configuration does not fit the batch that was begun; or a strict budget cannot be kept.
    """
    ledger, task = journal.ledger, connected.task
    await refuse_unbounded(config, connected.task_terms, partial(look_at_head, config))
    await anyio.to_thread.run_sync(check_identity, ledger, config, task, command)
    await anyio.to_thread.run_sync(check_limit, ledger, config)
    edits = await anyio.to_thread.run_sync(note_task, ledger, task)
    return await prepare(connected.account.client, config, connected.account.info, task, ledger), edits


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The batch as earlier processes left it, ready to be carried on."""

    ledger: GroupCommit
    source: Backlog
    file_source: FileSource
    #: Open jobs that were begun.
    jobs: list[Work | Postponed]
    purse: Purse
    opening: Opening
    #: Whether the platform echoes marks, as far as earlier processes know.
    echoes: bool | None


async def resume(
    stack: AsyncExitStack,
    config: Config,
    connected: ConnectedTask,
    prepared: Preparation,
    journal: Journal,
    *,
    task_edits: tuple[str, ...],
    changed: Changed,
) -> Resumed:
    """Open the job file where it was read to, and take over what earlier processes left open.

    Args:
        stack: closes what is opened here.
        config: of the batch.
        connected: the platform.
        prepared: what was checked.
        journal: of the batch.
        task_edits: what of the task was edited since the batch was last opened.
        changed: notified when money comes free.

    Raises:
        JobFileError: the job file is not the one that was begun, or has bad lines and nothing was started yet.
    """
    account, ledger = connected.account, journal.ledger
    look_at = prepared.head.look_at if prepared.head is not None else None
    file_source = await stack.enter_async_context(open_source(config, connected.task.input, ledger, look_at))
    if prepared.head is not None:
        refuse_head(prepared.head.problems, config)
    backlog = await stack.enter_async_context(open_backlog(config.out_dir, file_source.job_file, file_source))
    jobs = await anyio.to_thread.run_sync(take_up, ledger, file_source.job_file, config.retry.max_backoff_s)
    money = await anyio.to_thread.run_sync(ledger.money)
    purse = fill_purse(config, connected.task_terms, money, account.budget, changed)
    stack.push_async_callback(_leave_budget, purse.budget, ledger)
    commit = await stack.enter_async_context(open_commit(journal, meter=account.shared.instruments.commits))
    echoes = await anyio.to_thread.run_sync(ledger.fact, ECHO)
    totals = await anyio.to_thread.run_sync(ledger.totals)
    account.keep_permits(config.out_dir, totals.live_runs + totals.in_doubt)
    opening = await anyio.to_thread.run_sync(
        read_opening, config, account, connected.task, ledger, file_source, prepared, task_edits
    )
    return Resumed(
        ledger=commit,
        source=backlog,
        file_source=file_source,
        jobs=jobs,
        purse=purse,
        opening=opening,
        echoes=echoes,
    )


async def _leave_budget(budget: Budget, ledger: LedgerReader) -> None:
    """Leave a shared budget with what the ledger says: a start that was cut off has noted its intent, or has not."""
    money = Money(spent_usd=budget.spent_usd, reserved_usd=budget.reserved_usd)
    with anyio.CancelScope(shield=True), suppress(LedgerError):
        money = await anyio.to_thread.run_sync(ledger.money)
    budget.leave(spent_usd=money.spent_usd, reserved_usd=money.reserved_usd)
