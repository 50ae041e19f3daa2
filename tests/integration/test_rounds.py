"""Rounds: what did not succeed is shown by cause and carried out anew; counts are taken at the server."""

import csv
import io
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from batchrun import Outcome, open_batch, run_batch
from batchrun.model import Selection
from batchrun.server import InlineContext
from tests.support.command_line import Said, batchrun
from tests.support.inline_batch import ENVIRON, batch_config, serving
from tests.support.json_lines import read_lines

_config = partial(
    batch_config,
    limits__max_concurrent_runs=64,
    limits__start_rate=5000.0,
    retry__max_attempts=1,
    breaker__max_failed="off",
)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """On uvloop, as the command line is: 10,000 Runs are many."""
    return "asyncio", {"use_uvloop": True}


class Worker:
    """An Actor that fails as its input says, until it is mended."""

    def __init__(self) -> None:
        self.is_mended = False
        self.worked_on: Counter[int] = Counter()

    async def __call__(self, context: InlineContext) -> None:
        """Push an item; then fail for one of three causes."""
        n = context.input["n"]
        self.worked_on[n] += 1
        if context.input.get("items", True):
            await context.push_items([{"n": n}])
        if self.is_mended:
            return
        for line in context.input.get("log", []):
            await context.log(line)
        match context.input.get("cause"):
            case "blocked":
                context.fail(91, f"403 blocked at https://example.com/page/{n}")
            case "selector":
                context.fail(1, f"no element for selector '#item-{n}' on page {n}")
            case "parser":
                raise ValueError(f"row {n} is no table")
            case str() as message:
                context.fail(5, message)


async def _say(tmp_path: Path, *arguments: str) -> Said:
    return await anyio.to_thread.run_sync(lambda: batchrun(*arguments, cwd=tmp_path, environ=ENVIRON))


def _latest(out: Path) -> dict[str, dict[str, Any]]:
    """Return the last record of each key, as a naive reader would."""
    return {record["key"]: record for record in read_lines(out / "records.jsonl")}


def _cause_of(n: int) -> str | None:
    if n % 125 == 7:
        return "blocked"
    return {5: "selector", 11: "parser"}.get(n % 640)


@pytest.mark.parametrize("jobs", [140, pytest.param(10_000, marks=pytest.mark.long)])
async def test_exactly_the_failures_of_a_cause_are_retried(tmp_path, jobs):
    """Of 10,000 jobs 112 fail for three causes: three are named, `retry` starts 112 Runs, and all sums are right."""
    causes = {n: cause for n in range(jobs) if (cause := _cause_of(n))}
    count, failed = Counter(causes.values()), len(causes)
    assert jobs != 10_000 or failed == 112
    lines = [
        {"n": n, "@key": f"k{n}", **({"cause": causes[n]} if n in causes else {"items": False})} for n in range(jobs)
    ]
    worker = Worker()
    async with serving(tmp_path, worker) as server:
        summary = await run_batch(_config(tmp_path, server, lines), environ=ENVIRON)
        assert (summary.outcomes, sum(count.values())) == (
            {Outcome.SUCCEEDED: jobs - failed, Outcome.FAILED: failed}, failed,
        )  # fmt: skip
        shown = orjson.loads((await _say(tmp_path, "failures", "out", "--json")).out)
        assert [kind["count"] for kind in shown["failures"]] == sorted(count.values(), reverse=True)
        blocked = shown["failures"][0]
        assert (blocked["exit_code"], blocked["line"], blocked["key"]) == (91, 8, "k7")
        assert blocked["message"] == "403 blocked at https://example.com/page/7"
        assert orjson.loads(blocked["override"]) == {"n": 7, "cause": "blocked"}
        would = await _say(tmp_path, "retry", "out", "--failure", blocked["id"], "--dry-run")
        assert would.out.splitlines()[0] == f"{count['blocked']} jobs would be retried:", would
        assert server.runs_started == jobs
        worker.is_mended = True
        said = await _say(tmp_path, "retry", "out", "--json")
        assert said.code == 0, said
        assert (server.runs_started, server.live_runs) == (jobs + failed, 0)
        again = {n for n, times in worker.worked_on.items() if times > 1}
        assert again == set(causes)
        status = orjson.loads((await _say(tmp_path, "status", "out", "--json")).out)["summary"]
        table = (await _say(tmp_path, "cost", "out", "--by", "outcome", "--csv")).out
    summary_after = orjson.loads(said.out)
    of_the_process = ("slot_use", "refill_p50_s", "refill_p99_s")
    assert {**summary_after, **dict.fromkeys(of_the_process)} == status
    assert summary_after["outcomes"] == {"succeeded": jobs}
    records, items = read_lines(tmp_path / "out/records.jsonl"), read_lines(tmp_path / "out/items.jsonl")
    assert Counter(record["round"] for record in records) == {1: jobs, 2: failed}
    assert (summary_after["earlier_records"], summary_after["items"]) == (failed, len(items))
    assert Counter(item["n"] for item in items) == dict.fromkeys(causes, 2)
    assert {record["outcome"] for record in _latest(tmp_path / "out").values()} == {"succeeded"}
    runs = [each["run_id"] for record in records for each in record["attempts"]]
    assert len(runs) == len(set(runs)) == jobs + failed
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [(row["outcome"], row["runs"]) for row in rows] == [
        ("failed", str(failed)), ("succeeded", str(jobs)), ("total", str(jobs + failed)),
    ]  # fmt: skip
    assert float(rows[-1]["cost_usd"]) == summary_after["cost_usd"]


async def test_hostile_messages_are_harmless_in_a_terminal(tmp_path):
    """Escape codes, line ends, megabytes and odd characters of an Actor's message move nothing and break nothing."""
    hostile = [
        "\x1b[2J\x1b[31mred\x1b[0m\r\nsecond line\x07",
        "x" * 1_000_000,
        "\u202egnorw \U0001f600 ünïcödé \x00 nul",
        "]0;title \x1b]0;owned\x07",
    ]
    lines = [{"n": n, "cause": text, "log": [text[:5000]]} for n, text in enumerate(hostile)]
    async with serving(tmp_path, Worker()) as server:
        summary = await run_batch(_config(tmp_path, server, lines), environ=ENVIRON)
        assert summary.outcomes == {Outcome.FAILED: 4}
        said = await _say(tmp_path, "failures", "out")
        as_json = await _say(tmp_path, "failures", "out", "--json")
        dry = await _say(tmp_path, "retry", "out", "--dry-run")
    for text in (said, as_json, dry):
        assert (text.code, text.err) == (0, ""), text
    assert all(char == "\n" or char.isprintable() for char in said.out + dry.out)
    assert max(map(len, said.out.splitlines())) < 300
    assert '1 failed, exit 5, "red second line�"' in said.out
    assert "ünïcödé" in said.out
    assert len(orjson.loads(as_json.out)["failures"]) == 4


async def test_the_ends_of_logs_are_kept_in_wholeread_lines(tmp_path):
    """Of a log of several hundred KB the last 64 KB, beginning with a line; of successes none."""
    text = [f"{number} " + "x" * 990 for number in range(300)]
    lines = [{"n": 0, "cause": "blocked", "log": text}, {"n": 1, "log": text}]
    async with serving(tmp_path, Worker()) as server:
        await run_batch(_config(tmp_path, server, lines), environ=ENVIRON)
    (file,) = (tmp_path / "out/logs").iterdir()
    (failed,) = [record for record in read_lines(tmp_path / "out/records.jsonl") if record["outcome"] == "failed"]
    kept = file.read_text()
    assert file.name == f"{failed['run']['id']}.log"
    assert 63 << 10 < len(kept) <= 64 << 10
    assert all(line[10] == "T" for line in kept.splitlines())  # each line begins with its time
    assert "299 xxx" in kept


@pytest.mark.parametrize("logs", [True, False])
async def test_logs_that_cannot_be_kept_change_nothing(tmp_path, logs):
    """Where a file stands in their way, or they are not wanted, the batch ends as ever."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/logs").write_text("in the way")
    lines = [{"n": n, "cause": "blocked", "log": ["so it was"]} for n in range(20)]
    async with serving(tmp_path, Worker()) as server:
        summary = await run_batch(_config(tmp_path, server, lines, output__logs=logs), environ=ENVIRON)
    assert summary.outcomes == {Outcome.FAILED: 20}
    assert (tmp_path / "out/logs").read_text() == "in the way"


async def test_a_batch_is_reopened_from_python(tmp_path):
    """`reopen` before the batch is run; the records that come are those of the new round."""
    worker = Worker()
    lines = [{"n": n, "@key": f"k{n}", "cause": "blocked"} for n in range(5)]
    async with serving(tmp_path, worker) as server:
        config = _config(tmp_path, server, lines)
        await run_batch(config, environ=ENVIRON)
        worker.is_mended = True
        async with open_batch(config, environ=ENVIRON) as batch:
            await batch.reopen(Selection(keys=["k1", "k3"]))
            opening = batch.opening
            records = [record async for record in batch]
            summary = await batch.summary()
    assert sorted((record.key, record.round, record.outcome) for record in records) == [
        ("k1", 2, Outcome.SUCCEEDED), ("k3", 2, Outcome.SUCCEEDED),
    ]  # fmt: skip
    assert (opening.settled_before, opening.open_before, opening.succeeded_before) == (3, 2, 0)
    assert summary.outcomes == {Outcome.SUCCEEDED: 2, Outcome.FAILED: 3}
