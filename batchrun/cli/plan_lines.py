"""A plan in lines, for `plan` and for a worker's batch before it is submitted.

How many lines of the job file a problem names is decided in `preflight/line_problems.py`.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict

from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.forecast_lines import forecast_lines
from batchrun.cli.json_output import print_json
from batchrun.cli.terminal import answer_lines
from batchrun.preflight.plan import Plan

#: Max groups, and max problems, that are shown; `--json` has all.
MAX_SHOWN = 20


def print_plan(plan: Plan, *, is_json: bool) -> ExitCode:
    """Print a plan; return USAGE if a line would fail."""
    if is_json:
        print_json({**asdict(plan), "would_fail": plan.would_fail})
    else:
        answer_lines(plan_lines(plan))
        sys.stdout.flush()
    return ExitCode.USAGE if plan.would_fail else ExitCode.SUCCEEDED


def plan_lines(plan: Plan) -> Iterator[str]:
    """Yield what a batch would do."""
    yield f"account   {plan.account}" + (f" ({plan.account_plan})" if plan.account_plan else "")
    yield f"task      {plan.task}" + (f", build {plan.build}" if plan.build else "")
    if plan.columns:
        yield f"columns   {' | '.join(plan.columns)}; delimiter {plan.delimiter!r}, quote {plan.quote!r}"
    yield f"jobs      {_jobs(plan)}"
    if any(plan.groups):
        yield f"groups    {_groups(plan)}"
    yield f"inputs    {_inputs(plan)}"
    yield from (f"  {problem}" for problem in plan.problems[:MAX_SHOWN])
    if len(plan.problems) > MAX_SHOWN:
        yield f"  … and {len(plan.problems) - MAX_SHOWN:,} other problems; --json shows them all"
    yield from (f"warning   {warning}" for warning in plan.warnings)
    yield from forecast_lines(plan.forecast, has_unknowns=False)
    yield from (f"unknown   {each}" for each in plan.unknown)
    yield from (f"input     line {line}: {shown}" for line, shown in plan.inputs)


def _jobs(plan: Plan) -> str:
    parts = [f"{plan.jobs:,}"]
    if plan.settled:
        parts.append(f"{plan.settled:,} of them done, {plan.forecast.runs:,} to run")
    if plan.duplicates:
        repeat = "1 line repeats another" if plan.duplicates == 1 else f"{plan.duplicates:,} lines repeat others"
        parts.append(f"{repeat}: skipped")
    return "; ".join(parts)


def _groups(plan: Plan) -> str:
    counts = [f"{count:,} {group or '(none)'}" for group, count in plan.groups.items()]
    if plan.in_other_groups:
        counts = [*counts[:MAX_SHOWN], f"{plan.in_other_groups:,} in groups after the first {len(plan.groups):,}"]
        return ", ".join(counts)
    hidden = len(counts) - MAX_SHOWN
    return ", ".join(counts[:MAX_SHOWN]) + (f" and {hidden:,} more" if hidden > 0 else "")


def _inputs(plan: Plan) -> str:
    largest = f"the largest has {plan.largest_input_bytes:,} of {plan.max_input_bytes:,} bytes"
    if plan.would_fail:
        lines = "1 line would fail" if plan.failing_lines == 1 else f"{plan.failing_lines:,} lines would fail"
        return f"{lines}; {largest}"
    return f"{'all are valid' if plan.are_inputs_checked else 'not checked'}; {largest}"
