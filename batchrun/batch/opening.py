"""What is known of a batch before its first start: account, task, slots, what earlier processes did."""

from collections.abc import Mapping
from dataclasses import dataclass

from batchrun.account.account import Account
from batchrun.account.task import Task
from batchrun.apify.wire import AccountInfo
from batchrun.batch.job_source import FileSource
from batchrun.config import Config
from batchrun.ledger.facts import JOB_COUNT
from batchrun.ledger.sqlite.tables import LedgerTables
from batchrun.model import Outcome
from batchrun.preflight.preparation import Preparation


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is known before the first start."""

    account: AccountInfo
    task: Task
    max_concurrent_runs: int
    #: Jobs of the file, about; None where that cannot be told cheaply.
    job_count: int | None
    #: Jobs that earlier processes settled, those of them that succeeded, and those left open.
    settled_before: int
    succeeded_before: int
    outcomes_before: Mapping[Outcome, int]
    #: Items of the jobs settled before.
    items_before: int
    open_before: int
    #: Runs of earlier processes that may be live.
    live_before: int
    #: Known costs of the jobs settled before, in US dollars.
    cost_before_usd: float
    #: Properties of the task's input whose nested fields a shallow merge erases.
    lost_fields: tuple[str, ...]
    #: Memory of a Run, in megabytes; None where it is not known.
    run_memory_mb: int | None
    start_rate_per_s: float
    #: What of the task (input, options, Actor) was edited since the batch was last opened.
    task_edits: tuple[str, ...]


def read_opening(
    config: Config,
    account: Account,
    task: Task,
    ledger: LedgerTables,
    source: FileSource,
    prepared: Preparation,
    task_edits: tuple[str, ...],
) -> Opening:
    """Return what a ledger, an account and a job file tell together; note how many jobs there are, for `status`."""
    outcomes, totals, job_count = ledger.count_outcomes(), ledger.totals(), source.count_estimate()
    wanted = config.limits.max_concurrent_runs
    with ledger.transaction():
        ledger.note_fact(JOB_COUNT, job_count)
    return Opening(
        account=account.info,
        task=task,
        max_concurrent_runs=min(account.max_live_runs, wanted) if isinstance(wanted, int) else account.max_live_runs,
        job_count=job_count,
        settled_before=sum(outcomes.values()),
        succeeded_before=outcomes.get(Outcome.SUCCEEDED, 0),
        outcomes_before=outcomes,
        items_before=totals.items,
        open_before=totals.open_jobs,
        live_before=totals.live_runs + totals.in_doubt,
        cost_before_usd=totals.cost_usd,
        lost_fields=source.job_file.lost_fields,
        run_memory_mb=prepared.run_memory_mb,
        start_rate_per_s=config.limits.start_rate,
        task_edits=task_edits,
    )
