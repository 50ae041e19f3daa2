"""`batchrun worker retry BATCH`: another round for a batch's jobs, in the worker."""

from collections.abc import Sequence
from dataclasses import asdict

from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.failure_lines import retry_lines
from batchrun.cli.json_output import print_json
from batchrun.cli.submitted_batch import show_order
from batchrun.cli.terminal import answer_lines, say
from batchrun.maintenance.retry_selection import WantedJobs
from batchrun.words.number_words import counted
from batchrun.words.progress_words import outcome_counts
from batchrun.worker.worker_client import WorkerClient


async def retry_batch(
    ref: str,
    wanted: WantedJobs,
    is_dry_run: bool,
    is_awaited: bool,
    is_json: bool,
    where: Sequence[str],
    client: WorkerClient,
) -> ExitCode:
    """Retry the jobs of a batch that did not succeed, or those that the flags select; or show them."""
    batch = await client.batch(ref)
    if is_dry_run:
        found = await client.would_retry(batch.id, wanted)
        if is_json:
            print_json(asdict(found))
            return ExitCode.SUCCEEDED
        answer_lines(retry_lines(found, 0))
        return ExitCode.SUCCEEDED
    retried = await client.retry(batch.id, wanted)
    if retried.jobs:
        say(f"Retrying {counted(retried.jobs, 'job')}")
    else:
        say(f"Nothing to retry: no job matches ({outcome_counts(batch.outcomes)})")
    is_awaited = is_awaited and retried.jobs > 0
    return await show_order(retried.batch, client, is_awaited=is_awaited, is_json=is_json, where=where)
