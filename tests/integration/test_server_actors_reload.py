"""Actors as directories: builds, changes while the server stands, and what a broken one says."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest

from batchrun.errors import ConfigError
from batchrun.server.settings import AccountSettings
from tests.support.server_api import Api, open_api


class Folder:
    """A directory of Actors that a test writes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def write(self, actor: str, code: str = "pass", **definition: Any) -> None:
        """Write an Actor that runs `code`."""
        folder = anyio.Path(self.path / actor)
        await (folder / ".actor").mkdir(parents=True, exist_ok=True)
        described = {"actorSpecification": 1, "name": actor, "version": "0.1", **definition}
        await (folder / ".actor" / "actor.json").write_bytes(orjson.dumps(described))
        await (folder / "__main__.py").write_text(code)


@pytest.fixture
async def folder(tmp_path: Path) -> Folder:
    """One Actor, `local/one`."""
    folder = Folder(tmp_path / "actors")
    await folder.write("one", "print('first')")
    return folder


def _open(folder: Folder, **settings: Any) -> Any:
    # Looks are taken by the tests themselves.
    options = {"actors": (folder.path,), "reload_every_s": 3600, **settings}
    return open_api(folder.path.parent / "server", **options)


@pytest.fixture
async def api(folder: Folder) -> AsyncIterator[Api]:
    """A server on that directory."""
    async with _open(folder) as api:
        yield api


async def _look(api: Api) -> None:
    await api.server._backend.builds.look()


async def _run(api: Api, actor: str = "local~one", **query: Any) -> Any:
    started = await api.send("POST", f"/v2/actors/{actor}/runs", waitForFinish=60, **query)
    assert started.status == 201, started.body
    return started.data


async def _log_of(api: Api, run: Any) -> str:
    return str((await api.get(f"/v2/logs/{run['id']}")).body.decode())


async def test_changed_files_are_a_new_build(api: Api, folder: Folder) -> None:
    """The next Run has the new number and the new code; the old build is still shown, and can no more be run."""
    before = await _run(api)
    await folder.write("one", "print('second')")
    await _look(api)
    after = await _run(api)
    assert (before["buildNumber"], after["buildNumber"]) == ("0.1.1", "0.1.2")
    assert "first" in await _log_of(api, before)
    assert "second" in await _log_of(api, after)
    builds = (await api.get("/v2/actors/local~one/builds", desc=1)).data["items"]
    assert [(build["id"], build["buildNumber"]) for build in builds] == [
        (after["buildId"], "0.1.2"),
        (before["buildId"], "0.1.1"),
    ]
    assert (await api.get(f"/v2/actor-builds/{before['buildId']}")).data["buildNumber"] == "0.1.1"
    assert b"build 0.1.1" in (await api.get(f"/v2/actor-builds/{before['buildId']}/log")).body
    assert (await api.send("POST", "/v2/actors/local~one/runs", build="0.1.1")).refusal == (404, "unknown-build-tag")
    assert (await _run(api, build="0.1"))["buildNumber"] == "0.1.2"


async def test_a_build_that_is_no_more_is_deleted(folder: Folder) -> None:
    """Gone for good: its number never comes again; the default one and those of others stay."""
    async with _open(folder, accounts=(AccountSettings(username="bob", token="b"),)) as api:
        runs = [await _run(api)]
        await folder.write("one", "print('second')")
        await _look(api)
        runs.append(await _run(api))
        old, new = (f"/v2/actor-builds/{run['buildId']}" for run in runs)
        for path, token, answered in (
            (new, "", (400, "deleting-default-build")),
            (old, "b", (404, "record-not-found")),
            (old, None, (401, "token-not-provided")),
        ):
            assert (await api.send("DELETE", path, token=token)).refusal == answered
        bundled = (await api.get("/v2/actors/apify~hello-world/builds/default")).data["id"]
        assert (await api.send("DELETE", f"/v2/actor-builds/{bundled}")).error_type == "insufficient-permissions"
        assert (await api.send("POST", f"{old}/abort")).data["status"] == "SUCCEEDED"
        assert (await api.send("DELETE", old)).status == 204
        assert ((await api.send("DELETE", old)).status, (await api.get(old)).status) == (404, 404)
        assert (await api.get("/v2/actors/local~one/builds")).data["total"] == 1
        assert (await api.get(f"/v2/actor-runs/{runs[0]['id']}")).data["buildNumber"] == "0.1.1"
    await folder.write("one")
    async with _open(folder) as api:
        assert (await _run(api))["buildNumber"] == "0.1.3"


async def test_a_number_of_a_deleted_build_never_comes_again(folder: Folder) -> None:
    """Not even when the version that it was the last of comes back, with the very files."""
    async with _open(folder) as api:
        old = (await _run(api))["buildId"]
        await folder.write("one", "print('first')", version="0.2")
        await _look(api)
        assert (await api.send("DELETE", f"/v2/actor-builds/{old}")).status == 204
        await folder.write("one", "print('first')")
        await _look(api)
        again = await _run(api)
        assert again["buildNumber"] == "0.1.2"
        assert (await api.get(f"/v2/actor-builds/{again['buildId']}")).status == 200


async def test_by_products_are_no_new_build(api: Api, folder: Folder) -> None:
    """What an Actor writes beside its code: by custom, or by an ignore file of its directory; source stays source."""
    one = anyio.Path(folder.path / "one")
    await (one / ".gitignore").write_text("/results/\n*.csv\n")
    await (one / ".dockerignore").write_text("notes\n")
    await (one / ".actorignore").write_text("!kept.csv\n.actor\n")
    await _look(api)
    before = (await _run(api))["buildNumber"]
    for name in ("storage/datasets/1.json", "__pycache__/x.pyc", "run.log", "results/1.json", "a/b.csv", "notes"):
        await (one / name).parent.mkdir(parents=True, exist_ok=True)
        await (one / name).write_text("written by a Run")
    await _look(api)
    assert (await _run(api))["buildNumber"] == before
    numbers = [before]
    for name in ("kept.csv", "helper.py", ".actor/README.md"):
        await (one / name).write_text("written by a person")
        await _look(api)
        numbers.append((await _run(api))["buildNumber"])
    assert len(set(numbers)) == 4


async def test_the_same_files_are_the_same_build(folder: Folder) -> None:
    """A touched file, a restart and a cache make none; the number goes on where it was."""
    for expected in ("0.1.1", "0.1.1"):
        async with _open(folder) as api:
            await folder.write("one", "print('first')")
            await anyio.Path(folder.path / "one" / "__pycache__").mkdir(exist_ok=True)
            await anyio.Path(folder.path / "one" / "__pycache__" / "x.pyc").write_text(expected)
            await _look(api)
            assert (await _run(api))["buildNumber"] == expected
    await folder.write("one", "print('second')")
    async with _open(folder) as api:
        assert (await _run(api))["buildNumber"] == "0.1.2"


async def test_actors_come_and_go(api: Api, folder: Folder) -> None:
    """A new directory is served, a renamed Actor under its new name only, a removed one not at all."""
    await folder.write("two")
    await _look(api)
    task = await api.create_task("local/two", name="of-two")
    await folder.write("one", name="renamed")
    await _look(api)
    assert (await api.get("/v2/actors/local~one")).status == 404
    assert (await _run(api, "local~renamed"))["status"] == "SUCCEEDED"
    await anyio.Path(folder.path / "two" / ".actor" / "actor.json").unlink()
    await _look(api)
    assert (await api.get("/v2/actors/local~two")).status == 404
    assert (await api.start(task)).status == 404
    assert (await api.get(f"/v2/actor-tasks/{task}")).status == 200


async def test_a_broken_change_leaves_what_was_there(api: Api, folder: Folder) -> None:
    """Until it is mended."""
    file = anyio.Path(folder.path / "one" / ".actor" / "actor.json")
    whole = await file.read_text()
    await file.write_text('{"name": "one", ')
    await _look(api)
    assert (await _run(api))["buildNumber"] == "0.1.1"
    await file.write_text(whole)
    await folder.write("one", "print('mended')")
    await _look(api)
    assert "mended" in await _log_of(api, await _run(api))


async def test_a_server_looks_by_itself(folder: Folder) -> None:
    """Every so often, without being asked."""
    async with _open(folder, reload_every_s=0.02) as api:
        await folder.write("two")
        status = 404
        with anyio.fail_after(60):
            while status == 404:
                await anyio.sleep(0.02)
                status = (await api.get("/v2/actors/local~two")).status


async def test_versions_are_shown(api: Api) -> None:
    """One: what the directory is."""
    versions = (await api.get("/v2/actors/local~one/versions")).data
    assert (versions["total"], versions["items"][0]["versionNumber"]) == (1, "0.1")
    assert (await api.get("/v2/actors/local~one/versions/0.1")).data["buildTag"] == "latest"
    assert (await api.get("/v2/actors/local~one/versions/9.9")).status == 404


async def test_builds_of_a_private_actor_are_private(folder: Folder) -> None:
    """Their ids follow from names, so that they open nothing."""
    async with _open(folder, accounts=(AccountSettings(username="bob", token="bob"),)) as api:
        build = (await api.get("/v2/actors/local~one/builds/default")).data["id"]
        for token in ("bob", None):
            for path in (f"/v2/actor-builds/{build}", f"/v2/actor-builds/{build}/log", f"/v2/logs/{build}"):
                assert (await api.send("GET", path, token=token)).status == 404
        hello = (await api.send("GET", "/v2/actors/apify~hello-world/builds/default", token=None)).data["id"]
        assert (await api.send("GET", f"/v2/actor-builds/{hello}", token=None)).status == 200


async def test_an_explicit_command_and_its_variables(folder: Folder) -> None:
    """`localCommand` says what is run; the Actor's variables never take the platform's place."""
    command = ["/bin/sh", "-c", "echo command $OWN $APIFY_IS_AT_HOME $ACTOR_RUN_ID"]
    variables = {"OWN": "mine", "APIFY_IS_AT_HOME": "0", "ACTOR_RUN_ID": "forged"}
    await folder.write("one", localCommand=command, environmentVariables=variables)
    async with _open(folder) as api:
        run = await _run(api)
        assert f"command mine 1 {run['id']}" in await _log_of(api, run)


async def test_a_task_begins_with_the_prefills(folder: Folder) -> None:
    """Prefills and hidden defaults fill a task that is created without an input; a start fills in defaults."""
    schema = {
        "title": "One",
        "type": "object",
        "schemaVersion": 1,
        "properties": {
            "url": {"title": "U", "type": "string", "editor": "textfield", "prefill": "http://a.test"},
            "pages": {"title": "P", "type": "integer", "default": 3},
        },
    }
    await folder.write("one", input=schema)
    async with _open(folder) as api:
        task = await api.create_task("local/one", name="prefilled")
        assert (await api.get(f"/v2/actor-tasks/{task}/input")).body == {"url": "http://a.test"}
        run = (await api.start(task)).data
        store = f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}"
        assert (await api.get(f"{store}/records/INPUT")).body == {"url": "http://a.test", "pages": 3}


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ('{"name": "one", "version": "0.1"', "actor.json"),
        ("[]", "must hold an object"),
        ('{"version": "0.1"}', "Actor name is not valid"),
        ('{"name": "../one", "version": "0.1"}', "Actor name is not valid"),
        ('{"name": "one", "version": "1"}', '"version" must have the form 0.1'),
        ('{"name": "one", "version": "0.1", "input": "gone.json"}', "gone.json"),
        ('{"name": "one", "version": "0.1", "input": "../../../../etc/passwd"}', "outside of the Actor's directory"),
        ('{"name": "one", "version": "0.1", "input": {"properties": {"a": {"type": "strng"}}}}', "Input schema"),
        ('{"name": "one", "version": "0.1", "input": {"properties": []}}', "Input schema"),
        ('{"name": "one", "version": "0.1", "environmentVariables": ["A"]}', "environmentVariables"),
        ('{"name": "one", "version": "0.1", "localChargeEvents": {"page": 1}}', "eventPriceUsd"),
    ],
)
async def test_a_broken_actor_is_named_before_anything_is_served(folder: Folder, definition: str, message: str) -> None:
    """A ConfigError with the file and the reason."""
    await anyio.Path(folder.path / "one" / ".actor" / "actor.json").write_text(definition)
    with pytest.raises(ConfigError) as raised:
        async with _open(folder):
            pass
    assert message in str(raised.value)
    assert "actor.json" in str(raised.value)


async def test_a_directory_without_actors_is_named(tmp_path: Path) -> None:
    """A ConfigError too; so is one that does not exist."""
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="holds no Actor"):
            async with open_api(tmp_path / "server", actors=(path,)):
                pass
