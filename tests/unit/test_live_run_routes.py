"""What the worker keeps of live Runs that somebody looks at: no more than it shows."""

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest

from batchrun.account.account import Account
from batchrun.errors import BatchrunError
from batchrun.model import Mark, RunOptions, TaskId
from batchrun.worker.http.live_run_routes import RunStates
from tests.support.scripted_api import Plan, ScriptedApi, api_error, lost_answer


async def test_of_a_run_only_what_is_shown_is_kept_with_its_words_cut() -> None:
    """An Actor chooses its status message; 2,000 Runs of a megabyte each would fill the worker."""
    said = "x" * 1_000_000
    api = ScriptedApi(Plan(run_s=60.0, status_message=said, fields={"status": said, "options": {"more": said}}))
    run = await api.start_run(TaskId("task"), b"{}", RunOptions(), Mark("m"))
    account = cast("Account", SimpleNamespace(client=api))
    shown = (await RunStates().look(account, lambda _: (), [run.id]))[run.id]
    kept: dict[str, Any] = dataclasses.asdict(shown)
    assert (kept["status_message"], kept["cost_usd"]) == ("x" * 1000, run.cost_usd)
    assert sum(len(str(each)) for each in kept.values()) < 3000


@pytest.mark.parametrize(("secrets", "shown"), [(("a-SECRET",), "x" * 995 + "*** s"), (None, None)])
async def test_secrets_are_left_out_before_words_are_cut(secrets: tuple[str, ...] | None, shown: str | None) -> None:
    """Else the beginning of one would stay; of a Run whose secrets are unknown, no message is shown."""
    api = ScriptedApi(Plan(run_s=60.0, status_message=f"{'x' * 995}a-SECRET said"))
    run = await api.start_run(TaskId("task"), b"{}", RunOptions(), Mark("m"))
    account = cast("Account", SimpleNamespace(client=api))
    assert (await RunStates().look(account, lambda _: secrets, [run.id]))[run.id].status_message == shown


@pytest.mark.parametrize("error", [api_error(404), lost_answer()], ids=["refused", "unreadable"])
async def test_a_run_that_cannot_be_read_is_left_out(error: BatchrunError) -> None:
    """The others are shown all the same."""
    api = ScriptedApi(Plan(run_s=60.0))
    run_ids = [(await api.start_run(TaskId("task"), b"{}", RunOptions(), Mark(mark))).id for mark in ("a", "b")]
    api.errors["get_run"] = [error]
    account = cast("Account", SimpleNamespace(client=api))
    assert list(await RunStates().look(account, lambda _: (), run_ids)) == run_ids[1:]
