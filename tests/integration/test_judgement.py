"""Budget, breaker, groups, memory, deadlines and expectations against the embedded server over loopback."""

import json
import os
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from batchrun import ConfigError, Outcome, load_config, open_batch, run_batch
from batchrun.cli.exit_codes import exit_code_of_batch
from batchrun.cli.status_command import _status_lines
from batchrun.engine.notices import UsageUnbounded
from batchrun.model import Ending, RunOptions, Selection
from batchrun.policy.run_cost import Prices
from batchrun.preflight.prices_and_budget import TaskTerms, refuse_unbounded
from batchrun.report.batch_status import BudgetUse, Status, read_status
from batchrun.report.failures_by_cause import read_tripped
from batchrun.server import InlineContext, Server
from batchrun.server.faults.fault_file import Faults
from batchrun.words.notice_words import notice_words
from tests.support.inline_batch import ENVIRON, TOKEN, batch_config, serving
from tests.support.json_lines import read_lines
from tests.support.money import assert_costs_are_the_servers
from tests.support.patience import SOON_SETTLED_S
from tests.support.server_api import ACTORS
from tests.support.worker_life import until

_config = partial(batch_config, limits__max_concurrent_runs=16, retry__max_attempts=1)


class Seen:
    """The most live Runs of each group, and the most memory, that a server had at once."""

    def __init__(self) -> None:
        self.live: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.memory_mb = self.most_memory_mb = 0
        self.is_broken = False

    async def work(self, context: InlineContext) -> None:
        """Take as long as the input says, store items, and fail if it says so."""
        group, memory_mb = context.input.get("group", ""), context.input.get("memory_mb", 0)
        self.live[group] += 1
        self.memory_mb += memory_mb
        self.most[group] = max(self.most[group], self.live[group])
        self.most_memory_mb = max(self.most_memory_mb, self.memory_mb)
        try:
            await anyio.sleep(context.input.get("ms", 0) / 1000)
            await context.push_items([{"n": n} for n in range(context.input.get("items", 1))])
        finally:
            self.live[group] -= 1
            self.memory_mb -= memory_mb
        if context.input.get("fails") or self.is_broken:
            context.fail(91, "403 blocked")


@asynccontextmanager
async def _server(tmp_path: Path, seen: Seen | None = None, **settings: Any):
    async with serving(tmp_path, (seen or Seen()).work, usage_settle_s=SOON_SETTLED_S, **settings) as server:
        yield server


async def _run(server: Server, run_id: str) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{server.base_url}/v2/actor-runs/{run_id}", headers=headers) as answer,
    ):
        return (await answer.json())["data"]


async def _status(tmp_path: Path) -> Status:
    return await anyio.to_thread.run_sync(read_status, tmp_path / "out")


async def test_a_budget_stops_the_batch_and_a_larger_one_resumes_it(tmp_path, soon_final_costs):
    """A budget below the cost of one Run starts nothing; with a larger one all jobs run, at the server's own costs."""
    money = {"limits__compute_unit_usd": 0.25, "run__timeout_s": 60, "run__memory_mb": 1024}
    async with _server(tmp_path) as server:
        lines = [{"n": n} for n in range(10)]
        config = _config(tmp_path, server, lines, limits__budget_usd=0.004, **money)
        stopped = await run_batch(config, environ=ENVIRON)
        assert (stopped.ending, stopped.settled, exit_code_of_batch(stopped)) == (Ending.OUT_OF_BUDGET, 0, 4)
        config = _config(tmp_path, server, lines, limits__budget_usd=0.05, **money)
        async with open_batch(config, environ=ENVIRON) as batch:
            opened = await _status(tmp_path)
            summary = await batch.run()
            ended = await _status(tmp_path)
        assert (opened.pid, opened.jobs_in_file) == (os.getpid(), 10)
        assert opened.budget == BudgetUse(limit_usd=0.05, spent_usd=0.0, reserved_usd=0.0)
        assert ended.budget is not None
        assert ended.budget.spent_usd == pytest.approx(summary.cost_usd)
        assert ended.budget.reserved_usd == 0.0
        assert (summary.ending, summary.outcomes) == (Ending.FINISHED, {Outcome.SUCCEEDED: 10})
        runs = [await _run(server, record["run"]["id"]) for record in read_lines(tmp_path / "out/records.jsonl")]
        await anyio.to_thread.run_sync(assert_costs_are_the_servers, tmp_path / "out", runs)
        assert (summary.open_costs, summary.unknown_costs) == (0, 0)


async def test_a_cancelled_batch_waits_for_the_costs_of_the_runs_it_aborts(tmp_path, soon_final_costs):
    """No later process reads them."""
    async with _server(tmp_path) as server:
        config = _config(tmp_path, server, [{"n": n, "ms": 60_000} for n in range(4)])
        async with open_batch(config, environ=ENVIRON) as batch, anyio.create_task_group() as children:
            children.start_soon(batch.run)
            await until(lambda: server.runs_started == 4, "four Runs")
            batch.cancel()
        summary = await batch.summary()
        assert (summary.outcomes, summary.open_costs) == ({Outcome.ABORTED: 4}, 0)
        runs = [await _run(server, record["run"]["id"]) for record in read_lines(tmp_path / "out/records.jsonl")]
        await anyio.to_thread.run_sync(assert_costs_are_the_servers, tmp_path / "out", runs)


@pytest.mark.parametrize("ms", [0, 300])
async def test_a_budget_covers_what_runs_store(tmp_path, soon_final_costs, ms):
    """Runs that compute for a tenth of a cent and store items for 1.5 cents stay within 5 cents, in two batches too."""
    money = {"limits__compute_unit_usd": 0.25, "run__timeout_s": 10, "run__memory_mb": 128, "output__items": "none"}
    async with _server(tmp_path) as server:
        lines = [{"n": n, "items": 3000, "ms": ms} for n in range(200)]
        for past_runs in (0, 3):
            out = tmp_path / f"out-{past_runs}"
            config = _config(tmp_path, server, lines, limits__budget_usd=0.05, output__dir=str(out), **money)
            async with open_batch(config, environ=ENVIRON) as batch:
                [notice] = batch.progress.notices.take()
                assert isinstance(notice, UsageUnbounded)
                assert (notice.known_runs, notice.max_open_runs) == (past_runs, 3 + 3 * past_runs)
                stopped = await batch.run()
            assert (stopped.ending, exit_code_of_batch(stopped), stopped.open_costs) == (Ending.OUT_OF_BUDGET, 4, 0)
            records = read_lines(out / "records.jsonl")
            runs = [await _run(server, record["run"]["id"]) for record in records]
            assert 0.04 < sum(run["usageTotalUsd"] for run in runs) <= 0.05
            await anyio.to_thread.run_sync(assert_costs_are_the_servers, out, runs)
        assert server.runs_started == 6


async def test_unbounded_costs_are_refused_before_any_start(tmp_path, soon_final_costs):
    """The error names the option that would bound the cost; `best_effort` starts without it."""
    async with _server(tmp_path) as server:
        config = _config(tmp_path, server, [{"n": 1}], limits__budget_usd=1.0, run__timeout_s=0,
                         limits__compute_unit_usd=0.25)  # fmt: skip
        with pytest.raises(ConfigError, match=r"limits\.budget_usd.*run\.timeout_s"):
            await run_batch(config, environ=ENVIRON)
        assert not (tmp_path / "out/records.jsonl").read_bytes()
        config = _config(tmp_path, server, [{"n": 1}], limits__budget_usd=1.0, run__timeout_s=0,
                         limits__compute_unit_usd=0.25, limits__budget_mode="best_effort")  # fmt: skip
        assert (await run_batch(config, environ=ENVIRON)).has_succeeded


async def test_a_budget_without_the_price_of_a_compute_unit_is_refused_with_the_line_to_write(tmp_path):
    """A new account reports no price. The message has the line, and what happens without it."""
    flags = {"task.id": "a~b", "jobs.file": "jobs.jsonl", "limits.budget_usd": 1.0, "run.timeout_s": 60}
    config = load_config(flags=flags, environ={})
    terms = TaskTerms(options=RunOptions(memory_mb=1024), prices=Prices(), is_actor_read=True)
    with pytest.raises(ConfigError) as refused:
        await refuse_unbounded(config, terms, lambda _: False)
    for part in ("\n    compute_unit_usd = 0.3\n", "no price of a compute unit", "nothing bounds the cost of a Run"):
        assert part in str(refused.value)
    terms = replace(terms, prices=Prices(compute_unit_usd=0.3))
    await refuse_unbounded(config, terms, lambda _: False)


async def test_the_options_of_each_line_may_bound_its_cost(tmp_path, soon_final_costs):
    """If batch and task set no bound, a line without one is named, and nothing is started."""
    flags = {"limits__budget_usd": 1.0, "run__timeout_s": 0, "limits__compute_unit_usd": 0.25}
    bounded = {"n": 1, "@options": {"timeout_s": 60, "memory_mb": 1024}}
    async with _server(tmp_path) as server:
        config = _config(tmp_path, server, [bounded, {"n": 2, "@options": {"memory_mb": 1024}}], **flags)
        with pytest.raises(
            ConfigError, match=r"the Run of line 2 may cost: set run\.timeout_s, for all or in each line"
        ):
            await run_batch(config, environ=ENVIRON)
        assert server.runs_started == 0
        config = _config(tmp_path, server, [bounded, {**bounded, "n": 2}], **flags)
        assert (await run_batch(config, environ=ENVIRON)).outcomes == {Outcome.SUCCEEDED: 2}
        async with open_batch(config, environ=ENVIRON) as again:  # opened for another process, too
            assert (await again.run()).has_succeeded


async def test_the_cap_bounds_a_pay_per_event_run(tmp_path, soon_final_costs):
    """Without a cap on a pay-per-event Run, nothing is started."""
    async with _server(tmp_path, actors=(ACTORS,)) as server:
        flags = {"task__actor": "local/paid", "limits__budget_usd": 1.0, "limits__compute_unit_usd": 0.25}
        config = _config(tmp_path, server, [{}], **flags)
        with pytest.raises(ConfigError, match=r"run\.max_total_charge_usd"):
            await run_batch(config, environ=ENVIRON)
        config = _config(tmp_path, server, [{}], **flags, run__max_total_charge_usd=0.5, run__timeout_s=1)
        assert (await run_batch(config, environ=ENVIRON)).outcomes == {Outcome.TIMED_OUT: 1}


async def test_the_breaker_stops_a_failing_batch_and_the_same_command_resumes_it(tmp_path):
    """When half of the last twenty jobs failed, the rest is left open; the next process begins a new window."""
    lines = [{"n": n, "fails": n < 20} for n in range(100)]
    async with _server(tmp_path) as server:
        config = _config(tmp_path, server, lines, breaker__window=20, limits__max_concurrent_runs=4)
        async with open_batch(config, environ=ENVIRON) as batch:
            stopped = await batch.run()
            [tripped] = batch.progress.notices.take()
            assert "did not succeed" in notice_words(tripped)
        assert (stopped.ending, exit_code_of_batch(stopped)) == (Ending.TRIPPED, 3)
        assert 20 <= stopped.settled <= 28
        status = await _status(tmp_path)
        (trip,) = status.trips
        assert (trip.group, "did not succeed" in trip.reason, status.budget) == (None, True, None)
        assert f"breaker  last stopped the batch: {trip.reason}" in _status_lines(status)
        assert any(f"{100 - stopped.settled} of about 100 left" in line for line in _status_lines(status))
        finished = await run_batch(config, environ=ENVIRON)
    assert (finished.ending, finished.outcomes) == (Ending.FINISHED, {Outcome.FAILED: 20, Outcome.SUCCEEDED: 80})


async def test_the_jobs_that_tripped_the_breaker_are_retried_and_then_the_rest(tmp_path):
    """After the Actor is fixed, the failed jobs get a second round, and the other jobs their first."""
    seen = Seen()
    seen.is_broken = True
    async with _server(tmp_path, seen) as server:
        config = _config(tmp_path, server, [{"n": n} for n in range(60)], breaker__window=20)
        assert (await run_batch(config, environ=ENVIRON)).ending is Ending.TRIPPED
        seen.is_broken = False
        tripped = await anyio.to_thread.run_sync(read_tripped, tmp_path / "out")
        assert tripped is not None
        assert (len(tripped.keys), tripped.is_for_empty) == (20, False)
        async with open_batch(config, environ=ENVIRON) as batch:
            await batch.reopen(Selection(keys=tripped.keys))
            summary = await batch.run()
    first_round = [record for record in read_lines(tmp_path / "out/records.jsonl") if record["outcome"] == "failed"]
    again = {record["key"] for record in read_lines(tmp_path / "out/records.jsonl") if record["round"] == 2}
    assert again == set(tripped.keys)
    others = len(first_round) - len(tripped.keys)  # were live when it tripped
    wanted = {Outcome.SUCCEEDED: 60 - others} | ({Outcome.FAILED: others} if others else {})
    assert summary.outcomes == wanted


async def test_a_group_keeps_its_limit_of_live_runs(tmp_path):
    """The server never sees more live Runs of the group; other groups use the rest."""
    seen = Seen()
    lines = [{"@group": "a", "group": "a", "ms": 40, "@key": f"a{n}"} for n in range(60)]
    lines += [{"@group": "b", "group": "b", "ms": 40, "@key": f"b{n}"} for n in range(60)]
    async with _server(tmp_path, seen) as server:
        config = _config(tmp_path, server, lines, groups={"a": {"max_concurrent_runs": 3}})
        summary = await run_batch(config, environ=ENVIRON)
    assert summary.outcomes == {Outcome.SUCCEEDED: 120}
    assert seen.most["a"] == 3
    assert seen.most["b"] > 3


async def test_mixed_memory_is_packed_into_the_accounts_memory(tmp_path):
    """With "auto", the account's memory is nearly filled, the server refuses next to nothing, and all jobs succeed."""
    seen = Seen()
    sizes = [256, 512, 1024, 2048]
    lines = [{"n": n, "ms": 60, "memory_mb": sizes[n % 4], "@options": {"memory_mb": sizes[n % 4]}} for n in range(80)]
    async with _server(tmp_path, seen, max_total_memory_mb=4096) as server:
        config = _config(tmp_path, server, lines, limits__max_concurrent_runs="auto")
        summary = await run_batch(config, environ=ENVIRON)
    assert summary.outcomes == {Outcome.SUCCEEDED: 80}
    assert 3072 <= seen.most_memory_mb <= 4096


async def test_a_run_larger_than_the_account_is_rejected(tmp_path):
    """The record names both sizes; the other jobs run."""
    async with _server(tmp_path, max_total_memory_mb=1024) as server:
        lines = [{"n": 1, "@options": {"memory_mb": 2048}}, {"n": 2, "@options": {"memory_mb": 512}}]
        config = _config(tmp_path, server, lines, jobs__check_inputs=False)
        summary = await run_batch(config, environ=ENVIRON)
    assert summary.outcomes == {Outcome.REJECTED: 1, Outcome.SUCCEEDED: 1}
    (rejected,) = [record for record in read_lines(tmp_path / "out/records.jsonl") if record["outcome"] == "rejected"]
    assert rejected["error"] == {
        "type": "memory-never-available", "message": "asks for 2,048 MB, and 1,024 MB are all there is",
    }  # fmt: skip


async def test_success_means_data(tmp_path):
    """A Run with too few items is empty, one with unexpected items malformed; the items of both are collected."""
    schema = tmp_path / "item.schema.json"
    schema.write_text(json.dumps({"properties": {"n": {"maximum": 3}}}))
    async with _server(tmp_path) as server:
        lines = [{"items": count} for count in (0, 1, 3, 9)]
        config = _config(tmp_path, server, lines, output__expect_items_min=2, output__expect_item_schema=str(schema))
        summary = await run_batch(config, environ=ENVIRON)
    assert summary.outcomes == {Outcome.EMPTY: 2, Outcome.MALFORMED: 1, Outcome.SUCCEEDED: 1}
    assert summary.items == 13


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON"), ('{"type": 7}', "cannot be used: it is no"), (None, "cannot be read")],
)
async def test_an_invalid_item_schema_is_named(tmp_path, content, message):
    """The error names file and key, and nothing is started."""
    schema = tmp_path / "item.schema.json"
    if content is not None:
        schema.write_text(content)
    async with _server(tmp_path) as server:
        config = _config(tmp_path, server, [{}], output__expect_item_schema=str(schema))
        with pytest.raises(ConfigError, match=rf"output\.expect_item_schema: {message}"):
            await run_batch(config, environ=ENVIRON)


async def test_a_job_that_takes_too_long_is_aborted_at_the_server(tmp_path):
    """The job's Run is aborted, and the record says why."""
    async with _server(tmp_path) as server:
        config = _config(tmp_path, server, [{"ms": 60_000}], deadlines__max_job_s=1.5)
        summary = await run_batch(config, environ=ENVIRON)
        (record,) = read_lines(tmp_path / "out/records.jsonl")
        assert (await _run(server, record["run"]["id"]))["status"] == "ABORTED"
    assert (summary.outcomes, record["error"]["type"]) == ({Outcome.TIMED_OUT: 1}, "max-job-s")


async def test_a_start_that_is_repeated_on_the_way_costs_what_the_server_says(tmp_path, soon_final_costs):
    """Both of its Runs count, and none of them is left running."""
    repeat = {"kind": "repeat", "probability": 0.3}
    async with _server(tmp_path, faults=Faults.model_validate({"seed": 4, "fault": [repeat]})) as server:
        money = {"limits__compute_unit_usd": 0.25, "run__timeout_s": 60, "limits__budget_usd": 5}
        lines = [{"n": n, "ms": 200} for n in range(20)]
        summary = await run_batch(_config(tmp_path, server, lines, **money), environ=ENVIRON)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{server.base_url}/v2/actor-runs", headers={"Authorization": f"Bearer {TOKEN}"}) as answer,
        ):
            runs = (await answer.json())["data"]["items"]
    assert (summary.outcomes, summary.open_costs) == ({Outcome.SUCCEEDED: 20}, 0)
    assert len(runs) == 20 + summary.second_runs > 20
    assert summary.cost_usd == pytest.approx(sum(run["usageTotalUsd"] for run in runs))
    await anyio.to_thread.run_sync(assert_costs_are_the_servers, tmp_path / "out", runs)


async def test_lost_answers_never_make_one_run_too_many(tmp_path):
    """By the server's count: with every fifth start refused without effect, and every fifth answer lost after it."""
    strikes = [
        {"kind": "error_before", "routes": ["starts"], "status": 502, "probability": 0.2},
        {"kind": "drop_answer", "routes": ["starts"], "probability": 0.2},
    ]
    seen = Seen()
    async with _server(tmp_path, seen, faults=Faults.model_validate({"seed": 5, "fault": strikes})) as server:
        flags = {"limits__max_concurrent_runs": 4, "limits__start_horizon_s": 2, "limits__listing_lag_s": 0.5}
        lines = [{"n": n, "ms": 100} for n in range(60)]
        summary = await run_batch(_config(tmp_path, server, lines, **flags), environ=ENVIRON)
        assert (summary.outcomes, summary.second_runs) == ({Outcome.SUCCEEDED: 60}, 0)
        assert (server.runs_started, seen.most[""] <= 4) == (60, True)
    attempts = [attempt for record in read_lines(tmp_path / "out/records.jsonl") for attempt in record["attempts"]]
    assert sum(attempt["run_id"] is None for attempt in attempts) > 5
