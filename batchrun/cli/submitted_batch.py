"""What a command shows of a worker's batch that it has submitted or retried, and its exit code."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import anyio

from batchrun.cli.exit_codes import ExitCode, exit_code_of_submission
from batchrun.cli.json_output import print_json
from batchrun.cli.live_progress import PLAIN_INTERVAL_S
from batchrun.cli.terminal import answer, can_redraw, live_lines, say, say_lines
from batchrun.cli.worker_lines import batch_lines, batch_progress, label, state_words
from batchrun.runtime.shell_command import shell_command
from batchrun.worker.status_views import BatchView
from batchrun.worker.submission import BatchState
from batchrun.worker.worker_client import WorkerClient


async def show_order(
    batch: BatchView, client: WorkerClient, *, is_awaited: bool, is_json: bool, where: Sequence[str]
) -> ExitCode:
    """Show a batch, and its progress until it rests if that is awaited; return the exit code of `run` for it then.

    Interrupted, say how to look at it and how to stop it; `where` are the flags that lead to the worker.
    """
    say(f"{label(batch)}: {state_words(batch)}")
    if is_awaited:
        try:
            with _progress() as show:
                batch = await client.wait(batch.id, show, say)
        except anyio.get_cancelled_exc_class():
            status = shell_command("batchrun", "worker", "status", batch.id, *where)
            say(f"{label(batch)} goes on in the worker: `{status}` shows it,")
            say(f"`{shell_command('batchrun', 'worker', 'cancel', batch.id, *where)}` stops it")
            raise
        say_lines(batch_lines(batch))
    if is_json:
        print_json(batch.model_dump(mode="json"), is_indented=True)
    else:
        answer(batch.id)
    return exit_code_of_submission(batch) if is_awaited else ExitCode.SUCCEEDED


@contextmanager
def _progress() -> Iterator[Callable[[BatchView], None]]:
    """Yield a function that shows a batch: a live line on a terminal, else a plain line every few seconds."""
    if can_redraw():
        with live_lines() as live:
            yield lambda batch: live.draw(_line(batch))
        return
    shown_at = -PLAIN_INTERVAL_S

    def show(batch: BatchView) -> None:
        nonlocal shown_at
        if anyio.current_time() - shown_at >= PLAIN_INTERVAL_S:
            shown_at = anyio.current_time()
            say(f"{time.strftime('%H:%M:%S')}  {_line(batch)}")

    yield show


def _line(batch: BatchView) -> str:
    if batch.state is BatchState.ACTIVE and not batch.reason:
        return batch_progress(batch)
    return f"{state_words(batch)} · {batch_progress(batch)}"
