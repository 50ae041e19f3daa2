"""Batches with a token that may run one task and list that task's Runs, and little else: truth at the server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from batchrun import BatchRefused, Config, ConfigError, Outcome, open_batch, run_batch
from batchrun.apify.wire import Denied
from batchrun.engine.notices import AccountRunsNotListed, Notice, ReadDenied
from batchrun.model import Summary
from batchrun.server import InlineContext
from batchrun.server.faults.fault_file import parse_faults
from tests.support.inline_batch import batch_config
from tests.support.server_api import Api, open_api

ACCOUNT = ("GET /v2/users/me", "GET /v2/users/me/limits", "GET /v2/users/me/usage/monthly")
ACTOR = ("GET /v2/actors/*", "GET /v2/actors/*/builds", "GET /v2/actor-builds/*")
TASK = "GET /v2/actor-tasks/*"
RUNS = "GET /v2/actor-runs"
ABORT = "POST /v2/actor-runs/*/abort"


async def _work(context: InlineContext) -> None:
    await context.push_items([context.input])


def _refusing(routes: Sequence[str]) -> Any:
    refusal = {"kind": "error_before", "status": 403, "type": "insufficient-permissions", "routes": list(routes)}
    return parse_faults({"fault": [refusal]})


def _config(tmp_path: Path, api: Api, task: str, **flags: Any) -> Config:
    return batch_config(
        tmp_path, api.server, [{"n": n} for n in range(12)], task__id=task, task__actor=None, task__name=None, **flags
    )


async def _run(api: Api, config: Config) -> tuple[Summary, list[Notice]]:
    async with open_batch(config, environ={"APIFY_TOKEN": api.server.token}) as batch:
        summary = await batch.run()
        return summary, batch.progress.notices.take()


@pytest.mark.parametrize(
    ("routes", "denied"),
    [
        (ACCOUNT, [Denied.ACCOUNT, Denied.LIMITS]),
        (ACCOUNT[1:], [Denied.LIMITS]),
        (ACTOR, [Denied.ACTOR]),
        (ACTOR[1:], [Denied.BUILDS]),
        ([TASK], [Denied.TASK]),
        ([RUNS], []),
        ([*ACCOUNT, *ACTOR, TASK, RUNS, ABORT], [Denied.ACCOUNT, Denied.LIMITS, Denied.TASK]),
    ],
)
async def test_a_batch_needs_only_the_right_to_run_its_task(tmp_path, routes, denied):
    """Every job is run, once, and its items are collected; each missing right is reported once."""
    async with open_api(tmp_path / "server", inline_actors={"test/work": _work}, faults=_refusing(routes)) as api:
        task = await api.create_task("test/work", name="shop")
        summary, notices = await _run(api, _config(tmp_path, api, task))
        assert (summary.outcomes, summary.items, api.server.runs_started) == ({Outcome.SUCCEEDED: 12}, 12, 12)
    of_listing = [type(each) for each in notices[len(denied) :]]
    assert notices[: len(denied)] == [ReadDenied(what=what) for what in denied]
    assert of_listing == ([AccountRunsNotListed] if RUNS in routes else [])  # the list is read at the end


async def test_a_task_that_may_not_be_read_is_named_by_its_id(tmp_path):
    """Runs show the id of their task, by which a start in doubt is found again; a deep merge needs the task's input."""
    async with open_api(tmp_path / "server", inline_actors={"test/work": _work}, faults=_refusing([TASK])) as api:
        task = await api.create_task("test/work", name="shop")
        environ = {"APIFY_TOKEN": api.server.token}
        with pytest.raises(BatchRefused, match="give the task's id"):
            await run_batch(_config(tmp_path, api, "~shop"), environ=environ)
        with pytest.raises(ConfigError, match=r"jobs.merge.*which the token may not read"):
            await run_batch(_config(tmp_path, api, task, jobs__merge="deep"), environ=environ)
        assert api.server.runs_started == 0
