"""`batchrun status|abort|resolve|repair DIR`: what can be seen and done of a batch by its output directory."""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import anyio
import orjson
import typer

from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.loop import run_async
from batchrun.cli.view import records_words, say
from batchrun.errors import ConfigError
from batchrun.maintenance.abort_runs import Aborted, abort_runs
from batchrun.maintenance.repair import Repaired, repair_outputs
from batchrun.maintenance.resolve import Question, Resolver, open_resolver
from batchrun.model import RunId
from batchrun.report.progress_words import cost_words, money, outcome_counts
from batchrun.report.status import BudgetUse, LastTrip, Status, read_status
from batchrun.runtime.logs import silence

Directory = Annotated[Path, typer.Argument(help="The batch's output directory.")]


def status(
    directory: Directory,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show where a batch stands; works while another process runs it."""
    found = read_status(directory)
    if json:
        options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS
        sys.stdout.buffer.write(orjson.dumps(asdict(found), option=options))
        return
    for line in _status_lines(found):
        print(line)


def _runs_words(found: Status) -> str:
    # Nobody has looked since the process ended.
    live = f"{found.summary.live_runs:,} live" + ("" if found.pid is not None else " when last seen")
    return live + (f", {found.summary.in_doubt:,} starts in doubt" if found.summary.in_doubt else "")


def _budget_words(budget: BudgetUse) -> str:
    left_usd = max(0.0, budget.limit_usd - budget.spent_usd - budget.reserved_usd)
    return (
        f"{money(left_usd)} left of {money(budget.limit_usd)}: {money(budget.spent_usd)} spent, "
        f"{money(budget.reserved_usd)} set aside until costs are final"
    )


def _stopped_words(trip: LastTrip) -> str:
    return "the batch" if trip.group is None else f"group {trip.group}"


def _status_lines(found: Status) -> list[str]:
    summary = found.summary
    lines = [
        f"process  {found.pid if found.pid is not None else 'none works on it'}",
        f"jobs     {outcome_counts(summary.outcomes, summary.empty_successes)}; {summary.open_jobs:,} open"
        + (f"; about {found.jobs_in_file:,} in the job file" if found.jobs_in_file is not None else ""),
        *([f"records  {records_words(summary)}"] if summary.earlier_records else []),
        f"runs     {_runs_words(found)}, {found.waiting:,} jobs waiting",
        f"items    {summary.items:,}",
        f"cost     {cost_words(summary)}",
        *([f"budget   {_budget_words(found.budget)}"] if found.budget is not None else []),
        *(f"breaker  last stopped {_stopped_words(trip)}: {trip.reason}" for trip in found.trips),
    ]
    if found.doubts and found.pid is None:
        lines.append(f"doubt    {len(found.doubts):,} starts without an answer; `batchrun run` asks the platform,")
        lines.append(f"         `batchrun resolve {summary.out_dir}` asks you:")
        lines += [
            f"         {each.job_key}, intended at {each.attempt.intended_at:%Y-%m-%d %H:%M:%S}Z"
            for each in found.doubts
        ]
    return lines


def abort(directory: Directory) -> None:
    """Abort the Runs that a batch has left running."""
    silence()
    aborted = run_async(_abort, directory)
    say(f"{aborted.runs:,} Runs aborted" + ("; their jobs settle when the batch goes on" if aborted.runs else ""))
    if aborted.ended:
        say(f"{aborted.ended:,} Runs had ended already")
    if aborted.in_doubt:
        say(f"{aborted.in_doubt:,} starts without an answer stay in doubt: no Run of theirs is to be seen")
    for run_id, reason in aborted.refused.items():
        say(f"{run_id} goes on: {reason}")
    if aborted.refused:
        raise typer.Exit(ExitCode.REFUSED)


async def _abort(directory: Path) -> Aborted:
    return await abort_runs(directory, os.environ, lambda run_id: print(run_id, flush=True))


def repair(directory: Directory) -> None:
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


def resolve(
    directory: Directory,
    key: Annotated[str | None, typer.Option(help="Decide about this job only, with --run or --none.")] = None,
    run: Annotated[str | None, typer.Option(help="The Run that the job's start has started.")] = None,
    none: Annotated[bool, typer.Option("--none", help="The job's start has started no Run.")] = False,
) -> None:
    """Decide about starts that stay in doubt, where the platform does not tell which Runs are ours."""
    if (key is None) != (run is None and not none) or (run is not None and none):
        raise ConfigError("give --key together with either --run or --none; without them you are asked")
    silence()
    raise typer.Exit(run_async(_resolve, directory, key, RunId(run) if run is not None else None))


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
