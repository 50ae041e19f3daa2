"""`batchrun resolve DIR`: decide which Run, if any, a start in doubt has started."""

import os
from pathlib import Path

import anyio
import typer

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.terminal import answer, say
from batchrun.errors import ConfigError
from batchrun.maintenance.resolve import Question, Resolver, open_resolver
from batchrun.model import RunId
from batchrun.runtime.logs import silence


def resolve_doubts(directory: Path, key: str | None, run_id: str | None, *, has_no_run: bool) -> ExitCode:
    """Decide about the start in doubt of one job, or, without a key, ask about each start in doubt.

    Raises:
        ConfigError: `key` is given without a decision or the reverse, or no start of that job is in doubt.
    """
    if (key is None) != (run_id is None and not has_no_run) or (run_id is not None and has_no_run):
        raise ConfigError("give --key together with either --run or --none; without them you are asked")
    silence()
    return run_async(_resolve, directory, key, RunId(run_id) if run_id is not None else None)


async def _resolve(directory: Path, key: str | None, run_id: RunId | None) -> ExitCode:
    async with open_resolver(directory, os.environ) as resolver:
        if key is not None:
            await _decide(resolver, key, run_id)
            return ExitCode.SUCCEEDED
        if not resolver.questions:
            say("No start is in doubt")
        for question in resolver.questions:
            await _ask(resolver, question)
    say("`batchrun run` resumes the batch")
    return ExitCode.SUCCEEDED


async def _decide(resolver: Resolver, key: str, run_id: RunId | None) -> None:
    question = next((each for each in resolver.questions if each.doubt.job_key == key), None)
    if question is None:
        raise ConfigError(f"no start of a job {key!r} is in doubt")
    if run_id is None:
        await resolver.deny(question)
    else:
        await resolver.adopt(question, run_id)


async def _ask(resolver: Resolver, question: Question) -> None:
    """Show the candidates of an attempt and ask which is its Run; an empty answer leaves it in doubt."""
    intended_at = question.doubt.attempt.intended_at
    answer(f"{question.doubt.job_key}: its start at {intended_at:%Y-%m-%d %H:%M:%S}Z was not answered.")
    for number, run in enumerate(question.candidates, 1):
        began = f"began {run.started_at:%H:%M:%S}Z" if run.started_at is not None else "not begun yet"
        answer(f"  {number}  {run.id}  {run.status}  {began}  by {run.user_agent or 'unknown'}")
    answer("  0  none of these: start the job again")
    text = "Which Run did it start? (Enter leaves it in doubt)"
    reply = await anyio.to_thread.run_sync(lambda: typer.prompt(text, default="", show_default=False))
    if reply.strip() == "0":
        await resolver.deny(question)
    elif reply.strip().isdecimal() and int(reply) <= len(question.candidates):
        await resolver.adopt(question, question.candidates[int(reply) - 1].id)
