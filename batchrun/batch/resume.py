"""The third phase of opening a batch: take over what earlier processes left in ledger and job file."""

from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio

from batchrun.account.account import Account
from batchrun.account.connected_task import ConnectedTask
from batchrun.batch.job_source import FileSource, open_source
from batchrun.batch.opening_facts import Opening, read_opening
from batchrun.batch.resumed_jobs import Backlog, open_backlog, take_up
from batchrun.config import Config
from batchrun.engine.doubt.reconcile import EarlierDoubts
from batchrun.engine.limits.cost_reservations import CostReservations
from batchrun.engine.work import Postponed, Work
from batchrun.errors import LedgerError
from batchrun.ledger.facts import ECHO, UNLISTED_SINCE, WATCHED_S
from batchrun.ledger.sqlite.group_commit import GroupCommit, open_commit
from batchrun.ledger.sqlite.journal import Journal
from batchrun.ledger.sqlite.reader import LedgerReader
from batchrun.policy.budget import Budget
from batchrun.preflight.job_file_head import refuse_head
from batchrun.preflight.preparation import Preparation
from batchrun.preflight.prices_and_budget import open_reservations
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.long_reads import read_in_thread


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The batch as earlier processes left it, ready to run."""

    ledger: GroupCommit
    source: Backlog
    lines: FileSource
    #: Open jobs with an attempt.
    jobs: list[Work | Postponed]
    reservations: CostReservations
    opening: Opening
    doubts: EarlierDoubts


async def resume(
    stack: AsyncExitStack,
    config: Config,
    connected: ConnectedTask,
    prepared: Preparation,
    journal: Journal,
) -> Resumed:
    """Open the job file where it was read to, and take over the open jobs.

    Args:
        stack: closes what is opened here.
        config: of the batch.
        connected: the account and the task.
        prepared: the result of the checks.
        journal: of the batch.

    Raises:
        JobFileError: the job file is not the one that was begun; or its head has inputs that the platform would refuse,
            and nothing was started yet.
    """
    account, ledger = connected.account, journal.ledger
    look_at = prepared.head.look_at if prepared.head is not None else None
    lines = await stack.enter_async_context(open_source(config, connected.task.input, ledger, look_at))
    if prepared.head is not None:
        refuse_head(prepared.head, config)
    backlog = await stack.enter_async_context(open_backlog(config.out_dir, lines.job_file, lines))
    jobs = await read_in_thread(take_up, ledger, lines.job_file, config.retry.max_backoff_s)
    money = await anyio.to_thread.run_sync(ledger.money)
    account.count_money(config.out_dir, spent_usd=money.spent_usd, reserved_usd=money.reserved_usd)
    reservations = open_reservations(config, prepared.task_terms, money, account.budget)
    stack.push_async_callback(_leave_budget, reservations.budget, ledger, account, config.out_dir)
    commit = await stack.enter_async_context(open_commit(journal, meter=account.shared.counters.commits))
    doubts = await anyio.to_thread.run_sync(_read_doubts, ledger)
    totals = await anyio.to_thread.run_sync(ledger.totals)
    account.keep_permits(config.out_dir, totals.live_runs + totals.in_doubt)
    opening = await anyio.to_thread.run_sync(read_opening, config, connected, ledger, totals, lines, prepared)
    return Resumed(
        ledger=commit,
        source=backlog,
        lines=lines,
        jobs=jobs,
        reservations=reservations,
        opening=opening,
        doubts=doubts,
    )


def _read_doubts(ledger: LedgerReader) -> EarlierDoubts:
    return EarlierDoubts(
        echoes=ledger.fact(ECHO), watched_s=ledger.fact(WATCHED_S) or {}, unlisted_since=ledger.fact(UNLISTED_SINCE)
    )


async def _leave_budget(budget: Budget, ledger: LedgerReader, account: Account, batch: Path) -> None:
    """Leave the account's budget with the sums of the ledger, which knows if an interrupted start has an intent."""
    spent_usd, reserved_usd = budget.spent_usd, budget.reserved_usd
    with anyio.CancelScope(shield=True), suppress(LedgerError):
        money = await anyio.to_thread.run_sync(ledger.money)
        spent_usd, reserved_usd = money.spent_usd, money.reserved_usd
    budget.leave(spent_usd=spent_usd, reserved_usd=reserved_usd)
    account.note_money(batch, spent_usd=spent_usd, reserved_usd=reserved_usd)
