"""`batchrun worker pause|resume|cancel|delete|limits`: commands that change a worker's batches."""

from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.terminal import say
from batchrun.cli.worker_call import print_json
from batchrun.errors import BatchrunError
from batchrun.model import JsonObject
from batchrun.worker.view_words import label, limit_lines, state_words
from batchrun.worker.worker_client import Order, WorkerClient

#: Settings of a batch that hold whether or not it is open.
_PRIORITIES = ("weight", "priority")
_BATCH_LIMITS = (*_PRIORITIES, "max_concurrent_runs", "start_rate", "budget_usd")


async def give_order(refs: list[str], order: Order, client: WorkerClient) -> ExitCode:
    """Pause, resume or cancel each batch; an error with one of several does not stop the others."""
    code = ExitCode.SUCCEEDED
    for ref in refs:
        try:
            batch = await client.give_order(ref, order)
        except BatchrunError as error:
            if len(refs) == 1:
                raise
            say(f"batchrun: {error}")
            code = ExitCode.USAGE
        else:
            say(f"{label(batch)}: {state_words(batch)}")
    return code


async def delete_batch(ref: str, client: WorkerClient) -> None:
    """Delete a batch that is not under way."""
    batch = await client.batch(ref)
    await client.delete(batch.id)
    say(f"{label(batch)}: deleted")


async def print_limits(ref: str | None, changes: JsonObject, is_json: bool, client: WorkerClient) -> None:
    """Change limits of one batch, or of all together, and print the limits that hold then."""
    if ref is None:
        found = await client.change_limits(changes) if changes else await client.limits()
    else:
        batch = await client.change(ref, changes) if changes else await client.batch(ref)
        found = {name: getattr(batch, name) for name in _BATCH_LIMITS}
        if batch.max_concurrent_runs is None and not is_json:
            say(f"{label(batch)} is {batch.state}: its limits are shown while it is open")
            found = {name: found[name] for name in _PRIORITIES}
    if is_json:
        print_json(found)
        return
    for line in limit_lines(found):
        print(line)
