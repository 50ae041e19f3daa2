"""The official command line, unmodified, in a pinned version from npm: `apify actors start`, `pull` and `search`."""

import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from tests.support.npm_packages import install_packages
from tests.support.server_api import Api, open_api

PACKAGE = Path(__file__).parents[1] / "support" / "apify_cli" / "package.json"
#: Installing takes half a minute: `make long` runs these.
pytestmark = pytest.mark.long

Apify = Callable[..., Awaitable["subprocess.CompletedProcess[str]"]]


@pytest.fixture(scope="session")
def program(request: pytest.FixtureRequest) -> Path:
    """The command line, kept between test runs."""
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("apify_cli")
    install_packages(folder, PACKAGE)
    return folder / "node_modules" / ".bin" / "apify"


def _write_actor(folder: Path) -> None:
    (folder / ".actor").mkdir(parents=True)
    definition = {"actorSpecification": 1, "name": "mine", "version": "0.3"}
    (folder / ".actor" / "actor.json").write_text(json.dumps(definition))
    (folder / "__main__.py").write_text("import time\nprint('begun', flush=True)\ntime.sleep(60)\n")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A server with one Actor."""
    await anyio.to_thread.run_sync(_write_actor, tmp_path / "mine")
    async with open_api(tmp_path / "server", actors=(tmp_path / "mine",)) as api:
        yield api


@pytest.fixture
async def apify(api: Api, program: Path, tmp_path: Path) -> Apify:
    """The command line, logged in to the server."""
    settings = {
        "HOME": str(tmp_path),
        "APIFY_CLIENT_BASE_URL": api.server.base_url,
        "APIFY_DISABLE_KEYRING": "1",
        "APIFY_CLI_DISABLE_TELEMETRY": "1",
        "APIFY_CLI_SKIP_UPDATE_CHECK": "1",
    }

    async def call(*words: str) -> "subprocess.CompletedProcess[str]":
        run = partial(
            subprocess.run, [program, *words], cwd=tmp_path, env=os.environ | settings, stdin=subprocess.DEVNULL
        )
        return await anyio.to_thread.run_sync(partial(run, capture_output=True, text=True, timeout=60, check=False))

    login = await call("login", "--token", api.server.token)
    assert login.returncode == 0, login.stderr
    return call


async def test_start_succeeds_and_leaves_the_run_going(api: Api, apify: Apify) -> None:
    """The first status that it sees is that of a Run that has begun: it takes READY for a failure."""
    done = await apify("actors", "start", "local/mine", "--json")
    assert done.returncode == 0, done.stderr
    run = (await api.get("/v2/actor-runs")).data["items"][0]
    assert run["status"] == "RUNNING"
    assert run["id"] in done.stdout
    await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")


async def test_pull_writes_the_source_files(apify: Apify, tmp_path: Path) -> None:
    """Those of the Actor's directory. Binary ones are left out here: the command line decodes them as text."""
    done = await apify("actors", "pull", "local/mine", "--dir", "pulled")
    assert done.returncode == 0, done.stderr
    written = {path.relative_to(tmp_path / "pulled") for path in (tmp_path / "pulled").rglob("*") if path.is_file()}
    assert written == {Path(".actor/actor.json"), Path("__main__.py")}
    for name in written:
        assert (tmp_path / "pulled" / name).read_text() == (tmp_path / "mine" / name).read_text()


async def test_search_says_what_is_missing(apify: Apify) -> None:
    """At once, with the next step."""
    done = await apify("actors", "search", "anything")
    assert done.returncode == 1
    assert "this server has no store; GET /v2/actors lists the Actors that it has" in done.stdout
