"""What is known of a batch before its first start: account, task, limits, and the results of earlier processes."""

from collections.abc import Mapping

from batchrun.account.connected_task import ConnectedTask
from batchrun.account.task import Task
from batchrun.apify.wire import AccountInfo
from batchrun.batch.job_source import FileSource
from batchrun.config import Config
from batchrun.ledger.facts import JOB_COUNT
from batchrun.ledger.protocol import Totals
from batchrun.ledger.sqlite.tables import LedgerTables
from batchrun.model import Outcome
from batchrun.preflight.line_problems import LineProblem
from batchrun.preflight.preparation import Preparation
from batchrun.runtime.fast_dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What is known of a batch before its first start."""

    account: AccountInfo
    task: Task
    max_concurrent_runs: int
    #: Estimate of the jobs in the file; None: counting them would take too long.
    job_count: int | None
    #: Jobs that earlier processes settled, and those of them that succeeded.
    settled_before: int
    succeeded_before: int
    outcomes_before: Mapping[Outcome, int]
    #: Items of the jobs settled before.
    items_before: int
    #: Jobs that earlier processes left open.
    open_before: int
    #: Runs of earlier processes that may be live.
    live_before: int
    #: Known costs of the jobs settled before, in US dollars.
    cost_before_usd: float
    #: Properties of the task's input whose nested fields a shallow merge erases.
    lost_fields: tuple[str, ...]
    #: Why lines at the head of a new batch would do nothing new, where that stops no batch.
    futile: tuple[LineProblem, ...]
    #: The whole input of the first job of a new batch, as JSON, without secrets; empty: inputs are not checked.
    first_input: str
    #: Memory of a Run, in megabytes; None: unknown.
    run_memory_mb: int | None
    start_rate_per_s: float
    #: The parts of the task (input, options, Actor) that were edited since the batch was last opened.
    task_edits: tuple[str, ...]


def read_opening(
    config: Config,
    connected: ConnectedTask,
    ledger: LedgerTables,
    totals: Totals,
    source: FileSource,
    prepared: Preparation,
) -> Opening:
    """Return what is known of a batch; note the number of its jobs in the ledger, for `status`."""
    outcomes, job_count = ledger.count_outcomes(), source.count_estimate()
    head = prepared.head
    wanted, allowed = config.limits.wanted_runs, connected.account.max_live_runs
    with ledger.transaction():
        ledger.note_fact(JOB_COUNT, job_count)
    return Opening(
        account=connected.account.info,
        task=connected.task,
        max_concurrent_runs=allowed if wanted is None else min(allowed, wanted),
        job_count=job_count,
        settled_before=sum(outcomes.values()),
        succeeded_before=outcomes.get(Outcome.SUCCEEDED, 0),
        outcomes_before=outcomes,
        items_before=totals.items,
        open_before=totals.open_jobs,
        live_before=totals.live_runs + totals.in_doubt,
        cost_before_usd=totals.cost_usd,
        lost_fields=source.job_file.lost_fields,
        futile=tuple(head.futile) if head is not None and config.jobs.unknown_properties == "stop" else (),
        first_input=head.check.shown(head.check.first_job) if head is not None and head.check.first_job else "",
        run_memory_mb=prepared.run_memory_mb,
        start_rate_per_s=config.limits.start_rate,
        task_edits=prepared.task_edits,
    )
