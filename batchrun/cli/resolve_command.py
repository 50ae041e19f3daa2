"""`batchrun abort|resolve|repair DIR`: what can be done to a batch by its output directory."""

import os
from pathlib import Path

import anyio
import typer

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.terminal import say
from batchrun.errors import ConfigError
from batchrun.maintenance.abort_runs import Aborted, abort_runs
from batchrun.maintenance.repair import Repaired, repair_outputs
from batchrun.maintenance.resolve import Question, Resolver, open_resolver
from batchrun.model import RunId
from batchrun.runtime.logs import silence


def abort_left_runs(directory: Path) -> ExitCode:
    """Abort the Runs that a batch has left running, and print their ids."""
    silence()
    aborted = run_async(_abort, directory)
    say(f"{aborted.runs:,} Runs aborted" + ("; their jobs settle when the batch goes on" if aborted.runs else ""))
    if aborted.ended:
        say(f"{aborted.ended:,} Runs had ended already")
    if aborted.in_doubt:
        say(f"{aborted.in_doubt:,} starts without an answer stay in doubt: no Run of theirs is to be seen")
    for run_id, reason in aborted.refused.items():
        say(f"{run_id} goes on: {reason}")
    return ExitCode.REFUSED if aborted.refused else ExitCode.SUCCEEDED


async def _abort(directory: Path) -> Aborted:
    return await abort_runs(directory, os.environ, lambda run_id: print(run_id, flush=True))


def repair_records(directory: Path) -> None:
    """Write missing or damaged lines of records.jsonl again from the platform; nothing is started."""
    silence()
    done = run_async(_repair, directory)
    say(f"{done.kept:,} records were good, {done.rebuilt:,} were written again")
    if done.without_run:
        say(f"{done.without_run:,} Runs are not known to the platform any more; written with what the ledger knows")
    if done.item_runs:
        say(f"items of {done.item_runs:,} Runs were written again")


async def _repair(directory: Path) -> Repaired:
    return await repair_outputs(directory, os.environ)


def resolve_doubts(directory: Path, key: str | None, run_id: str | None, *, has_no_run: bool) -> ExitCode:
    """Decide about starts that stay in doubt: about that of one job, or, without a key, about each by asking.

    Raises:
        ConfigError: a key and a decision do not come together, or that job's start is not in doubt.
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
    say("`batchrun run` goes on from here")
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
    """Show an attempt's candidates and take an answer; an empty one leaves it in doubt."""
    intended_at = question.doubt.attempt.intended_at
    print(f"{question.doubt.job_key}: its start at {intended_at:%Y-%m-%d %H:%M:%S}Z was not answered.")
    for number, run in enumerate(question.candidates, 1):
        print(f"  {number}  {run.id}  {run.status}  began {run.started_at:%H:%M:%S}Z  by {run.user_agent or 'unknown'}")
    print("  0  it started none of these: start the job anew")
    text = "Which one? (Enter leaves it in doubt)"
    answer = await anyio.to_thread.run_sync(lambda: typer.prompt(text, default="", show_default=False))
    if answer.strip() == "0":
        await resolver.deny(question)
    elif answer.strip().isdecimal() and int(answer) <= len(question.candidates):
        await resolver.adopt(question, question.candidates[int(answer) - 1].id)
