"""`batchrun plan`: check and forecast a batch; start nothing."""

from functools import partial

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.plan_lines import print_plan
from batchrun.config import Config
from batchrun.preflight.plan import make_plan
from batchrun.runtime.logs import silence


def show_plan(config: Config, *, is_json: bool, shown: int) -> ExitCode:
    """Print the plan of a batch, with the inputs of its first jobs; return USAGE if a line would fail."""
    silence()
    plan = run_async(partial(make_plan, shown=shown), config)
    return print_plan(plan, is_json=is_json)
