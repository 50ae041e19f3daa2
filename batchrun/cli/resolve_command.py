"""`batchrun resolve DIR`: decide which Run, if any, a start in doubt has started."""

import os
from pathlib import Path

import anyio

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.resolve_questions import ask, refuse_half_decision
from batchrun.cli.terminal import say
from batchrun.cli.worker_batch_refusal import refuse_worker_directory
from batchrun.maintenance.resolve import open_resolver, show_doubt
from batchrun.model import RunId
from batchrun.report.batch_status import read_status
from batchrun.runtime.logs import silence


def resolve_doubts(directory: Path, key: str | None, run_id: str | None, *, has_no_run: bool) -> ExitCode:
    """Decide about the start in doubt of one job, or, without a key, ask about each start in doubt.

    Raises:
        ConfigError: `key` is given without a decision or the reverse, or no start of that job is in doubt.
    """
    refuse_half_decision(key, run_id, has_no_run=has_no_run)
    refuse_worker_directory(directory, "resolve")
    silence()
    return run_async(_resolve, directory, key, RunId(run_id) if run_id is not None else None)


async def _resolve(directory: Path, key: str | None, run_id: RunId | None) -> ExitCode:
    async with open_resolver(directory, os.environ) as resolver:
        if key is not None:
            await resolver.decide(resolver.question_of(key), run_id)
            return ExitCode.SUCCEEDED
        if not resolver.questions:
            say("No start is in doubt")
        for question in resolver.questions:
            is_decided, run_id = await ask(show_doubt(question))
            if is_decided:
                await resolver.decide(question, run_id)
    if (await anyio.to_thread.run_sync(read_status, directory)).summary.left_jobs:
        say("`batchrun run` resumes the batch")
    return ExitCode.SUCCEEDED
