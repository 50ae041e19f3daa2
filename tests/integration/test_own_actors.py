"""Actors of one's own: made, installed, run offline; what is said of one that cannot be run."""

import json
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import anyio.to_thread
import pytest
from apify_client import ApifyClient

from batchrun.server import Server
from batchrun.testing import local_platform
from tests.support.command_line import batchrun
from tests.support.server_api import open_api

__all__ = ["local_platform"]


def _actor(folder: Path, code: str, **files: str) -> Path:
    (folder / ".actor").mkdir(parents=True)
    definition = {"actorSpecification": 1, "name": folder.name, "version": "0.1"}
    (folder / ".actor" / "actor.json").write_text(json.dumps(definition))
    for name, text in {"__main__.py": code, **files}.items():
        (folder / name).write_text(text)
    return folder


def _wheel(folder: Path, name: str, code: str) -> Path:
    """A wheel that pip installs without an index."""
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}.py", code)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def test_an_actor_runs_with_the_packages_that_are_installed_for_it(tmp_path: Path) -> None:
    """Before `actors install` log, status message and failure line name the package and the command; after, it runs."""
    wheel = _wheel(tmp_path, "greetings", "TEXT = 'good day'")
    actor = _actor(tmp_path / "polite", "import greetings; print(greetings.TEXT)", **{"requirements.txt": str(wheel)})
    (tmp_path / "jobs.jsonl").write_text("{}\n")
    command = ("run", "--actors", "polite", "--jobs", "jobs.jsonl")
    failed = batchrun(*command, "--out", "first", cwd=tmp_path)
    assert failed.code == 1
    advice = "The package greetings is not installed for this Actor; install what it needs: batchrun actors install "
    record = json.loads((tmp_path / "first" / "records.jsonl").read_text())
    assert record["error"]["message"] == f"{advice}{actor} (exit code 1)"
    shown = batchrun("failures", "first", cwd=tmp_path)
    assert advice in shown.out + shown.err
    installed = batchrun("actors", "install", "polite", cwd=tmp_path)
    assert (installed.code, "pip install" in installed.err) == (0, True), installed.err
    assert batchrun(*command, "--out", "second", cwd=tmp_path).code == 0


def test_scripts_of_packages_get_no_token(tmp_path: Path) -> None:
    """Neither from their own environment, nor from that of the command; what a registry or a proxy needs, they get."""
    python = _actor(tmp_path / "an-actor", "pass", **{"requirements.txt": "any"}) / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nenv > environ\ncat /proc/$PPID/environ > parent 2>&1\n")
    python.chmod(0o755)
    secrets = ("APIFY_TOKEN", "APIFY_PROXY_PASSWORD", "BATCHRUN_WORKER_TOKEN", "BATCHRUN_NOTIFY_URL", "NATS_PASSWORD")
    environ = {**dict.fromkeys(secrets, "SECRET"), "NPM_TOKEN": "of-the-registry", "HTTPS_PROXY": "http://proxy"}
    assert batchrun("actors", "install", "an-actor", cwd=tmp_path, environ=environ).code == 0
    got = (tmp_path / "an-actor" / "environ").read_text()
    assert ("SECRET" in got, "of-the-registry" in got, "http://proxy" in got) == (False, True, True)
    if sys.platform == "linux" and os.geteuid() != 0:  # root may read it
        assert "SECRET" not in (tmp_path / "an-actor" / "parent").read_text(errors="replace")


def test_a_new_actor_works_as_it_is(tmp_path: Path) -> None:
    """`actors new` makes an Actor that runs on its example at once; a name that is taken or none is refused."""
    made = batchrun("actors", "new", "greeter", cwd=tmp_path)
    assert (made.code, "batchrun run --actors greeter" in made.err) == (0, True)
    done = batchrun(
        "run", "--actors", "greeter", "--jobs", "greeter/example.jsonl", "--limit", "1", "--out", "out", cwd=tmp_path
    )
    assert done.code == 0, done.err
    items = [json.loads(line) for line in (tmp_path / "out" / "items.jsonl").read_text().splitlines()]
    assert [item["greeting"] for item in items] == ["Hello, Ada!"]
    assert batchrun("actors", "new", "greeter", cwd=tmp_path).code != 0
    refused = batchrun("actors", "new", "no name", cwd=tmp_path)
    assert (refused.code, "cannot be an Actor's name" in refused.err) == (2, True)
    assert batchrun("actors", "new", "other", "--lang", "cobol", cwd=tmp_path).code == 2
    assert not (tmp_path / "other").exists()


def test_of_several_actors_one_must_be_named(tmp_path: Path) -> None:
    """Without a task the batch is of the one Actor; with two of them, both are named."""
    for name in ("one-actor", "two-actor"):
        _actor(tmp_path / "actors" / name, "pass")
    (tmp_path / "jobs.jsonl").write_text("{}\n")
    command = ("run", "--actors", "actors", "--jobs", "jobs.jsonl", "--out", "out")
    refused = batchrun(*command, cwd=tmp_path)
    assert (refused.code, "2 Actors: local/one-actor, local/two-actor" in refused.err) == (2, True), refused.err
    chosen = ("--set", "task.actor=local/two-actor", "--set", "task.name=mine")
    assert batchrun(*command, *chosen, cwd=tmp_path).code == 0
    (tmp_path / "actors" / "one-actor" / ".actor" / "actor.json").write_text("{")
    left_one_out = batchrun(*command[:-1], "other", cwd=tmp_path)
    assert left_one_out.code == 0, left_one_out.err
    assert "left out  actors/one-actor/.actor/actor.json: this Actor cannot be used" in left_one_out.err
    (tmp_path / "actors" / "two-actor" / ".actor" / "actor.json").write_text("{")
    assert batchrun(*command[:-1], "third", cwd=tmp_path).code == 2


@pytest.mark.parametrize(
    ("file", "text", "code", "said"),
    [
        ("requirements.txt", "no-such-package-of-anyone==0\n", 6, "there is no such package"),
        ("pyproject.toml", "[project", 2, "pyproject.toml"),
        ("pyproject.toml", "[project]\ndependencies = 5\n", 2, "project.dependencies"),
        ("notes.txt", "", 0, "asks for no packages"),
    ],
)
def test_what_cannot_be_installed_is_named(tmp_path: Path, file: str, text: str, code: int, said: str) -> None:
    """A package that is nowhere, a list that cannot be read, no list at all: the Actor, and what is wrong."""
    python = _actor(tmp_path / "an-actor", "pass", **{file: text}) / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho there is no such package; exit 1\n")
    python.chmod(0o755)
    done = batchrun("actors", "install", "an-actor", cwd=tmp_path)
    assert (done.code, said in done.err, "an-actor" in done.err) == (code, True, True), done.err
    assert "Traceback" not in done.err


async def test_one_broken_directory_is_left_out(tmp_path: Path) -> None:
    """The others are served; who asks for an unknown Actor is shown what is left out, and it is served once mended."""
    _actor(tmp_path / "actors" / "good-one", "print('fine')")
    broken = _actor(tmp_path / "actors" / "bad-one", "print('fine')")
    definition = await anyio.to_thread.run_sync((broken / ".actor" / "actor.json").read_text)
    await anyio.Path(broken / ".actor" / "actor.json").write_text("{")
    async with open_api(tmp_path / "server", actors=(tmp_path / "actors",), reload_every_s=3600) as api:
        assert [folder.name for folder in api.server.broken_actors] == ["bad-one"]
        assert (await api.finish((await api.run_actor("local~good-one"))["id"]))["status"] == "SUCCEEDED"
        answer = await api.send("POST", "/v2/actors/local~bad-one/runs")
        assert answer.refusal == (404, "record-not-found")
        assert str(broken / ".actor" / "actor.json") in answer.body["error"]["message"]
        await anyio.Path(broken / ".actor" / "actor.json").write_text(definition)
        await api.server._backend.builds.look()
        assert api.server.broken_actors == {}
        assert (await api.finish((await api.run_actor("local~bad-one"))["id"]))["status"] == "SUCCEEDED"
        assert (await api.send("POST", "/v2/actors/local~none/runs")).body["error"]["message"] == "Actor was not found"


@pytest.mark.parametrize(
    ("printed", "named"),
    [
        ("Error [ERR_MODULE_NOT_FOUND]: Cannot find package 'apify' imported from /a/main.js", "The package apify"),
        ("Error: Cannot find module '@scope/part'\n    at x\nNode.js v20", "The package @scope/part"),
        ("sh: 1: tsx: not found", "The program tsx"),
        ("Error: Cannot find module './mine.js'", None),
    ],
)
async def test_what_is_missing_is_named(tmp_path: Path, printed: str, named: str | None) -> None:
    """A package of Node, a program of a start script; not a file of the Actor's. A Run that succeeds is left alone."""
    _actor(tmp_path / "actor-one", f"import sys; print({printed!r}); sys.exit(int(sys.argv[-1:] != ['x'] and 1))")
    async with open_api(tmp_path / "server", actors=(tmp_path / "actor-one",)) as api:
        run = await api.finish((await api.run_actor("local~actor-one"))["id"])
    assert run["statusMessage"].startswith(
        f"{named} is not installed for this Actor" if named else "The Actor process failed"
    )


def test_a_pipeline_is_tested_against_the_fixture(local_platform: Callable[..., Server], tmp_path: Path) -> None:
    """The official client, in a test that is no coroutine, runs an Actor of the test's own."""
    _actor(tmp_path / "one-actor", "print('ran')")
    platform = local_platform(actors=[tmp_path / "one-actor"])
    client = ApifyClient(platform.token, api_url=platform.base_url)
    run = client.actor("local/one-actor").call(logger=None)
    assert run is not None
    assert (run.status, "ran" in (client.log(run.id).get() or "")) == ("SUCCEEDED", True)
