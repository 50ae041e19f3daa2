"""`batchrun plan`, pinned builds, edits of the task, and the schema of the configuration."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import jsonschema_rs
import orjson
import pytest

from batchrun import ConfigError, JobFileError, open_batch, run_batch
from batchrun.account import task_watch
from batchrun.server import InlineContext
from tests.support import inline_batch
from tests.support.command_line import Said, batchrun, serving
from tests.support.inline_batch import ENVIRON, TOKEN, batch_config
from tests.support.json_lines import read_lines
from tests.support.server_api import open_api

ROOT = Path(__file__).parents[2]
SCHEMA = {
    "title": "Worker",
    "type": "object",
    "schemaVersion": 1,
    "properties": {
        "n": {"title": "N", "type": "integer", "description": "A number", "editor": "number", "minimum": 1},
        "mode": {"title": "Mode", "type": "string", "enum": ["a", "b"], "default": "a", "nullable": True},
        "proxy": {"title": "Proxy", "type": "object", "description": "Where from", "editor": "json"},
    },
    "required": ["n"],
}
BATCH = """
[task]
actor = "local/worker"
name = "work"
[jobs]
file = "jobs.jsonl"
on_bad_line = "record"
[limits]
max_concurrent_runs = 4
"""
LINES: list[Any] = [
    {"@key": "good", "n": 1, "@group": "uk"},
    {"@key": "also good", "n": 2.0, "mode": None, "@group": "uk"},
    {"@key": "too small", "n": 0},
    {"@key": "text", "n": "1"},
    {"@key": "no number", "mode": "a"},
    {"@key": "too small, too", "n": -1, "mode": "c"},
    b"not JSON",
    {"@key": "good", "n": 1, "@group": "uk"},
    {"@key": "good", "n": 7},
    {"@key": "no such build", "n": 1, "@options": {"build": "nope"}},
    {"@key": "small", "n": 1, "@options": {"memory_mb": 128}, "@group": "de"},
]


def _write_actor(actors: Path) -> None:
    folder = actors / "worker"
    (folder / ".actor").mkdir(parents=True)
    definition = {"actorSpecification": 1, "name": "worker", "version": "0.1", "defaultMemoryMbytes": 256}
    (folder / ".actor/actor.json").write_bytes(orjson.dumps({**definition, "input": SCHEMA}))
    (folder / "__main__.py").write_text("pass")


def _write_jobs(directory: Path, lines: list[Any]) -> None:
    texts = [line if isinstance(line, bytes) else orjson.dumps(line) for line in lines]
    (directory / "jobs.jsonl").write_bytes(b"\n".join(texts) + b"\n")


class PlanDirectory:
    """A directory with a batch, and a platform that runs `local/worker`."""

    def __init__(self, path: Path, base_url: str) -> None:
        self.path, self.base_url = path, base_url
        (path / "batch.toml").write_text(BATCH)

    def call(self, *arguments: str, **environ: str) -> Said:
        return batchrun(*arguments, "--api-url", self.base_url, cwd=self.path, environ={**ENVIRON, **environ})

    def plan(self, *arguments: str) -> tuple[int, Any]:
        said = self.call("plan", "batch.toml", "--json", *arguments)
        assert said.err == "", said
        return said.code, orjson.loads(said.out)

    def records(self, out: str = "batch.out") -> list[dict[str, Any]]:
        return read_lines(self.path / out / "records.jsonl")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[PlanDirectory]:
    _write_actor(tmp_path / "actors")
    with serving(tmp_path / "api", TOKEN, "--actors", str(tmp_path / "actors")) as base_url:
        yield PlanDirectory(tmp_path, base_url)


def test_the_lines_that_a_plan_names_fail_in_the_run(place):
    """Exactly the lines that the plan names fail in the run; the plan writes and creates nothing."""
    _write_jobs(place.path, LINES)
    said = place.call("plan", "batch.toml")
    assert (said.code, said.err) == (2, ""), said
    for line in (
        "jobs      8; 1 line repeats another: skipped",
        "groups    5 (none), 2 uk, 1 de",
        "inputs    7 lines would fail; the largest has 21 of 9,437,184 bytes",
        "  lines 3, 6: Field input.n must be >= 1",
        "  line 4: Field input.n must be integer",
        "  line 5: Field input.n is required",
        '  line 6: Field input.mode must be equal to one of the allowed values: "a", "b"',
        "  line 9: has the key of an earlier line with other content; give each line its own @key",
        "  line 10: The Actor has no build 'nope'; it has latest",
        "warning   the task does not exist yet; running the batch creates it",
        "unknown   time and cost: no recent Run of the task has succeeded",
    ):
        assert line in said.out.splitlines(), said.out
    assert "line 7: is not JSON" in said.out
    assert not (place.path / "batch.out").exists()
    assert place.call("task", "get", "~work").code == 5

    code, plan = place.plan()
    assert (code, plan["would_fail"], plan["jobs"], plan["duplicates"], plan["failing_lines"]) == (2, True, 8, 1, 7)
    done = place.call("run", "batch.toml", "--set", "jobs.check_inputs=false")
    assert done.code == 1, done
    records = place.records()
    lost = {record["line"] for record in records if record["outcome"] in ("rejected", "invalid")}
    assert lost == {3, 4, 5, 6, 7, 9, 10} == {line for problem in plan["problems"] for line in problem["lines"]}
    assert {record["line"] for record in records if record["outcome"] == "succeeded"} == {1, 2, 11}
    messages = {record["line"]: record["error"]["message"] for record in records if record["outcome"] == "rejected"}
    assert "Field input.n must be >= 1" in messages[3]


def test_a_plan_forecasts_from_recent_runs(place):
    """The forecast has percentiles, samples and slots, counts open jobs only, and writes nothing."""
    _write_jobs(place.path, [{"n": n} for n in range(1, 5)])
    assert place.call("run", "batch.toml").code == 0
    _write_jobs(place.path, [{"n": n} for n in range(1, 25)])
    before = sorted(file.name for file in (place.path / "batch.out").iterdir())
    code, plan = place.plan("--start-rate", "2")
    assert sorted(file.name for file in (place.path / "batch.out").iterdir()) == before
    assert (code, plan["would_fail"], plan["problems"]) == (0, False, [])
    assert (plan["jobs"], plan["settled"], plan["is_task_there"], plan["build"]) == (24, 4, True, "0.1.1")
    forecast = plan["forecast"]
    assert (forecast["runs"], forecast["slots"], forecast["samples"], forecast["cost_samples"]) == (20, 4, 4, 4)
    assert 10 <= forecast["elapsed_s"]["p50"] <= forecast["elapsed_s"]["p90"] < 600
    assert 0 < forecast["run_s"]["p50"] <= forecast["run_s"]["p90"]
    assert 0 < forecast["cost_usd"]["p50"] <= forecast["cost_usd"]["p90"]
    assert "whether 4 recent Runs are enough for a forecast" in plan["unknown"]
    text = place.call("plan", "batch.toml").out
    assert "jobs      24; 4 of them done, 20 to run" in text
    assert "\nforecast  " in text
    assert " with 4 Runs at once; $" in text
    assert place.plan("--limit", "6")[1]["forecast"]["runs"] == 2


def test_a_run_stops_before_it_starts_what_would_be_refused(place):
    """Exit 2 and the grouped problems; once fixed, the same command runs; a batch that is begun is not checked."""
    _write_jobs(place.path, [{"n": 1}, {"n": 0}, {"n": 0, "mode": "a"}])
    said = place.call("run", "batch.toml")
    assert (said.code, said.out) == (2, ""), said
    assert said.err == (
        "batchrun: jobs.jsonl: 2 lines at its head would be refused:\n"
        "  lines 2, 3: Field input.n must be >= 1\n"
        "Nothing was started. Fix them (`batchrun plan` checks the whole file), or set jobs.check_inputs = false to"
        " run the other lines\n"
    )
    assert not (place.path / "batch.out/records.jsonl").read_bytes()
    _write_jobs(place.path, [{"n": 1}])
    assert place.call("run", "batch.toml").code == 0
    _write_jobs(place.path, [{"n": 1}, {"n": 0}])
    assert place.call("run", "batch.toml").code == 1
    assert [record["outcome"] for record in place.records()] == ["succeeded", "rejected"]


def test_the_forecast_is_shown_before_the_question(place):
    """On a platform that costs money, `run` shows the forecast before it asks."""
    _write_jobs(place.path, [{"n": 1}])
    assert place.call("run", "batch.toml").code == 0
    _write_jobs(place.path, [{"n": n} for n in range(1, 151)])
    place.base_url = place.base_url.replace("127.0.0.1", "0.0.0.0")
    said = place.call("run", "batch.toml", no_proxy="*", BATCHRUN_API__ALLOW_PLAIN_HTTP="true")
    assert said.code == 2, said
    lines = said.err.splitlines()
    assert lines[2].startswith("forecast  ")
    assert lines[3].startswith("          a Run takes ")
    assert lines[-1] == "batchrun: Start 149 Runs? There is no terminal to ask at: --yes starts them"


def test_a_new_batch_that_costs_money_shows_its_first_input(place):
    """The question shows it whole; a property that the schema does not name stops the batch unless that is allowed."""
    place.base_url = place.base_url.replace("127.0.0.1", "0.0.0.0")
    environ = {"no_proxy": "*", "BATCHRUN_API__ALLOW_PLAIN_HTTP": "true"}
    _write_jobs(place.path, [{"n": n} for n in range(1, 151)])
    said = place.call("run", "batch.toml", **environ)
    assert said.code == 2, said
    assert said.err.splitlines()[-2:] == [
        'input     {"mode":"a","n":1}',
        "batchrun: Start 150 Runs? There is no terminal to ask at: --yes starts them",
    ]
    _write_jobs(place.path, [{"n": n, "mod": "b"} for n in range(1, 3)])
    said = place.call("run", "batch.toml", "--yes", **environ)
    assert said.code == 2, said
    assert said.err.splitlines()[-3:-1] == [
        "batchrun: jobs.jsonl: 2 lines at its head would buy nothing new:",
        "  lines 1, 2: sets 'mod', which the Actor's input schema does not name; did you mean 'mode'?",
    ]
    assert place.call("plan", "batch.toml", **environ).code == 2
    said = place.call("run", "batch.toml", "--yes", "--set", 'jobs.unknown_properties="allow"', **environ)
    assert said.code == 0, said


def test_a_shallow_merge_that_erases_fields_is_warned_about(place):
    """The warning names the erased fields; a deep merge causes none."""
    task = BATCH.replace(
        'name = "work"', 'name = "work"\ninput = { n = 1, proxy = { groups = ["A"], country = "US" } }'
    )
    (place.path / "batch.toml").write_text(task)
    _write_jobs(place.path, [{"proxy": {"country": "DE"}}, {"n": 3}])
    code, plan = place.plan()
    assert code == 0
    assert plan["warnings"][0] == (
        "1 override replaces proxy of the task's input whole and erase groups in it;"
        ' jobs.merge = "deep" would keep that'
    )
    assert place.plan("--set", "jobs.merge=deep")[1]["warnings"] == [
        "the task does not exist yet; running the batch creates it"
    ]


def test_a_plan_counts_the_runs_of_lines_that_replace_others(place):
    """As long as they were not read; a repeated plan and a finished batch count none."""
    _write_jobs(place.path, [{"n": 1, "@key": "a"}, {"n": 2, "@key": "b"}])
    assert place.call("run", "batch.toml", "--yes").code == 0
    _write_jobs(place.path, [{"n": 1, "@key": "a"}, {"n": 2, "@key": "b"}, {"n": 3, "@key": "a", "@replaces": True}])
    code, plan = place.plan()
    assert (code, plan["jobs"], plan["duplicates"], plan["settled"], plan["forecast"]["runs"]) == (0, 2, 1, 1, 1)
    assert place.call("run", "batch.toml", "--yes").code == 0
    assert place.plan()[1]["forecast"]["runs"] == 0
    assert [record["round"] for record in place.records()] == [1, 1, 2]


def test_a_plan_refuses_a_begun_batch_that_the_run_refuses(place):
    """Lines that were read are gone, or a setting that identifies the batch is another: the same words, exit 2."""
    _write_jobs(place.path, [{"n": n} for n in range(1, 7)])
    assert place.call("run", "batch.toml", "--limit", "4", "--yes").code == 0
    assert place.plan()[0] == 0
    said = place.call("plan", "batch.toml", "--set", 'jobs.key="{{n}}"')
    assert "holds another batch" in said.err, said
    assert said == place.call("run", "batch.toml", "--yes", "--set", 'jobs.key="{{n}}"')
    _write_jobs(place.path, [{"n": n} for n in (1, 3, 4, 5, 6)])
    said = place.call("plan", "batch.toml")
    assert "was changed in its first 4 lines" in said.err, said
    assert (said.code, said) == (2, place.call("run", "batch.toml", "--yes"))


def test_a_plan_of_another_task_than_the_batchs_is_refused(place):
    """As the run refuses it: its jobs would be those of another task."""
    _write_jobs(place.path, [{"n": 1}])
    assert place.call("run", "batch.toml").code == 0
    batch = place.path / "batch.toml"
    batch.write_text(BATCH.replace('"work"', '"other"'))
    assert place.call("run", "batch.toml", "--out", "other.out").code == 0
    plan, run = (place.call(verb, "batch.toml", "--out", "batch.out") for verb in ("plan", "run"))
    assert (plan.code, run.code) == (2, 2), plan
    assert "holds another batch:\n  task: begun with" in plan.err
    assert plan.err == run.err


def test_lines_that_set_nothing_new_are_noted_where_runs_are_free(place):
    """`plan` warns and shows whole inputs, `run` has a note; Runs on this machine are started all the same."""
    _write_jobs(place.path, [{"n": 1}, {"N": 2, "n": 2}, {"n": 1, "mode": "a"}, {"n": 1, "@key": "again"}])
    said = place.call("plan", "batch.toml", "--show", "2")
    assert said.code == 0, said
    for line in (
        "warning   line 2: sets 'N', which the Actor's input schema does not name; did you mean 'n'?",
        "warning   lines 3, 4: comes to the same input as an earlier line",
        'input     line 1: {"mode":"a","n":1}',
        'input     line 2: {"mode":"a","N":2,"n":2}',
    ):
        assert line in said.out.splitlines(), said.out
    said = place.call("run", "batch.toml")
    assert (said.code, len(place.records())) == (0, 4)
    assert "Note: lines 3, 4: comes to the same input as an earlier line." in said.err.splitlines()


def test_a_plan_reads_stdin_and_needs_jobs(place):
    """`-` is JSON lines on stdin; a file without jobs is an error."""
    arguments = ("plan", "batch.toml", "--jobs", "-", "--api-url", place.base_url, "--json")
    said = batchrun(*arguments, cwd=place.path, environ=ENVIRON, stdin='{"n": 1}\n{"n": 0}\n')
    assert (said.code, orjson.loads(said.out)["failing_lines"]) == (2, 1)
    _write_jobs(place.path, [b""])
    said = place.call("plan", "batch.toml")
    assert (said.code, said.err) == (2, "batchrun: jobs.jsonl: holds no jobs; write one job per line\n")


def test_a_plan_of_an_embedded_batch_touches_nothing(tmp_path):
    """The plan asks a fresh server; the batch's server state is neither opened nor created."""
    _write_actor(tmp_path / "actors")
    (tmp_path / "batch.toml").write_text(
        f'[api]\nbase_url = "embedded"\n[server]\nactors = ["{tmp_path}/actors"]\n{BATCH}'
    )
    _write_jobs(tmp_path, [{"n": 0}])
    said = batchrun("plan", "batch.toml", cwd=tmp_path)
    assert said.code == 2, said
    assert "line 1: Field input.n must be >= 1" in said.out
    assert sorted(file.name for file in tmp_path.iterdir()) == ["actors", "batch.toml", "jobs.jsonl"]


def test_a_plan_of_a_begun_embedded_batch_does_not_miss_its_task(tmp_path):
    """The fresh server that the plan asks does not have the task; the batch's own has."""
    _write_actor(tmp_path / "actors")
    (tmp_path / "batch.toml").write_text(
        f'[api]\nbase_url = "embedded"\n[server]\nactors = ["{tmp_path}/actors"]\n{BATCH}'
    )
    _write_jobs(tmp_path, [{"n": 1}])
    assert batchrun("run", "batch.toml", cwd=tmp_path).code == 0
    said = batchrun("plan", "batch.toml", cwd=tmp_path)
    assert said.code == 0, said
    assert "the task does not exist" not in said.out


def test_a_wrong_token_refuses_the_plan(place):
    """Exit 5, as for the run."""
    _write_jobs(place.path, [{"n": 1}])
    assert place.call("plan", "batch.toml", APIFY_TOKEN="wrong").code == 5


def _schema(cwd: Path, *flags: str) -> dict[str, Any]:
    said = batchrun("schema", *flags, cwd=cwd)
    assert (said.code, said.err) == (0, "")
    schema: dict[str, Any] = orjson.loads(said.out)
    sections = [schema, *schema["$defs"].values()]
    assert all("description" in section for section in sections)
    assert all("description" in key for section in sections[1:] for key in section["properties"].values())
    return schema


def test_the_schema_of_the_configuration_serves_editors(tmp_path):
    """Every example fits it, a misspelt key does not, and every key is described."""
    validator = jsonschema_rs.Draft202012Validator(_schema(tmp_path))
    others = {"faults.toml", "worker.toml"}
    batches = [file for file in (ROOT / "configs").glob("*.toml") if file.name not in others]
    assert len(batches) >= 2
    for file in batches:
        validator.validate(tomllib.loads(file.read_text("utf-8")))
    batch = tomllib.loads(BATCH)
    assert validator.is_valid(batch)
    wrongs: list[dict[str, Any]] = [{"limits": {"max_concurent_runs": 3}}, {"limit": {}}, {"task": {}}, {"jobs": {}}]
    for wrong in wrongs:
        assert not validator.is_valid({**batch, **wrong}), wrong


def test_so_does_the_schema_of_a_workers_configuration(tmp_path):
    """The example fits it, a misspelt key does not, and every key is described."""
    validator = jsonschema_rs.Draft202012Validator(_schema(tmp_path, "--worker"))
    example = tomllib.loads((ROOT / "configs/worker.toml").read_text("utf-8"))
    validator.validate(example)
    assert not validator.is_valid({**example, "worker": {"prot": 1}})


async def _work(context: InlineContext) -> None:
    await anyio.sleep(context.input.get("s", 0))


def _builds(tmp_path: Path) -> list[str]:
    lines = (tmp_path / "out/records.jsonl").read_bytes().splitlines()
    return [orjson.loads(line)["run"]["options"]["build"] for line in lines]


async def test_a_pinned_batch_asks_for_one_build_by_number(tmp_path):
    """The build's number is noted at the first opening and used by every process; a job's own build overrides it."""
    async with inline_batch.serving(tmp_path, _work) as server:
        config = batch_config(tmp_path, server, [{"a": 1}, {"a": 2, "@options": {"build": "latest"}}])
        await run_batch(config, environ=ENVIRON)
        assert _builds(tmp_path) == ["latest", "latest"]
        lines = [
            {"a": 1},
            {"a": 2, "@options": {"build": "latest"}},
            {"a": 3},
            {"a": 4, "@options": {"build": "latest"}},
        ]
        config = batch_config(tmp_path, server, lines, run__pin_build=True)
        await run_batch(config, environ=ENVIRON)
        assert sorted(_builds(tmp_path)[2:]) == ["0.0.1", "latest"]


async def test_a_pinned_build_outlives_a_release(tmp_path):
    """A new build between two processes is used by an unpinned batch only."""
    _write_actor(tmp_path / "actors")
    options: dict[str, Any] = {"actors": (tmp_path / "actors",), "reload_every_s": 3600}
    flags = {"task__actor": "local/worker", "run__pin_build": True}
    async with open_api(tmp_path / "api", **options) as api:
        environ = {"APIFY_TOKEN": api.server.token}
        config = batch_config(tmp_path, api.server, [{"n": 1}], **flags)
        await run_batch(config, environ=environ)
        await anyio.Path(tmp_path / "actors/worker/__main__.py").write_text("print('new')")
        await api.server._backend.builds.look()
        config = batch_config(tmp_path, api.server, [{"n": 1}, {"n": 2}], **flags)
        async with open_batch(config, environ=environ) as batch:
            assert batch._engine.scheduler._runner._terms.options.build == "0.1.1"
        config = batch_config(tmp_path, api.server, [{"n": 1}, {"n": 2}], task__actor="local/worker")
        async with open_batch(config, environ=environ) as batch:
            assert batch._engine.scheduler._runner._terms.options.build is None


async def test_a_build_that_cannot_be_pinned_stops_the_batch(tmp_path):
    """Nothing is started, and the error names the key."""
    async with inline_batch.serving(tmp_path, _work) as server:
        config = batch_config(tmp_path, server, [{"a": 1}], run__pin_build=True, run__build="nope")
        with pytest.raises((ConfigError, JobFileError), match=r"run\.pin_build: .*'nope'"):
            await run_batch(config, environ=ENVIRON)
        assert server.runs_started == 0


async def test_an_edit_of_the_task_is_reported_while_the_batch_runs(tmp_path, monkeypatch):
    """Each edit is reported once, while the batch runs and when it is opened again."""
    monkeypatch.setattr(task_watch, "INTERVAL_S", 0.05)
    async with open_api(tmp_path / "api", inline_actors={"test/worker": _work}) as api:
        environ = {"APIFY_TOKEN": api.server.token}
        config = batch_config(tmp_path, api.server, [{"s": 0}, {"s": 2}], limits__max_concurrent_runs=2)
        async with open_batch(config, environ=environ) as batch:
            records = aiter(batch)
            await anext(records)
            path = f"/v2/actor-tasks/{batch.opening.task.id}"
            assert (await api.send("PUT", path, {"name": "renamed"})).status == 200
            await anyio.sleep(0.2)
            assert list(batch.task_edits) == []
            assert (await api.send("PUT", path, {"input": {"s": 0, "x": 1}})).status == 200
            await anext(records)
            assert list(batch.task_edits) == [("input",)]
        assert (await api.send("PUT", path, {"name": "work", "options": {"memoryMbytes": 512}})).status == 200
        config = batch_config(
            tmp_path, api.server, [{"s": 0}, {"s": 2}], task__id="~work", task__actor=None, task__name=None
        )
        async with open_batch(config, environ=environ) as batch:
            assert batch.opening.task_edits == ("input", "options")
        async with open_batch(config, environ=environ) as batch:
            assert batch.opening.task_edits == ()
