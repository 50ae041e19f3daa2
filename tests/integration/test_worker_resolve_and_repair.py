"""Doubts are resolved and files repaired through a worker: by its commands, without a token in their environment."""

from datetime import timedelta
from pathlib import Path

import anyio
import orjson
import pytest

from batchrun.worker.submission import BatchState
from tests.integration.test_worker_http import TOKEN, opened
from tests.support.command_line import Said, batchrun
from tests.support.crash import open_api, wait_until
from tests.support.patience import SOON_SETTLED_S
from tests.support.worker_process import WorkerProcess

SETTINGS = "[limits]\nstart_horizon_s = 2\nlisting_lag_s = 0.2\n[retry]\nmax_attempts = 1\n"
#: The second start has no answer, and no Run shows by which start it came.
LOST = """
seed = 1
[[fault]]
kind = "no_echo"
[[fault]]
kind = "drop_answer"
routes = ["starts"]
after = 1
count = 1
"""


def _call(worker: WorkerProcess, *arguments: str, stdin: str | None = None) -> Said:
    return batchrun("worker", *arguments, "--data", str(worker.data_dir), cwd=worker.data_dir, stdin=stdin)


@pytest.mark.parametrize("decision", ["run", "none"])
def test_a_start_in_doubt_is_decided_through_the_worker(tmp_path, decision):
    """The batch rests with the command to type; decided and resumed, each job has its record."""
    (tmp_path / "faults.toml").write_text(LOST)
    with open_api(tmp_path / "api", faults=tmp_path / "faults.toml") as api:
        worker = WorkerProcess(tmp_path / "data", api.base_url, "[limits]\nmax_concurrent_runs = 1\n")
        out_dir = worker.put_batch("shop", [{"@key": f"k{n}", "n": n} for n in range(3)], SETTINGS)
        with worker.running():
            assert worker.wait_for_end("shop")["state"] == "stopped"
            batch_id = worker.batches()["shop"]["id"]
            assert f"batchrun worker resolve {batch_id}" in _call(worker, "status", "shop").out
            wait_until(lambda: _call(worker, "resolve", "shop", stdin="\n").code == 0)
            doubts = orjson.loads(worker.ask(f"/v1/batches/{batch_id}/doubts")[1])
            (doubt,) = doubts
            (candidate,) = [each["id"] for each in doubt["candidates"]]
            asked = _call(worker, "resolve", "shop", stdin="\n")
            assert f"{doubt['key']}: its start at" in asked.out
            assert candidate in asked.out
            wrong = _call(worker, "resolve", "shop", "--key", doubt["key"], "--run", "no-such-run")
            assert (wrong.code, "is no candidate" in wrong.err) == (6, True)
            assert (
                "no start of a job 'nope' is in doubt"
                in _call(worker, "resolve", "shop", "--key", "nope", "--none").err
            )
            chosen = ("--run", candidate) if decision == "run" else ("--none",)
            decided = _call(worker, "resolve", "shop", "--key", doubt["key"], *chosen)
            assert (decided.code, "`batchrun worker resume shop --data" in decided.err) == (0, True), decided
            assert _call(worker, "resume", "shop").code == 0
            wait_until(lambda: worker.batches()["shop"].get("state") == "finished")
            records = [orjson.loads(line) for line in (out_dir / "records.jsonl").read_bytes().splitlines()]
            assert sorted(record["key"] for record in records) == ["k0", "k1", "k2"]
            assert len(api.runs()) == (3 if decision == "run" else 4)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A worker with a finished batch of its own and one of its spool."""
    path = tmp_path_factory.mktemp("finished")
    with open_api(path / "api") as api:
        worker = WorkerProcess(path / "data", api.base_url)
        worker.put_batch("spooled", [{"n": n, "fails": n == 0} for n in range(3)], SETTINGS)
        with worker.running():
            worker.wait_for_end("spooled")
            (path / "jobs.jsonl").write_text('{"n": 1}\n{"n": 2}\n')
            (path / "own.toml").write_text('[task]\nactor = "test/worker"\nname = "own"\n[jobs]\nfile = "jobs.jsonl"\n')
            assert _call(worker, "submit", str(path / "own.toml"), "--wait").code == 0
            yield worker


def test_lines_that_are_gone_are_written_again(finished):
    """The same lines; nothing is started."""
    out_dir = Path(orjson.loads(_call(finished, "status", "own", "--json").out)["out_dir"])
    file = out_dir / "records.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(lines[0])
    repaired = _call(finished, "repair", "own")
    assert (repaired.code, "1 record kept, 1 written again" in repaired.err) == (0, True), repaired
    again = file.read_bytes().splitlines()
    assert [orjson.loads(line)["key"] for line in again] == [orjson.loads(line)["key"] for line in lines]
    told = orjson.loads(_call(finished, "repair", "own", "--json").out)
    assert (told["kept"], told["rebuilt"], told["damaged_ledger"]) == (2, 0, None)


@pytest.mark.parametrize("name", ["own", "spooled"])
def test_a_command_on_a_workers_directory_names_the_workers_command(finished, name):
    """Those that change it; those that look on do not mind."""
    view = orjson.loads(_call(finished, "status", name, "--json").out)
    out_dir, data = view["out_dir"], finished.data_dir
    verbs = {"retry": "retry", "resolve": "resolve", "repair": "repair", "abort": "cancel"}
    for verb, workers in verbs.items():
        said = batchrun(verb, out_dir, cwd=data)
        assert said.code == 2, said
        assert f"use `batchrun worker {workers} {view['id']} --data {data}`" in said.err
    file = data / "spool" / "spooled.toml" if name == "spooled" else data.parent / "own.toml"
    out = () if name == "spooled" else ("--out", out_dir)
    run = batchrun("run", str(file), *out, cwd=data / "spool")
    assert (run.code, f"use `batchrun worker resume {view['id']} --data {data}`" in run.err) == (2, True), run
    for verb in ("status", "failures", "cost"):
        assert batchrun(verb, out_dir, cwd=data).code == 0
    assert batchrun("retry", out_dir, "--dry-run", cwd=data).code == 0
    if name == "spooled":
        retry = f"batchrun worker retry {view['id']} --data {data} --failure "
        assert retry in batchrun("failures", out_dir, cwd=data).out
        assert retry in _call(finished, "report", name, "--out", "-").out


async def test_costs_that_became_final_later_are_read_by_the_worker(tmp_path, monkeypatch):
    """By the command, which then prints what `batchrun cost` prints for the directory; status and budget follow."""
    constants = "batchrun.engine.background.final_costs"
    monkeypatch.setattr(f"{constants}.FINAL_AFTER", timedelta(hours=1))
    monkeypatch.setattr(f"{constants}.PATIENCE_S", 0)
    with open_api(tmp_path / "api", usage_settle_s=SOON_SETTLED_S) as api:
        async with opened(tmp_path / "data", api) as client:
            batch_id = await client.submit_batch(
                [{"n": n, "items": 3, "@group": f"g{n}"} for n in range(6)], name="late"
            )
            await client.until(batch_id, BatchState.FINISHED)
            _, before = await client.ask("GET", f"/v1/batches/{batch_id}/cost")
            assert before["total"]["open_costs"] == 6
            await client.ask("PATCH", "/v1/limits", json={"budget_usd": 100.0})
            monkeypatch.setattr(f"{constants}.PATIENCE_S", 40)
            monkeypatch.setattr(f"{constants}.FINAL_AFTER", timedelta(seconds=2))
            flags = ("--by", "outcome,day", "--csv")
            there, environ = ("--url", client.address), {"BATCHRUN_WORKER_TOKEN": TOKEN}
            said = await anyio.to_thread.run_sync(
                lambda: batchrun("worker", "cost", batch_id, *flags, *there, cwd=tmp_path, environ=environ)
            )
            assert said.err == "Reading costs that are not final yet, of 6 Runs\n"
            out_dir = client.worker.directory.out_dir(client.worker.store[batch_id])
            own = await anyio.to_thread.run_sync(lambda: batchrun("cost", str(out_dir), *flags, cwd=tmp_path))
            assert said.out == own.out
            runs = await anyio.to_thread.run_sync(api.runs)
            _, highest = await client.ask("GET", f"/v1/batches/{batch_id}/cost?by=group&most=1")
            assert (len(highest["rows"]), highest["other_rows"], highest["total"]["runs"]) == (1, 5, 6)
            assert highest["rows"][0]["cost_usd"] == max(run["usageTotalUsd"] for run in runs)
            cost_usd = sum(run["usageTotalUsd"] for run in runs)
            assert cost_usd > before["total"]["cost_usd"]
            _, after = await client.ask("POST", f"/v1/batches/{batch_id}/cost")
            assert (after["open_costs"], after["cost_usd"]) == (0, pytest.approx(cost_usd))
            assert (await client.ask("GET", f"/v1/batches/{batch_id}"))[1]["cost_usd"] == pytest.approx(cost_usd)
            _, worker = await client.ask("GET", "/v1/worker")
            assert worker["budget"]["spent_usd"] == pytest.approx(cost_usd)
            assert worker["budget"]["reserved_usd"] == 0
