"""A Run that the official client starts, unmodified, is followed, collected and adopted by batchrun.

The other direction is tested in `test_clients_actors`.
"""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import orjson
import pytest
from apify_client import ApifyClientAsync
from pydantic import SecretStr

from batchrun.apify.client import open_client
from batchrun.engine.collect import Collector, OutputPlan
from batchrun.model import Attempt, AttemptState, JobId, Mark, Outcome, RunId, RunStatus
from batchrun.runtime.byte_budget import ByteBudget
from batchrun.server import InlineContext
from batchrun.server.faults.fault_file import parse_faults
from tests.support.command_line import Said, batchrun
from tests.support.following import Following
from tests.support.json_lines import read_lines
from tests.support.memory_ledger import WatchedLedger, make_job
from tests.support.server_api import Api, open_api

PLAN = OutputPlan(items="file", max_inline_items=10, page_size=2, is_value_wanted=True, query={})


def _official(api: Api) -> ApifyClientAsync:
    return ApifyClientAsync(token=api.server.token, api_url=api.server.base_url)


@pytest.mark.parametrize(("exit_code", "status"), [(0, RunStatus.SUCCEEDED), (3, RunStatus.FAILED)])
async def test_a_run_of_the_official_client_is_followed_and_collected(
    tmp_path: Path, exit_code: int, status: RunStatus
) -> None:
    """A poll waits for the live Run; its end, items and OUTPUT are the same as the official client's."""
    may_end = anyio.Event()

    async def work(context: InlineContext) -> None:
        await context.push_items([{"n": n} for n in range(5)])
        await context.set_value("OUTPUT", context.input)
        await may_end.wait()
        if exit_code:
            context.fail(exit_code)

    async with (
        open_api(tmp_path, inline_actors={"test/work": work}) as api,
        open_client(api.server.base_url, SecretStr(api.server.token), request_rate_per_s=1000) as ours,
        anyio.create_task_group() as children,
    ):
        task = _official(api).task(await api.create_task("test/work", name="shared"))
        started = await task.start(task_input={"of": "the official client"})
        run_id = RunId(started.id)
        live = await ours.get_run(run_id)
        assert live.status is RunStatus.RUNNING
        children.start_soon(_let_go, api, run_id, may_end)
        run = await Following(ours, task_id=live.fields["actorTaskId"]).wait_for_finish(run_id)
        assert run is not None
        assert (run.id, run.status, run.fields["exitCode"]) == (run_id, status, exit_code)
        ledger = WatchedLedger()
        attempt = Attempt(attempt_no=1, mark=Mark("m"), state=AttemptState.ENDED, intended_at=datetime.now(UTC))
        collector = Collector(ours, ledger, PLAN, ByteBudget.of_megabytes(256))
        with collector.room() as room:
            collected = await collector.collect(make_job(), JobId(1), attempt, run, Outcome.SUCCEEDED, room)
        seen = (await _official(api).dataset(started.default_dataset_id).list_items()).items
    lines = b"".join([*ledger.item_lines, collected.item_lines]).splitlines()
    items = [orjson.loads(line) for line in lines]
    assert [{"n": item["n"]} for item in items] == seen == [{"n": n} for n in range(5)]
    assert {item["_run"] for item in items} == {run_id}
    assert collected.output == {"of": "the official client"}


async def _let_go(api: Api, run_id: str, may_end: anyio.Event) -> None:
    """Let the Run end once a client waits for its end."""
    live = api.server._backend.runs.find_live(run_id)
    assert live is not None
    waiting = 0
    while not waiting:
        await anyio.sleep(0.01)
        waiting = live._ended.statistics().tasks_waiting if live._ended is not None else 0
    may_end.set()


async def test_a_run_of_the_official_client_is_adopted_by_a_batch(tmp_path: Path) -> None:
    """A start stays in doubt and a person starts the Run by hand; `resolve` makes the batch take that Run."""
    lost = {"kind": "drop_answer", "routes": ["starts"], "count": 1, "after": 1}
    faults = parse_faults({"fault": [{"kind": "no_echo"}, lost]})
    (tmp_path / "jobs.jsonl").write_text("".join(f'{{"@key": "job-{n}", "n": {n}}}\n' for n in range(3)))
    async with open_api(tmp_path / "api", faults=faults) as api:
        task = await api.create_task(name="adopted")
        run = ["run", "--task", task, "--jobs", "jobs.jsonl", "--out", "out", "--api-url", api.server.base_url]
        settings = ["-c", "1", "--set", "limits.start_horizon_s=0.5", "--set", "limits.listing_lag_s=0.1"]
        assert (await _said(api, tmp_path, *run, *settings)).code == 1
        by_hand = await _official(api).task(task).start(task_input={"n": 1}, wait_for_finish=60)
        adopted = await _said(api, tmp_path, "resolve", "out", "--key", "job-1", "--run", by_hand.id)
        assert adopted.code == 0, adopted.err
        done = await _said(api, tmp_path, *run, *settings)
        assert done.code == 0, done.err
        assert api.server.runs_started == 4
    records: dict[str, Any] = {
        record["key"]: record["run"]["id"]
        for record in map(orjson.loads, (tmp_path / "out" / "records.jsonl").read_bytes().splitlines())
    }
    items = read_lines(tmp_path / "out" / "items.jsonl")
    assert records["job-1"] == by_hand.id
    assert {item["_key"]: (item["n"], item["_run"]) for item in items} == {
        f"job-{n}": (n, records[f"job-{n}"]) for n in range(3)
    }


async def _said(api: Api, directory: Path, *arguments: str) -> Said:
    command = partial(batchrun, *arguments, cwd=directory, environ={"APIFY_TOKEN": api.server.token})
    return await anyio.to_thread.run_sync(command)
