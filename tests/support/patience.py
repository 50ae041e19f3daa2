"""Waits of ours that no configuration shortens, shortened: what is waited for in tests is on this machine."""

import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from batchrun.account import connect
from batchrun.engine import collect
from batchrun.engine.background import final_costs
from batchrun.policy.retry import Backoff
from batchrun.worker import batch_runner, fleet_duty, spool, worker_client
from batchrun.worker.http import live_event_routes, output_routes

#: Constants by the names of their modules, as `tests.support.forked` and `monkeypatch` set them.
Constants = Mapping[str, Any]

#: Costs are final two seconds after a Run's end; the server must be one that settles its usage sooner.
SOON_FINAL_COSTS: Constants = {
    f"{final_costs.__name__}.FINAL_AFTER": timedelta(seconds=2),
    f"{final_costs.__name__}.INTERVAL_S": 0.2,
}
#: A dataset that is not found counts as gone after less than the 10 seconds of a platform whose replicas lag.
SOON_GONE: Constants = {f"{collect.__name__}.MISSING_AFTER_S": 0.3, f"{collect.__name__}.MISSING_RETRY_S": 0.1}
#: Costs are taken as final at a Run's end: for tests that do not look at them.
COSTS_FINAL_AT_ONCE: Constants = {f"{final_costs.__name__}.FINAL_AFTER": timedelta(0)}
#: Waits for an answer are not printed, which they are on a busy machine only: for tests of all that a command prints.
NO_WAITS_NOTED: Constants = {
    f"{connect.__name__}.FIRST_WAIT_NOTED_AFTER_S": 3600,
    f"{connect.__name__}.WAITS_NOTED_AFTER_S": (),
}
#: A worker looks at its spool soon, others look at the worker soon, and a batch that an error closed is opened again;
#: the files of a fleet's batch are looked for again soon.
SOON_LOOKS: Constants = {
    f"{spool.__name__}.INTERVAL_S": 0.1,
    f"{fleet_duty.__name__}.RETRY_INTERVAL_S": 0.1,
    f"{worker_client.__name__}.INTERVAL_S": 0.1,
    f"{output_routes.__name__}.INTERVAL_S": 0.1,
    f"{live_event_routes.__name__}.INTERVAL_S": 0.1,
    f"{batch_runner.__name__}.OUTAGE_BACKOFF": Backoff(first_s=0.1, max_s=1.0),
}
#: What is changed in every test that does not say otherwise.
IMPATIENCE: Constants = {**COSTS_FINAL_AT_ONCE, **NO_WAITS_NOTED, **SOON_LOOKS}
#: When the server makes a Run's usage final, in such tests, in seconds after its end.
SOON_SETTLED_S = 0.1


def impatient_python(*lines: str, constants: Constants = COSTS_FINAL_AT_ONCE) -> list[str]:
    """Return the command of a process of its own that changes constants of our modules and then executes lines."""
    changes = [
        f"setattr(importlib.import_module({module!r}), {constant!r}, {value!r})"
        for (module, _, constant), value in ((name.rpartition("."), value) for name, value in constants.items())
    ]
    return [sys.executable, "-c", "\n".join(["import datetime, importlib, runpy", *changes, *lines])]
