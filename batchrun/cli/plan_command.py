"""`batchrun plan`: check and forecast a batch; start nothing."""

import sys
from dataclasses import asdict
from functools import partial

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.json_output import print_json
from batchrun.cli.plan_lines import plan_lines
from batchrun.cli.terminal import answer
from batchrun.config import Config
from batchrun.preflight.plan import make_plan
from batchrun.runtime.logs import silence


def show_plan(config: Config, *, is_json: bool, shown: int) -> ExitCode:
    """Print the plan of a batch, with the inputs of its first jobs; return USAGE if a line would fail."""
    silence()
    plan = run_async(partial(make_plan, shown=shown), config)
    if is_json:
        print_json({**asdict(plan), "would_fail": plan.would_fail})
    else:
        for line in plan_lines(plan):
            answer(line)
        sys.stdout.flush()
    return ExitCode.USAGE if plan.would_fail else ExitCode.SUCCEEDED
