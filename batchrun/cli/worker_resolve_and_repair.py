"""`batchrun worker resolve|repair BATCH`: what a person decides about a batch that rests in a worker."""

from dataclasses import asdict

from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.json_output import print_json
from batchrun.cli.repair_lines import repair_lines
from batchrun.cli.resolve_questions import ask
from batchrun.cli.terminal import say, say_lines
from batchrun.model import RunId
from batchrun.worker.worker_client import WorkerClient


async def resolve_doubts_of_batch(
    ref: str, key: str | None, run_id: RunId | None, resume: str, client: WorkerClient
) -> ExitCode:
    """Decide about the start in doubt of one job, or, without a key, ask about each; `resume` resumes the batch."""
    batch = await client.batch(ref)
    if key is not None:
        await client.resolve(batch.id, key, run_id)
    else:
        doubts = await client.doubts(batch.id)
        if not doubts:
            say("No start is in doubt")
            return ExitCode.SUCCEEDED
        for doubt in doubts:
            is_decided, run_id = await ask(doubt)
            if is_decided:
                await client.resolve(batch.id, doubt.key, run_id)
    say(f"`{resume}` resumes the batch")
    return ExitCode.SUCCEEDED


async def repair_batch(ref: str, is_json: bool, client: WorkerClient) -> ExitCode:
    """Write missing or damaged lines of a batch's files again; start nothing."""
    done = await client.repair(ref)
    if is_json:
        print_json({**asdict(done), "damaged_ledger": done.damaged_ledger and str(done.damaged_ledger)})
        return ExitCode.SUCCEEDED
    say_lines(repair_lines(done))
    return ExitCode.SUCCEEDED
