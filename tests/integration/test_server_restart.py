"""What a client may ask of a server that was killed, as soon as the next one answers."""

import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import anyio.to_thread

from batchrun.server import InlineContext
from tests.support.server_api import open_api

#: They are taken over one after the other: for some milliseconds, the last of them would not be known yet.
LIVE_RUNS = 100
SERVE = """
import sys, anyio
from pathlib import Path
from batchrun.server import ServerSettings, open_server
from batchrun.server.store import deleted_storages

# Begins at once, and is killed before it is done.
deleted_storages._LOOK_EVERY_S, deleted_storages._MAX_ROWS = 0.01, 1

async def hang(_):
    await anyio.sleep_forever()

async def main():
    limits = {"max_concurrent_runs": 1000, "max_total_memory_mb": 1_000_000}
    data_dir, actors = Path(sys.argv[1]), {"test/hang": hang}
    async with open_server(ServerSettings(data_dir=data_dir, inline_actors=actors, **limits)) as server:
        print("OPENED", server.base_url, server.token, flush=True)
        await anyio.sleep_forever()

anyio.run(main, backend_options={"use_uvloop": True})
"""


@asynccontextmanager
async def _served_until_killed(directory: Path) -> AsyncIterator[tuple[str, str]]:
    """Serve in a process that ends by SIGKILL; give the address and the token, also those of the next server."""
    command = [sys.executable, "-c", SERVE, str(directory)]
    async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            said = b""
            while not (opened := re.search(rb"^OPENED (\S+) (\S+)\n", said, re.MULTILINE)):
                said += await process.stdout.receive()
            yield opened[1].decode(), opened[2].decode()
        finally:
            process.send_signal(signal.SIGKILL)


class _Client:
    """Asks until a server answers."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.answers: list[Any] = []

    async def ask(self, method: str, path: str, body: Any = None) -> None:
        while True:
            try:
                async with self._session.request(method, path, json=body) as response:
                    self.answers.append(await response.json(content_type=None))
                    return
            except aiohttp.ClientConnectorError:
                await anyio.sleep(0.001)


async def test_a_server_answers_once_it_knows_the_live_runs_of_the_previous_one(tmp_path: Path) -> None:
    """A Run that is aborted, changed or deleted at the first moment: nothing of that is lost, and no dead Run lives."""

    async def hang(_: InlineContext) -> None:
        await anyio.sleep_forever()

    async with (
        _served_until_killed(tmp_path) as (base_url, token),
        _client(base_url, token) as client,
        anyio.create_task_group() as children,
    ):
        for _ in range(LIVE_RUNS):
            children.start_soon(client.ask, "POST", "/v2/actors/test~hang/runs")
    changed, deleted, aborted = [f"/v2/actor-runs/{answer['data']['id']}" for answer in client.answers[-3:]]
    async with _client(base_url, token) as client, anyio.create_task_group() as children:
        children.start_soon(client.ask, "PUT", changed, {"statusMessage": "mine"})
        children.start_soon(client.ask, "DELETE", deleted)
        children.start_soon(client.ask, "POST", f"{aborted}/abort")
        async with open_api(tmp_path, inline_actors={"test/hang": hang}) as api:
            with anyio.fail_after(60):
                while len(client.answers) < 3:  # noqa: ASYNC110 - that wakes nobody
                    await anyio.sleep(0.01)
            assert (await api.get(changed)).data["statusMessage"] == "mine"
            assert (await api.send("DELETE", deleted)).error_type == "cannot-remove-running-run"
            assert (await api.get(aborted, waitForFinish=60)).data["status"] == "ABORTED"
            assert api.server.live_runs == LIVE_RUNS - 1


async def test_a_storage_that_was_being_removed_as_its_server_was_killed_is_gone(tmp_path: Path) -> None:
    """Nobody sees a part of it, and the next server removes the rest; another storage keeps what it holds."""
    async with (
        _served_until_killed(tmp_path) as (base_url, token),
        aiohttp.ClientSession(base_url, headers={"Authorization": f"Bearer {token}"}) as session,
    ):
        for name, count in (("kept", 10), ("deleted", 50_000)):
            await session.post("/v2/datasets", params={"name": name})
            await session.post(f"/v2/datasets/local~{name}/items", json=[{}] * count)
        async with session.delete("/v2/datasets/local~deleted") as response:
            assert response.status == 204
        await _until_items(tmp_path, lambda count: count < 50_010)
    await _until_items(tmp_path, lambda count: count > 10)
    async with open_api(tmp_path) as api:
        assert (await api.get("/v2/datasets/local~deleted/items")).status == 404
        await _until_items(tmp_path, lambda count: count == 10)
        assert (await api.get("/v2/datasets/local~kept/items")).body == [{}] * 10


async def _until_items(directory: Path, meant: Callable[[int], bool]) -> None:
    """Wait until the database holds as many items as are meant."""

    def count_items() -> int:
        with closing(sqlite3.connect(directory / "server.sqlite3")) as connection:
            return int(connection.execute("SELECT count(*) FROM items").fetchone()[0])

    with anyio.fail_after(60):
        while not meant(await anyio.to_thread.run_sync(count_items)):  # noqa: ASYNC110 - that is in a database
            await anyio.sleep(0.02)


@asynccontextmanager
async def _client(base_url: str, token: str) -> AsyncIterator[_Client]:
    async with aiohttp.ClientSession(base_url, headers={"Authorization": f"Bearer {token}"}) as session:
        yield _Client(session)
