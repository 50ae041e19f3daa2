"""The last lines of `batchrun run`: outcomes, files, costs, and what can be done about the rest."""

from pathlib import Path

from batchrun.cli.terminal import say, say_lines
from batchrun.config import Config
from batchrun.model import Ending, Outcome, Summary
from batchrun.output.layout import BAD_LINES, ITEMS, RECORDS
from batchrun.report.batch_status import slowest_run
from batchrun.runtime.shell_command import shell_command
from batchrun.words.number_words import counted, duration
from batchrun.words.progress_words import (
    cost_words,
    ending_words,
    outcome_counts,
    records_words,
    skipped_words,
    slot_words,
)


def show_closing(
    summary: Summary, config: Config, *, elapsed_s: float, command: str, has_settled_any: bool, report: Path | None
) -> None:
    """Print how the batch ended, where its files are, and which commands continue from here."""
    say(_first_line(summary, elapsed_s, has_settled_any=has_settled_any))
    if summary.duplicates:
        say(f"skipped  {skipped_words(summary)}")
    say_lines(_file_lines(summary, config, report))
    if left := summary.left_jobs:
        begun = f", {summary.open_jobs:,} of them begun" if summary.unread_jobs else ""
        say(f"left     {left:,} of {left + summary.settled:,} jobs{begun}")
    if (slowest := slowest_run(Path(summary.out_dir))) is not None:
        say(f"slowest  {slowest.key}  ({duration(slowest.run_s)})")
    if slots := slot_words(summary):
        say(f"slots    {slots}")
    say(f"cost     {cost_words(summary)}")
    if summary.second_runs:
        twice = counted(summary.second_runs, "Run")
        say(f"twice    {twice} by requests that were sent once and repeated on the way; none is left running")
    if summary.settled > summary.outcomes.get(Outcome.SUCCEEDED, 0) + summary.outcomes.get(Outcome.INVALID, 0):
        say(f"why      {shell_command('batchrun', 'failures', summary.out_dir)}")
    say_lines(_advice(summary, config, command))


def _first_line(summary: Summary, elapsed_s: float, *, has_settled_any: bool) -> str:
    outcomes = outcome_counts(summary.outcomes, summary.empty_successes)
    if summary.ending is Ending.FINISHED and not has_settled_any:
        return f"Nothing to do: this batch is finished ({outcomes}). Use another --out to run the file again"
    has_run = summary.settled > summary.outcomes.get(Outcome.INVALID, 0) or summary.live_runs
    return f"{ending_words(summary.ending)}{f' in {duration(elapsed_s)}' if has_run else ''}: {outcomes}"


def _file_lines(summary: Summary, config: Config, report: Path | None) -> list[str]:
    out_dir = Path(summary.out_dir)
    lines = [f"records  {out_dir / RECORDS}  ({records_words(summary)})"]
    if config.output.items == "file":
        lines.append(f"items    {out_dir / ITEMS}  ({counted(summary.items, 'item')})")
    if invalid := summary.outcomes.get(Outcome.INVALID, 0):
        lines.append(f"bad      {out_dir / BAD_LINES}  ({counted(invalid, 'line')}, each with its reason)")
    if report is not None:
        lines.append(f"report   {report}")
    return lines


def _advice(summary: Summary, config: Config, command: str) -> list[str]:
    if summary.ending is Ending.FINISHED:
        return []
    lines = []
    if summary.live_runs:
        is_one = summary.live_runs == 1
        if config.api.is_embedded:
            fate = f"{'ends' if is_one else 'end'} with this process and will be started again by the resumed batch"
        else:
            fate = f"{'is' if is_one else 'are'} still running{'' if config.api.is_loopback else ', at a cost'}"
        lines.append(f"{counted(summary.live_runs, 'Run')} {fate}")
    if summary.in_doubt:
        lines.append(f"{counted(summary.in_doubt, 'start')} without an answer: whether a Run exists is unknown")
    if summary.ending is Ending.IN_DOUBT:
        resolve = shell_command("batchrun", "resolve", summary.out_dir)
        lines.append(f"resolve  {resolve}  (shows possible Runs of theirs, and asks you)")
        return lines
    if summary.ending is Ending.TRIPPED:
        retry = shell_command("batchrun", "retry", summary.out_dir, "--tripped")
        lines.append(f"retry    {retry}  (the jobs that tripped it, then the rest)")
    if summary.ending is Ending.OUT_OF_BUDGET:
        lines.append("resume   the same command with a larger --budget-usd (limits.budget_usd)")
    else:
        lines.append(f"resume   {command}")
    if summary.live_runs or summary.in_doubt:
        lines.append(f"abort    {shell_command('batchrun', 'abort', summary.out_dir)}")
    return lines
