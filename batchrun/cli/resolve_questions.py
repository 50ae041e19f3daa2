"""The question which Run a start in doubt has started, for `resolve` of a directory and of a worker's batch."""

import anyio
import typer

from batchrun.cli.terminal import answer
from batchrun.errors import ConfigError
from batchrun.maintenance.resolve import ShownDoubt
from batchrun.model import RunId


def refuse_half_decision(key: str | None, run_id: str | None, *, has_no_run: bool) -> None:
    """Refuse a key without a decision, and the reverse.

    Raises:
        ConfigError: it is one of these.
    """
    if (key is None) != (run_id is None and not has_no_run) or (run_id is not None and has_no_run):
        raise ConfigError("give --key together with either --run or --none; without them you are asked")


async def ask(doubt: ShownDoubt) -> tuple[bool, RunId | None]:
    """Show the candidates of an attempt, and ask which is its Run; return whether that was decided, and the Run."""
    answer(f"{doubt.key}: its start at {doubt.intended_at:%Y-%m-%d %H:%M:%S}Z got no usable answer.")
    for number, run in enumerate(doubt.candidates, 1):
        began = f"began {run.started_at:%H:%M:%S}Z" if run.started_at is not None else "not begun yet"
        answer(f"  {number}  {run.id}  {run.status}  {began}  by {run.user_agent or 'unknown'}")
    answer("  0  none of these: start the job again")
    text = "Which Run did it start? (Enter leaves it in doubt)"
    reply = await anyio.to_thread.run_sync(lambda: typer.prompt(text, default="", show_default=False))
    chosen = reply.strip()
    if chosen == "0":
        return True, None
    if chosen.isdecimal() and int(chosen) <= len(doubt.candidates):
        return True, doubt.candidates[int(chosen) - 1].id
    return False, None
