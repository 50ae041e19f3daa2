"""A task that is deleted or renamed while its batch is stopped, and tokens of other accounts: truth at the server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from batchrun import BatchRefused, Config, ConfigError, Outcome, load_config, open_batch, run_batch
from batchrun.ledger.facts import ACCOUNT
from batchrun.ledger.sqlite.tables import open_ledger
from batchrun.maintenance.abort_runs import abort_runs
from batchrun.maintenance.repair import repair_outputs
from batchrun.server import AccountSettings, InlineContext
from tests.support.command_line import batchrun
from tests.support.json_lines import read_lines, to_lines
from tests.support.server_api import Api, open_api
from tests.support.worker_life import until

OTHERS = AccountSettings(username="bob", token="bobs-token")
#: Of the six jobs, so many are started before the batch is left.
STARTED = 3


@asynccontextmanager
async def _left_batch(tmp_path: Path, run_s: float = 0.0) -> AsyncIterator[tuple[Api, Config, str]]:
    """Give a batch that a process has left with live Runs and with jobs that were never started; and its task."""
    over = anyio.Event()

    async def work(context: InlineContext) -> None:
        await over.wait()
        await anyio.sleep(run_s)
        await context.push_items([context.input])

    async with open_api(tmp_path / "server", accounts=(OTHERS,), inline_actors={"test/work": work}) as api:
        task = await api.create_task("test/work", name="shop")
        (tmp_path / "jobs.jsonl").write_bytes(to_lines({"n": n} for n in range(6)))
        config = _config(tmp_path, api, **{"task.id": "~shop"})
        async with open_batch(config, environ=_environ(api)) as batch, anyio.create_task_group() as children:
            children.start_soon(batch.run)
            await until(lambda: batch.progress.started == STARTED, "all places are taken")
            children.cancel_scope.cancel()
        over.set()
        yield api, config, task


def _config(tmp_path: Path, api: Api, **flags: Any) -> Config:
    defaults = {
        "api.base_url": api.server.base_url,
        "jobs.file": str(tmp_path / "jobs.jsonl"),
        "output.dir": str(tmp_path / "out"),
        "limits.max_concurrent_runs": STARTED,
    }
    return load_config(flags={**defaults, **flags}, environ={})


def _environ(api: Api) -> dict[str, str]:
    return {"APIFY_TOKEN": api.server.token}


async def _ended(api: Api) -> None:
    for run in (await api.get("/v2/actor-runs")).data["items"]:
        await api.finish(run["id"])


def _records(tmp_path: Path) -> list[Any]:
    return read_lines(tmp_path / "out/records.jsonl")


async def test_paid_runs_of_a_deleted_task_are_collected(tmp_path):
    """They are collected with their items, no further Run is started, and the refusal names the task."""
    async with _left_batch(tmp_path) as (api, config, task):
        await _ended(api)
        assert (await api.send("DELETE", f"/v2/actor-tasks/{task}")).status == 204
        with pytest.raises(BatchRefused, match=r"does not know the task '~shop' any more"):
            await run_batch(config, environ=_environ(api))
        records = _records(tmp_path)
        assert [(each["outcome"], each["items"]["count"]) for each in records] == [("succeeded", 1)] * STARTED
        assert api.server.runs_started == STARTED


async def test_a_finished_batch_of_a_deleted_task_is_finished(tmp_path):
    """Without a job that needs a start, the task is not missed."""
    async with _left_batch(tmp_path) as (api, config, task):
        await _ended(api)
        assert (await run_batch(config, environ=_environ(api))).outcomes == {Outcome.SUCCEEDED: 6}
        await api.send("DELETE", f"/v2/actor-tasks/{task}")
        assert (await run_batch(config, environ=_environ(api))).has_succeeded


async def test_a_renamed_task_is_named(tmp_path):
    """Its live Runs are collected, no further one is started, and the advice, to give its id, finishes the batch."""
    async with _left_batch(tmp_path) as (api, config, task):
        await api.send("PUT", f"/v2/actor-tasks/{task}", {"name": "shop2"})
        with pytest.raises(BatchRefused, match=rf"renamed: it is local/shop2 now. `--task {task}`"):
            await run_batch(config, environ=_environ(api))
        assert (len(_records(tmp_path)), api.server.runs_started) == (STARTED, STARTED)
        by_id = _config(tmp_path, api, **{"task.id": task})
        assert (await run_batch(by_id, environ=_environ(api))).outcomes == {Outcome.SUCCEEDED: 6}


async def test_a_described_task_is_not_created_twice_for_a_batch(tmp_path):
    """The batch is refused, since another task of this description would be another batch."""
    async with _left_batch(tmp_path) as (api, _, task):
        await api.send("DELETE", f"/v2/actor-tasks/{task}")
        described = _config(tmp_path, api, **{"task.actor": "test/work", "task.name": "shop"})
        with pytest.raises(BatchRefused, match="does not know the task"):
            await run_batch(described, environ=_environ(api))
        assert (await api.get("/v2/actor-tasks")).data["total"] == 0


async def test_runs_of_a_deleted_task_need_a_token_that_shows_its_account(tmp_path):
    """A batch that does not know its account cannot tell a deleted task from another account's token: none is lost."""
    async with _left_batch(tmp_path) as (api, config, task):
        await _ended(api)
        await api.send("DELETE", f"/v2/actor-tasks/{task}")
        await anyio.to_thread.run_sync(_forget_account, tmp_path / "out")
        with pytest.raises(BatchRefused, match="Its Runs are not followed"):
            await run_batch(config, environ=_environ(api))
        assert _records(tmp_path) == []


def _forget_account(directory: Path) -> None:
    with open_ledger(directory) as ledger, ledger.transaction():
        ledger.note_fact(ACCOUNT, None)


async def test_runs_of_a_deleted_task_are_aborted(tmp_path):
    """`batchrun abort` needs the Runs' ids and no task; here deleting the task has aborted them already."""
    async with _left_batch(tmp_path, run_s=600) as (api, _, task):
        await api.send("DELETE", f"/v2/actor-tasks/{task}")
        await _ended(api)
        seen: list[str] = []
        aborted = await abort_runs(tmp_path / "out", _environ(api), seen.append)
        assert (aborted.runs, len(seen), aborted.unknown, aborted.refused) == (STARTED, STARTED, 0, {})


async def test_records_of_a_deleted_task_are_repaired(tmp_path):
    """`batchrun repair` reads the Runs by their ids."""
    async with _left_batch(tmp_path) as (api, config, task):
        await run_batch(config, environ=_environ(api))
        await api.send("DELETE", f"/v2/actor-tasks/{task}")
        (tmp_path / "out/records.jsonl").write_bytes(b"")
        command = partial(batchrun, "repair", "out", cwd=tmp_path, environ=_environ(api))
        said = await anyio.to_thread.run_sync(command)
        assert (said.code, "6 written again" in said.err) == (0, True)
        assert {each["run"]["status"] for each in _records(tmp_path)} == {"SUCCEEDED"}


async def test_the_command_shows_what_is_done_and_what_is_left(tmp_path):
    """It exits with 5 and prints the summary, as text and as JSON, before the reason."""
    async with _left_batch(tmp_path) as (api, _, task):
        await _ended(api)
        await api.send("DELETE", f"/v2/actor-tasks/{task}")
        flags = ("--task", "~shop", "--jobs", str(tmp_path / "jobs.jsonl"), "--out", "out")
        arguments = ("run", *flags, "--api-url", api.server.base_url, "-c", str(STARTED), "--json")
        said = await anyio.to_thread.run_sync(partial(batchrun, *arguments, cwd=tmp_path, environ=_environ(api)))
        assert (said.code, orjson.loads(said.out)["outcomes"]) == (5, {"succeeded": STARTED})
        assert [
            part
            for part in ("3 succeeded", "left     3 of 6 jobs", "resume   ", "does not know the task")
            if part not in said.err
        ] == []


@pytest.mark.parametrize("is_described", [True, False])
async def test_another_accounts_token_is_refused_and_creates_nothing(tmp_path, is_described):
    """The account is compared before the task is looked for; no Run is taken for lost."""
    async with _left_batch(tmp_path) as (api, _, _task):
        task = {"task.actor": "test/work", "task.name": "shop"} if is_described else {"task.id": "~shop"}
        with pytest.raises(BatchRefused, match="the token is of bob"):
            await run_batch(_config(tmp_path, api, **task), environ={"APIFY_TOKEN": "bobs-token"})
        assert (await api.send("GET", "/v2/actor-tasks", token="bobs-token")).data["total"] == 0
        assert _records(tmp_path) == []
        for command in (
            abort_runs(tmp_path / "out", {"APIFY_TOKEN": "bobs-token"}, lambda _: None),
            repair_outputs(tmp_path / "out", {"APIFY_TOKEN": "bobs-token"}),
        ):
            with pytest.raises(BatchRefused, match="the token is of bob"):
                await command


@pytest.mark.parametrize("other", [{"task.actor": "test/work", "task.name": "other"}, {"task.id": "~other"}])
async def test_a_file_that_names_another_task_is_refused_and_creates_nothing(tmp_path, other):
    """The batch is not resumed with its old task, and that task is not said to be renamed."""
    async with _left_batch(tmp_path) as (api, config, _task):
        with pytest.raises(ConfigError, match=r"holds another batch: its task is named 'shop'.*choose another --out"):
            await run_batch(_config(tmp_path, api, **other), environ=_environ(api))
        assert (await api.get("/v2/actor-tasks")).data["total"] == 1
        assert (await run_batch(config, environ=_environ(api))).outcomes == {Outcome.SUCCEEDED: 6}
