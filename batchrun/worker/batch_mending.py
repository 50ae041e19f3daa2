"""What a worker does to a batch that rests: its doubts are decided, its files are repaired.

All of these raise:
    WrongState: the batch does not rest, has not begun, or is being mended already.
    OutputError: the platform has not answered yet; or another process holds the batch's directory.
"""

from batchrun.maintenance.repair import Repaired, repair_outputs
from batchrun.maintenance.resolve import ShownDoubt, open_resolver, show_doubt
from batchrun.model import RunId
from batchrun.worker.worker import Worker


async def doubts_of(worker: Worker, submission_id: str) -> list[ShownDoubt]:
    """Return the starts in doubt of a batch, with the Runs that they may have started."""
    async with (
        worker.mending(submission_id) as (out_dir, account),
        open_resolver(out_dir, worker.environ, account.client) as resolver,
    ):
        return [show_doubt(question) for question in resolver.questions]


async def resolve_doubt(worker: Worker, submission_id: str, key: str, run_id: RunId | None) -> None:
    """Decide which Run the start in doubt of a job has started; None: none.

    Raises:
        ConfigError: no start of that job is in doubt.
        LedgerError: the Run is none of the candidates.
    """
    async with (
        worker.mending(submission_id) as (out_dir, account),
        open_resolver(out_dir, worker.environ, account.client) as resolver,
    ):
        await resolver.decide(resolver.question_of(key), run_id)


async def repair_batch(worker: Worker, submission_id: str) -> Repaired:
    """Write missing or damaged lines of a batch again. Raises what `repair_outputs` does as well."""
    async with worker.mending(submission_id) as (out_dir, account):
        return await repair_outputs(out_dir, worker.environ, account.client, account.shared.buffers)
