"""Batches against the embedded server, in this process; counts are taken at the server."""

import gzip
import os
from collections import Counter
from datetime import date
from functools import partial
from typing import Any

import anyio
import orjson
import pytest
from pydantic import SecretStr

from batchrun import ConfigError, JobFileError, Outcome, open_batch, run_batch
from batchrun.account import limits_watch
from batchrun.account.task import Task, find_task
from batchrun.apify.client import open_client
from batchrun.jobs import job_file
from batchrun.model import Mark, RunOptions
from batchrun.server import InlineContext, Server
from tests.support.inline_batch import ACTOR, ENVIRON, TOKEN, batch_config, serving
from tests.support.json_lines import read_lines
from tests.support.worker_life import until

_config = partial(batch_config, limits__max_concurrent_runs=16, limits__start_rate=2000.0, retry__backoff_s=0.01)


async def work(context: InlineContext) -> None:
    """Take as long as the input says, store its number, and fail if it says so."""
    await anyio.sleep(context.input.get("ms", 0) / 1000)
    await context.push_items([{"n": context.input.get("n")}])
    await context.set_value("OUTPUT", {"seen": context.input})
    if context.input.get("fails"):
        context.fail(7, "told to fail")


async def test_every_job_becomes_one_record_and_its_items(tmp_path):
    """Each of 140 jobs makes one Run, record and item, within the limits of live Runs and start rate."""
    async with serving(tmp_path, work) as server:
        config = _config(
            tmp_path, server, [{"n": n} for n in range(140)], limits__max_concurrent_runs=20, limits__start_rate=300.0
        )
        summary = await run_batch(config, environ=ENVIRON)
        assert summary.outcomes == {Outcome.SUCCEEDED: 140}
        assert (server.runs_started, server.peak_live_runs <= 20) == (140, True)
        starts = list(server.start_times)
        # 300 a second, and at most 15 (5 %) at once after a pause.
        assert all(later - first >= (100 - 15) / 300 - 0.1 for first, later in zip(starts, starts[100:], strict=False))
    records, items = read_lines(tmp_path / "out/records.jsonl"), read_lines(tmp_path / "out/items.jsonl")
    assert sorted(item["n"] for item in items) == list(range(140))
    assert len({record["key"] for record in records}) == 140
    assert {record["outcome"] for record in records} == {"succeeded"}


async def test_a_failed_run_is_retried_and_reported(tmp_path):
    """By default a job has two attempts; its record holds both, the error, and the sum of their costs."""
    async with serving(tmp_path, work) as server:
        config = _config(tmp_path, server, [{"n": 1, "fails": True, "@key": "bad", "@meta": {"a": [1]}}])
        summary = await run_batch(config, environ=ENVIRON)
        assert (summary.outcomes, server.runs_started) == ({Outcome.FAILED: 1}, 2)
    (record,) = read_lines(tmp_path / "out/records.jsonl")
    assert (record["key"], record["meta"], record["outcome"]) == ("bad", {"a": [1]}, "failed")
    assert [attempt["status"] for attempt in record["attempts"]] == ["FAILED", "FAILED"]
    assert record["run"]["id"] == record["attempts"][1]["run_id"]
    assert record["error"] == {"type": "run-failed", "message": "told to fail (exit code 7)"}
    assert record["cost_usd"] == pytest.approx(sum(attempt["cost_usd"] for attempt in record["attempts"]))


async def test_bad_lines_start_nothing(tmp_path):
    """Three bad lines among a thousand are all named, and nothing is started."""
    lines: list[Any] = [{"n": n} for n in range(1000)]
    lines[9], lines[499], lines[999] = b"[1]\n", b"{\n", orjson.dumps({"@nope": 1}) + b"\n"
    async with serving(tmp_path, work) as server:
        with pytest.raises(JobFileError) as caught:
            await run_batch(_config(tmp_path, server, lines), environ=ENVIRON)
        assert server.runs_started == 0
    assert [f"line {number}:" in str(caught.value) for number in (10, 500, 1000)] == [True] * 3
    assert not (tmp_path / "out").exists()


async def test_bad_lines_can_be_recorded_instead(tmp_path):
    """With on_bad_line = "record", 97 of a hundred jobs run and three are recorded as invalid."""
    lines: list[Any] = [{"n": n} for n in range(100)]
    lines[9], lines[49], lines[99] = b"[1]\n", b"{\n", orjson.dumps({"@nope": 1}) + b"\n"
    async with serving(tmp_path, work) as server:
        summary = await run_batch(_config(tmp_path, server, lines, jobs__on_bad_line="record"), environ=ENVIRON)
        assert summary.outcomes == {Outcome.SUCCEEDED: 97, Outcome.INVALID: 3}
        assert server.runs_started == 97
    bad = read_lines(tmp_path / "out/bad_lines.jsonl")
    assert [(line["line"], line["content"]) for line in bad] == [(10, "[1]"), (50, "{"), (100, '{"@nope":1}')]


async def test_records_are_yielded_once_they_are_durable(tmp_path):
    """Iterating yields each record of this process once it is in the file."""
    async with serving(tmp_path, work) as server:
        config = _config(tmp_path, server, [{"n": n} for n in range(50)])
        async with open_batch(config, environ=ENVIRON) as batch:
            async for record in batch:
                keys = {line["key"] for line in read_lines(tmp_path / "out/records.jsonl")}
                assert record.key in keys


async def test_a_slow_consumer_slows_starts(tmp_path):
    """While no record is consumed, only as many Runs start as buffer and slots hold."""
    async with serving(tmp_path, work) as server:
        config = _config(tmp_path, server, [{"n": n} for n in range(1000)], limits__max_concurrent_runs=4)
        async with open_batch(config, environ=ENVIRON) as batch:
            records = aiter(batch)
            await anext(records)
            while await _grew(server):
                pass
            assert 100 <= server.runs_started < 150


async def _grew(server: Server) -> bool:
    """True if more Runs are started within a while."""
    before = server.runs_started
    await anyio.sleep(1)
    return server.runs_started > before


async def test_a_batch_that_was_left_early_resumes(tmp_path):
    """A batch that is left after its first record and opened again has one record per job and no Run twice."""
    async with serving(tmp_path, work) as server:
        # Leaving cuts off starts that are being sent; whether one took effect is certain after the horizon only.
        short = {"limits__start_horizon_s": 1.0, "limits__listing_lag_s": 0.2}
        config = _config(tmp_path, server, [{"n": n, "ms": 20} for n in range(100)], **short)
        async with open_batch(config, environ=ENVIRON) as batch:
            async for _ in batch:
                break
        summary = await run_batch(config, environ=ENVIRON)
        assert summary.outcomes == {Outcome.SUCCEEDED: 100}
        assert server.runs_started == 100
    assert Counter(record["line"] for record in read_lines(tmp_path / "out/records.jsonl")) == Counter(range(1, 101))


async def test_a_full_account_delays_jobs_and_fails_none(tmp_path):
    """With more slots than the account has Runs, refusals cost no attempt: every job succeeds in its first."""
    async with serving(tmp_path, work, max_concurrent_runs=3) as server:
        config = _config(tmp_path, server, [{"n": n, "ms": 10} for n in range(40)], limits__max_concurrent_runs=20)
        summary = await run_batch(config, environ=ENVIRON)
        assert summary.outcomes == {Outcome.SUCCEEDED: 40}
        assert (server.runs_started, server.peak_live_runs) == (40, 3)
    assert {len(record["attempts"]) for record in read_lines(tmp_path / "out/records.jsonl")} == {1}


async def test_a_task_that_differs_from_its_description_is_never_changed(tmp_path):
    """A described task is created once; with another description, the error shows the difference."""
    async with serving(tmp_path, work) as server:
        await run_batch(_config(tmp_path, server, [{"n": 1}], task__input={"a": 1, "b": 2}), environ=ENVIRON)
        other = _config(tmp_path, server, [{"n": 1}], task__input={"a": 2, "b": 2})
        with pytest.raises(ConfigError, match=r"exists and differs \(input: a\)"):
            await run_batch(other, environ=ENVIRON)
        assert server.runs_started == 1


async def test_batches_that_begin_together_share_their_described_task(tmp_path):
    """Whichever creates the task, the others use it; none fails because its name is taken."""
    async with (
        serving(tmp_path, work) as server,
        open_client(server.base_url, SecretStr(TOKEN), request_rate_per_s=1000) as client,
    ):
        task = _config(tmp_path, server, [{"n": 1}]).task
        found: list[Task] = []

        async def find() -> None:
            found.append(await find_task(client, task))

        async with anyio.create_task_group() as children:
            for _ in range(5):
                children.start_soon(find)
        assert len(found) == 5
        assert len({each.id for each in found}) == 1


async def test_appended_lines_are_new_jobs(tmp_path):
    """Lines that were appended are run; the lines before them are skipped."""
    async with serving(tmp_path, work) as server:
        lines: list[Any] = [{"n": n} for n in range(5)]
        await run_batch(_config(tmp_path, server, lines), environ=ENVIRON)
        summary = await run_batch(_config(tmp_path, server, [*lines, {"n": 5}, {"n": 0}]), environ=ENVIRON)
        assert (summary.settled, summary.duplicates, server.runs_started) == (6, 1, 6)
        (first, *_) = read_lines(tmp_path / "out/records.jsonl")
        assert read_lines(tmp_path / "out/duplicates.jsonl") == [{"line": 7, "key": first["key"], "repeats": 1}]


async def test_a_line_that_replaces_an_earlier_one_is_carried_out(tmp_path):
    """A second round with the new input, under the same key; the earlier record stays, the summary counts one job."""
    async with serving(tmp_path, work) as server:
        lines: list[Any] = [{"@key": "a", "n": 1}, {"@key": "b", "n": 2}]
        await run_batch(_config(tmp_path, server, lines), environ=ENVIRON)
        lines.append({"@key": "a", "n": 10, "@replaces": True})
        for _ in range(2):
            summary = await run_batch(_config(tmp_path, server, lines), environ=ENVIRON)
            assert (summary.settled, summary.outcomes, server.runs_started) == (2, {Outcome.SUCCEEDED: 2}, 3)
    records = read_lines(tmp_path / "out/records.jsonl")
    assert sorted((each["key"], each["round"], each["line"]) for each in records) == [
        ("a", 1, 1), ("a", 2, 3), ("b", 1, 2),
    ]  # fmt: skip
    assert sorted(item["n"] for item in read_lines(tmp_path / "out/items.jsonl")) == [1, 2, 10]
    assert read_lines(tmp_path / "out/duplicates.jsonl") == [{"line": 1, "key": "a", "repeats": 3}]


async def test_a_limit_counts_over_all_processes(tmp_path):
    """`jobs.limit` counts the first lines of the file, in every process."""
    async with serving(tmp_path, work) as server:
        lines = [{"n": n} for n in range(50)]
        for limit, started in ((10, 10), (10, 10), (25, 25)):
            await run_batch(_config(tmp_path, server, lines, jobs__limit=limit), environ=ENVIRON)
            assert server.runs_started == started


async def test_a_deep_merge_keeps_what_a_shallow_one_would_lose(tmp_path):
    """With jobs.merge = "deep", nested fields of the task's input stay unless the line sets them."""
    async with serving(tmp_path, work) as server:
        config = _config(
            tmp_path,
            server,
            [{"n": 1, "proxy": {"country": "de"}}],
            task__input={"proxy": {"country": "us", "groups": ["a"]}},
            jobs__merge="deep",
            output__value=True,
        )
        await run_batch(config, environ=ENVIRON)
    (record,) = read_lines(tmp_path / "out/records.jsonl")
    assert record["output"]["seen"]["proxy"] == {"country": "de", "groups": ["a"]}


async def test_auto_takes_what_the_account_has_free(tmp_path):
    """`max_concurrent_runs = "auto"` is the account's limit less one Run that is left free."""
    async with serving(tmp_path, work, max_concurrent_runs=5) as server:
        config = _config(tmp_path, server, [{"n": 1}], limits__max_concurrent_runs="auto")
        async with open_batch(config, environ=ENVIRON) as batch:
            assert batch.opening.max_concurrent_runs == 4


async def test_output_values_and_inline_items_go_into_the_record(tmp_path):
    """With output.value and inline items, the record holds the OUTPUT value and the items."""
    async with serving(tmp_path, work) as server:
        config = _config(tmp_path, server, [{"n": 5}], output__value=True, output__items="inline")
        await run_batch(config, environ=ENVIRON)
    (record,) = read_lines(tmp_path / "out/records.jsonl")
    assert record["output"] == {"seen": {"n": 5}}
    assert (record["items"]["count"], record["items"]["values"]) == (1, [{"n": 5}])
    assert (tmp_path / "out/items.jsonl").read_bytes() == b""


async def test_the_token_is_written_nowhere(tmp_path):
    """No file of the output directory holds the API token."""
    async with serving(tmp_path, work) as server:
        await run_batch(_config(tmp_path, server, [{"n": 1}]), environ=ENVIRON)
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert [file for file in files if TOKEN.encode() in file.read_bytes()] == []


async def test_a_date_in_the_configuration_does_not_make_another_batch(tmp_path):
    """A batch with a TOML date in its input resumes as the same batch."""
    async with serving(tmp_path, work) as server:
        for _ in range(2):
            config = _config(tmp_path, server, [{"n": 1}], input={"since": date(2024, 1, 1)})
            summary = await run_batch(config, environ=ENVIRON)
            assert summary.outcomes == {Outcome.SUCCEEDED: 1}


async def test_the_jobs_before_a_damaged_part_of_the_file_are_settled(tmp_path, monkeypatch):
    """Every admitted job is settled before the error is raised, and no Run stays live."""
    monkeypatch.setattr(job_file, "HEAD_BYTES", 1 << 20)
    # The damage is beyond the head, which is checked before anything starts.
    lines = [b'{"n": %d, "x": "%s"}\n' % (n, os.urandom(4_000).hex().encode()) for n in range(200)]
    whole = gzip.compress(b"".join(lines), compresslevel=1)
    (tmp_path / "jobs.jsonl.gz").write_bytes(whole[: len(whole) * 9 // 10])
    async with serving(tmp_path, work) as server:
        config = _config(tmp_path, server, [], jobs__file=str(tmp_path / "jobs.jsonl.gz"), jobs__limit=None)
        config = config.model_copy(update={"limits": config.limits.model_copy(update={"max_concurrent_runs": 100})})
        with pytest.raises(JobFileError):
            await run_batch(config, environ=ENVIRON)
        assert server.live_runs == 0
        records = (tmp_path / "out/records.jsonl").read_bytes().splitlines()
        assert len(records) == server.runs_started > 0


@pytest.mark.parametrize("runs", [5, 25])
async def test_auto_fills_an_account(tmp_path, runs):
    """All Runs of the account but one are used, no start is refused, and the Summary has the slot use."""
    is_full, summaries = anyio.Event(), []

    async def work_once_full(context: InlineContext) -> None:
        await is_full.wait()
        await work(context)

    async with serving(tmp_path, work_once_full, max_concurrent_runs=runs, max_total_memory_mb=runs * 1024) as server:
        config = _config(tmp_path, server, [{"n": n} for n in range(runs * 6)], limits__max_concurrent_runs="auto")

        async with open_batch(config, environ=ENVIRON) as batch, anyio.create_task_group() as children:
            assert batch.opening.max_concurrent_runs == runs - 1

            async def run() -> None:
                summaries.append(await batch.run())

            children.start_soon(run)
            await until(lambda: server.live_runs == runs - 1, "all Runs but one")
            is_full.set()
        (summary,) = summaries
        assert (summary.outcomes, server.peak_live_runs) == ({Outcome.SUCCEEDED: runs * 6}, runs - 1)
    assert summary.slot_use is not None
    assert 0 < summary.slot_use <= 1
    assert summary.refill_p50_s is not None


async def test_auto_leaves_others_their_runs(tmp_path, monkeypatch):
    """While another program has three of eight Runs, four are ours; after that, seven."""
    monkeypatch.setattr(limits_watch, "READ_INTERVAL_S", 0.1)
    ends = {"others": anyio.Event(), "ours": anyio.Event()}
    are_ours_live, watch = anyio.Event(), limits_watch.LimitsWatch.run

    async def watch_later(limits: limits_watch.LimitsWatch) -> None:
        """A Run that begins while the limits are read could be anybody's."""
        await are_ours_live.wait()
        await watch(limits)

    monkeypatch.setattr(limits_watch.LimitsWatch, "run", watch_later)

    async def work_until(context: InlineContext) -> None:
        await ends[context.input["until"]].wait()

    async with serving(tmp_path, work_until, max_concurrent_runs=8) as server:
        await _start_others(server, runs=3)
        # Ours outlast the others' Runs: a Run that ends while the limits are read could be anybody's.
        lines = [{"n": n, "until": "ours"} for n in range(20)]
        config = _config(tmp_path, server, lines, limits__max_concurrent_runs="auto")
        async with open_batch(config, environ=ENVIRON) as batch, anyio.create_task_group() as children:
            assert batch.opening.max_concurrent_runs == 4
            children.start_soon(batch.run)
            await until(lambda: server.live_runs == 7, "four Runs of ours")
            are_ours_live.set()
            ends["others"].set()
            await until(lambda: batch.max_concurrent_runs == 7, "the places of the others")
            await until(lambda: server.live_runs == 7, "seven Runs of ours")
            ends["ours"].set()
        assert server.peak_live_runs == 7
        assert server.runs_started == 23


async def _start_others(server: Server, *, runs: int) -> None:
    async with open_client(server.base_url, SecretStr(TOKEN), request_rate_per_s=100) as client:
        task = await client.create_task({"actId": ACTOR, "name": "others"})
        for _ in range(runs):
            await client.start_run(task["id"], b'{"until":"others"}', RunOptions(), Mark("others"))


async def test_runs_beyond_the_open_polls_are_swept(tmp_path):
    """With sixty live Runs and five polls, listings of the task's live Runs notice every end."""
    async with serving(tmp_path, work) as server:
        lines = [{"n": n, "ms": 1500} for n in range(60)]
        flags = {"limits__max_concurrent_runs": 60, "limits__max_open_polls": 5}
        summary = await run_batch(_config(tmp_path, server, lines, **flags), environ=ENVIRON)
        assert (summary.outcomes, server.runs_started) == ({Outcome.SUCCEEDED: 60}, 60)
