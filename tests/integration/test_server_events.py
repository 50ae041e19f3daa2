"""What an Actor at work is told over its websocket, and what becomes of Runs that are told to stop."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import pytest

from batchrun.runtime.logs import logging_to
from batchrun.server import InlineContext
from batchrun.server.runs.actor_events import MAX_FOLLOWERS
from tests.support.server_api import ACTORS, Api, open_api

SERVER = {"actors": (ACTORS,), "abort_grace_s": 20}


async def _name(socket: aiohttp.ClientWebSocketResponse) -> str:
    return str((await socket.receive_json())["name"])


def _url(api: Api, run_id: str) -> str:
    return f"{api.server.base_url}/events/{run_id}"


async def test_an_sdk_actor_stops_when_it_is_told_to(api: Api) -> None:
    """A graceful abort says `aborting` and `persistState`; the Actor ends by itself, its state saved: ABORTED."""
    run = await api.run_actor("local~listener", {"do": "wait"})
    await api.items(run, 1)
    aborting = await api.send("POST", f"/v2/actor-runs/{run['id']}/abort", gracefully="true")
    assert aborting.data["status"] == "ABORTING"
    ended = await api.finish(run["id"])
    items = await api.items(run, 3)
    assert ended["status"] == "ABORTED"
    assert {"event": "aborting"} in items
    assert {"event": "persistState", "isMigrating": False} in items
    log = (await api.get(f"/v2/logs/{run['id']}")).body
    assert b"Exiting Actor" in log


async def test_an_actor_that_does_not_listen_is_killed_after_the_grace(tmp_path: Path) -> None:
    """It may go on for as long as it is given, then it is ended by force: ABORTED."""
    async with open_api(tmp_path / "server", actors=(ACTORS,), abort_grace_s=0.2) as api:
        run = await api.run_actor("local~acrobat", {"do": "hang"})
        await api.items(run, 1)
        await api.send("POST", f"/v2/actor-runs/{run['id']}/abort", gracefully="true")
        ended = await api.finish(run["id"])
        assert (ended["status"], ended["exitCode"]) == ("ABORTED", None)


async def test_who_comes_while_the_run_is_being_aborted_is_told_at_once(api: Api) -> None:
    """An Actor that was still booting when the abort came must not miss it."""
    run = await api.run_actor("local~acrobat", {"do": "hang"})
    await api.items(run, 1)
    await api.send("POST", f"/v2/actor-runs/{run['id']}/abort", gracefully="true")
    async with aiohttp.ClientSession() as session, session.ws_connect(_url(api, run["id"])) as socket:
        assert [await _name(socket), await _name(socket)] == ["aborting", "persistState"]


async def test_an_actor_learns_of_its_usage(api: Api) -> None:
    """About every second, in the shape that the SDK reads."""
    run = await api.run_actor("local~acrobat", {"do": "hang"})
    async with aiohttp.ClientSession() as session, session.ws_connect(_url(api, run["id"])) as socket:
        usage, cpu = await socket.receive_json(), await socket.receive_json()
    assert (usage["name"], cpu["name"], cpu["data"]) == ("systemInfo", "cpuInfo", {"isCpuOverloaded": False})
    assert set(usage) == {"name", "createdAt", "data"}
    assert set(usage["data"]) == {
        "memAvgBytes", "memCurrentBytes", "memMaxBytes", "cpuAvgUsage", "cpuMaxUsage", "cpuCurrentUsage",
        "isCpuOverloaded", "createdAt",
    }  # fmt: skip


async def test_a_run_that_is_not_live_has_no_events(api: Api) -> None:
    """Close code 1008 says: do not come back. A plain request is told what the address is for."""
    run = await api.run_actor("local~acrobat", {"do": "exit"})
    await api.finish(run["id"])
    async with aiohttp.ClientSession() as session:
        for run_id in (run["id"], "x" * 17):
            async with session.ws_connect(_url(api, run_id)) as socket:
                assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
            assert socket.close_code == 1008
    assert (await api.get(f"/events/{run['id']}")).status == 400


async def test_one_run_takes_only_so_many_connections(api: Api) -> None:
    """The next is turned away for good; the socket of a Run that ends is closed."""
    run = await api.run_actor("local~acrobat", {"do": "hang"})
    async with aiohttp.ClientSession() as session:
        sockets = [await session.ws_connect(_url(api, run["id"])) for _ in range(MAX_FOLLOWERS)]
        for socket in sockets:
            assert await _name(socket) == "systemInfo"
        async with session.ws_connect(_url(api, run["id"])) as refused:
            await refused.receive()
        assert refused.close_code == 1008
        await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")
        for socket in sockets:
            async for _ in socket:
                pass
            assert socket.close_code == 1000


async def test_strangers_take_no_place_of_a_runs_own(tmp_path: Path) -> None:
    """Whoever knows its id may follow it, not where access is restricted; its Actor comes in with its own address."""
    for is_restricted in (False, True):
        async with open_api(tmp_path / f"{is_restricted}", is_restricted=is_restricted, actors=(ACTORS,)) as api:
            run = await api.run_actor("local~listener", {"do": "wait"})
            await api.items(run, 1)
            async with aiohttp.ClientSession() as session:
                strangers = [await session.ws_connect(_url(api, run["id"])) for _ in range(MAX_FOLLOWERS)]
                kinds = {(await socket.receive()).type for socket in strangers}
                assert kinds == {aiohttp.WSMsgType.CLOSE if is_restricted else aiohttp.WSMsgType.TEXT}
                headers = {"Authorization": f"Bearer {api.server.token}"}
                for key in ("?signature=", "?signature=%FF"):
                    async with session.ws_connect(_url(api, run["id"]) + key) as refused:
                        assert (await refused.receive()).type is aiohttp.WSMsgType.CLOSE
                async with session.ws_connect(_url(api, run["id"]), headers=headers) as own:
                    assert await _name(own) == "systemInfo"
            await api.send("POST", f"/v2/actor-runs/{run['id']}/abort", gracefully="true")
            assert {"event": "aborting"} in await api.items(run, 3)  # told to the Actor


@pytest.mark.parametrize("why", ["token ended", "restricted"])
async def test_what_is_followed_ends_with_the_right_to_it(tmp_path: Path, why: str) -> None:
    """Of a Run's events and log: with the token of the Run that follows, and once its account restricts it."""
    says, is_said = anyio.Event(), anyio.Event()

    async def speaks(context: InlineContext) -> None:
        await context.log("first")
        await says.wait()
        await context.log("second")
        is_said.set()
        await anyio.sleep_forever()

    inline = {"test/speaks": speaks, "test/waits": lambda _: anyio.sleep_forever()}
    async with open_api(tmp_path, actors=(ACTORS,), inline_actors=inline) as api:
        speaker, hangs, follower = [
            (await api.run_actor(actor, {"do": "hang"}))["id"]
            for actor in ("test~speaks", "local~acrobat", "test~waits")
        ]
        headers = {"Authorization": f"Bearer {api.server._backend.tokens.of_run(follower, 0)}"}
        log = f"{api.server.base_url}/v2/logs/{speaker}?stream=1"
        async with (
            aiohttp.ClientSession(headers=headers if why == "token ended" else {}) as session,
            session.get(log) as lines,
            session.ws_connect(_url(api, hangs)) as socket,
        ):
            assert (await lines.content.readline()).endswith(b"first\n")
            assert await _name(socket) == "systemInfo"
            if why == "token ended":
                await api.send("POST", f"/v2/actor-runs/{follower}/abort")
                await api.finish(follower)
            else:
                for run_id in (speaker, hangs):
                    await api.send("PUT", f"/v2/actor-runs/{run_id}", {"generalAccess": "RESTRICTED"})
            says.set()
            await is_said.wait()
            with anyio.fail_after(30):
                assert await lines.content.read() == b""
                async for _ in socket:
                    pass
            assert socket.close_code == 1008


async def test_a_closing_server_lets_an_actor_save_its_state(tmp_path: Path) -> None:
    """`migrating` comes while the API still answers; the Run goes on with the next server, under its id."""
    async with open_api(tmp_path, actors=(ACTORS,)) as api:
        run = await api.run_actor("local~listener", {"do": "wait"})
        await api.items(run, 1)
    async with open_api(tmp_path, actors=(ACTORS,)) as api:
        items = await api.items(run)
        told = [item for item in items if "event" in item]
        while not any(item.get("life") == 2 for item in items):
            items = await api.items(run, len(items) + 1)
        assert {"event": "migrating"} in told
        assert {"event": "persistState", "isMigrating": True} in told
        assert [item["life"] for item in items if "life" in item] == [1, 2]
        await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")


async def test_a_reboot_while_the_server_closes_waits_for_the_next_one(tmp_path: Path) -> None:
    """An Actor that answers `migrating` with a reboot begins once again, with the next server."""
    settings = {"actors": (ACTORS,), "migration_notice_s": 20}

    async def reboot_at_migration(base_url: str, token: str, run_id: str, followed: anyio.Event) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            aiohttp.ClientSession(base_url, headers=headers) as session,
            session.ws_connect(f"/events/{run_id}") as socket,
        ):
            followed.set()
            while await _name(socket) != "migrating":
                pass
            async with session.post(f"/v2/actor-runs/{run_id}/reboot") as answer:
                assert (answer.status, (await answer.json())["data"]["stats"]["rebootCount"]) == (200, 1)

    async with anyio.create_task_group() as children, open_api(tmp_path, **settings) as api:
        run = await api.run_actor("local~acrobat", {"do": "hang"})
        await api.items(run, 1)
        followed = anyio.Event()
        children.start_soon(reboot_at_migration, api.server.base_url, api.server.token, run["id"], followed)
        await followed.wait()
    async with open_api(tmp_path, **settings) as api:
        await api.items(run, 2)
        await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")
        await api.finish(run["id"])
        log = (await api.get(f"/v2/logs/{run['id']}")).body
    assert log.count(b"Starting a local process") == 2


async def test_an_actor_that_works_on_saves_its_state_once_more(tmp_path: Path) -> None:
    """After `migrating` comes `persistState`, right before the Actor is killed: little is done twice."""
    names: list[str] = []

    async def follow(base_url: str, run_id: str, followed: anyio.Event) -> None:
        async with aiohttp.ClientSession(base_url) as session, session.ws_connect(f"/events/{run_id}") as socket:
            followed.set()
            names.extend([message.json()["name"] async for message in socket])

    async with (
        anyio.create_task_group() as children,
        open_api(tmp_path, actors=(ACTORS,), migration_notice_s=0.05) as api,
    ):
        run = await api.run_actor("local~acrobat", {"do": "hang"})
        await api.items(run, 1)
        followed = anyio.Event()
        children.start_soon(follow, api.server.base_url, run["id"], followed)
        await followed.wait()
    assert [name for name in names if name in ("migrating", "persistState")] == ["migrating", "persistState"]


async def test_a_server_that_stops_makes_no_python_actor_push_twice(tmp_path: Path) -> None:
    """Nor leave an item out, whether it notes an item before or after the push, in its state or in its queue."""
    settings: dict[str, Any] = {"actors": (ACTORS / "python_counter",), "migration_notice_s": 0.05}
    async with open_api(tmp_path, **settings) as api:
        run = await api.run_actor("local~python-counter", {"count": 12})
        await api.items(run, 9)
    async with open_api(tmp_path, **settings) as api:
        await api.finish(run["id"])
        pushed = sorted((item["notes"], item["n"]) for item in await api.items(run))
        log = await api.get(f"/v2/logs/{run['id']}")
    assert pushed == [(notes, n) for notes in ("after", "before", "queue") for n in range(1, 13)], log
    assert log.body.count(b"Starting a local process") == 2


def test_who_goes_before_the_answer_leaves_no_error_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An Actor that is killed while it connects says nothing of the server; it happens at one in ten of these.

    Nor is the protocol logged that it asks for.
    """
    request = b"GET /events/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    request += b"Sec-WebSocket-Protocol: odd\r\nSec-WebSocket-Version: 13\r\n"
    request += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

    async def connect_and_go() -> None:
        async with open_api(tmp_path / "server") as api:
            address = urlsplit(api.server.base_url)
            for _ in range(100):
                async with await anyio.connect_tcp(str(address.hostname), int(address.port or 0)) as stream:
                    await stream.send(request)
                    await stream.send_eof()

    file = tmp_path / "server.log"
    with logging_to(file, level="debug"):
        anyio.run(connect_and_go)
    assert "request_failed" not in file.read_text()
    assert caplog.records == []
