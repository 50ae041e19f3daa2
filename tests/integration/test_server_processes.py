"""Actors as real processes: environment, log, limits, and that none of them outlives its Run."""

import ctypes
import hashlib
import hmac
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import anyio.to_thread
import pytest

from batchrun.server.runs.process_groups import hide_own_environment, start_time
from tests.support.server_api import ACTORS, Api, open_api

SERVER = {"actors": (ACTORS,)}
#: Source: prctl(2).
_PR_SET_CHILD_SUBREAPER = 36
_TEXT, _CLOSE = aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.CLOSE


async def _are_gone(pids: list[int]) -> None:
    with anyio.fail_after(60):
        while any([await anyio.to_thread.run_sync(start_time, pid) for pid in pids]):  # noqa: ASYNC110 - a process that ends wakes nobody here
            await anyio.sleep(0.02)


async def test_an_actor_sees_the_platform(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids, aliases and its own variables, none of them empty; nothing of the account's token or ours."""
    monkeypatch.setenv("APIFY_PROXY_PASSWORD", "secret of the user")
    run = await api.run_actor("local~acrobat", {"do": "environment"}, memory=256, timeout=60)
    assert (await api.finish(run["id"]))["status"] == "SUCCEEDED"
    seen, me = await api.items(run)
    expected = {
        "APIFY_IS_AT_HOME": "1",
        "APIFY_API_BASE_URL": api.server.base_url,
        "ACTOR_RUN_ID": run["id"],
        "APIFY_ACTOR_RUN_ID": run["id"],
        "ACTOR_ID": run["actId"],
        "ACTOR_FULL_NAME": "local/acrobat",
        "ACTOR_BUILD_NUMBER": "0.3.1",
        "ACTOR_BUILD_TAGS": "beta",
        "ACTOR_DEFAULT_DATASET_ID": run["defaultDatasetId"],
        "APIFY_DEFAULT_KEY_VALUE_STORE_ID": run["defaultKeyValueStoreId"],
        "ACTOR_MEMORY_MBYTES": "256",
        "APIFY_DEDICATED_CPUS": "0.0625",
        "APIFY_USER_ID": run["userId"],
        "APIFY_META_ORIGIN": "API",
        "ACTOR_STARTED_AT": run["startedAt"],
        "OWN": "value // not a comment",
        "ACTOR_PERMISSION_LEVEL": "FULL_PERMISSIONS",
    }
    assert {name: seen.get(name) for name in expected} == expected
    events = f"{api.server.base_url.replace('http', 'ws')}/events/{run['id']}?signature="
    assert seen["ACTOR_EVENTS_WEBSOCKET_URL"] == seen["APIFY_ACTOR_EVENTS_WS_URL"]
    assert seen["ACTOR_EVENTS_WEBSOCKET_URL"].startswith(events)
    platform = {name: value for name, value in seen.items() if name.startswith(("APIFY_", "ACTOR_"))}
    assert "" not in platform.values()
    assert "ACTOR_TASK_ID" not in platform
    assert platform["APIFY_PROXY_PASSWORD"] == run["id"]
    assert api.server.token not in seen.values()
    assert me["username"] == "local"
    assert "plan" not in me


async def test_an_actor_inherits_only_what_programs_need(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """No token, whatever its name; and none can be read out of the server's process, or one that it has started."""
    for name in ("APIFY_TOKEN", "BATCHRUN_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "MY_SECRET"):
        monkeypatch.setenv(name, "secret of the user")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    run = await api.run_actor("local~acrobat", {"do": "environment"}, memory=256, timeout=60)
    assert (await api.finish(run["id"]))["status"] == "SUCCEEDED"
    seen, _ = await api.items(run)
    assert "secret of the user" not in seen.values()
    assert (seen["PATH"], seen["LC_ALL"]) == (os.environ["PATH"], "C.UTF-8")
    if sys.platform == "linux":
        # PR_GET_DUMPABLE: 0 makes /proc/PID/environ and /proc/PID/mem root's.
        assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0
        children = (await anyio.Path(f"/proc/self/task/{os.getpid()}/children").read_text()).split()
        environments = [await anyio.Path(f"/proc/{pid}/environ").read_bytes() for pid in children]
        assert environments
        assert not any(b"secret of the user" in each for each in environments)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux hides it")
async def test_a_server_hides_its_environment_before_its_first_run(tmp_path: Path) -> None:
    """A process that an Actor of an earlier server has left behind may look all the time."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(4, 1, 0, 0, 0) == 0  # PR_SET_DUMPABLE: as a new process has it
    hide_own_environment.cache_clear()
    async with open_api(tmp_path):
        assert libc.prctl(3, 0, 0, 0, 0) == 0


#: Evaluates its second argument when it has come so far that it imports the command line.
_LOADING = """
import ctypes, os, sys
from batchrun import __main__

class Finder:
    def find_spec(self, name, *_):
        if name == "batchrun.cli":
            sys.exit(str(eval(asked)))

sys.meta_path.insert(0, Finder())
asked = sys.argv.pop()
__main__.main()
"""


def _at_loading(command: str, asked: str, pass_fds: tuple[int, ...] = ()) -> str:
    argv = [sys.executable, "-c", _LOADING, command, asked]
    return subprocess.run(argv, stderr=subprocess.PIPE, text=True, check=False, pass_fds=pass_fds).stderr.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="Linux hides it")
@pytest.mark.parametrize(("command", "seen"), [("serve", "0"), ("status", "1")])
def test_serve_hides_its_environment_before_it_loads(command: str, seen: str) -> None:
    """Its imports take seconds on a loaded machine; a debugger still sees into other commands."""
    assert _at_loading(command, "ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)") == seen


def test_no_program_inherits_a_file_that_batchrun_was_started_with() -> None:
    """It may be a file of tokens, or a lock that the program would hold on to."""
    with Path(__file__).open("rb") as given:
        number = given.fileno()
        asked = f"[os.get_inheritable(fd) for fd in (0, 1, 2, {number})]"
        assert _at_loading("serve", asked, (number,)) == "[True, True, True, False]"


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({}, None),
        ({"HTTP_PROXY": "http://proxy:1"}, "localhost,127.0.0.1,::1"),
        ({"http_proxy": "http://proxy:1", "NO_PROXY": "a.example"}, "a.example,localhost,127.0.0.1,::1"),
        ({"http_proxy": "http://proxy:1", "no_proxy": "*"}, "*"),
    ],
    ids=["no-proxy", "proxy", "exceptions", "all"],
)
async def test_an_actor_reaches_the_server_without_a_proxy(
    api: Api, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], seen: str | None
) -> None:
    """This machine stands among the exceptions of its environment."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    run = await api.run_actor("local~acrobat", {"do": "environment"}, memory=256, timeout=60)
    assert (await api.finish(run["id"]))["status"] == "SUCCEEDED"
    variables = (await api.items(run))[0]
    assert [variables.get("no_proxy"), variables.get("NO_PROXY")] == [seen, seen]


@pytest.mark.parametrize(("host", "seen"), [("127.0.0.2", "127.0.0.2"), ("::1", "[::1]")])
async def test_no_proxy_is_asked_for_a_server_at_an_address_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, seen: str
) -> None:
    """It would read the Run's token and all that the Actor pushes."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:1")
    async with open_api(tmp_path, host=host, actors=(ACTORS,)) as api:
        run = await api.run_actor("local~acrobat", {"do": "environment"}, memory=256, timeout=60)
        await api.finish(run["id"])
        variables = (await api.items(run))[0]
    assert variables["no_proxy"].split(",")[-1] == seen


async def test_a_runs_token_dies_with_its_run(api: Api) -> None:
    """What a process could do while its Run was live, nobody can do with its token later, resurrected or not."""
    run = await api.run_actor("local~acrobat", {"do": "environment", "wait_s": 1000})
    await api.send("PUT", f"/v2/actor-runs/{run['id']}", {"generalAccess": "RESTRICTED"})
    tokens: list[str] = []
    events: list[str] = []
    async with aiohttp.ClientSession() as session:
        for life in (1, 2):
            seen = (await api.items(run, 2 * life))[-2]
            tokens, events = [*tokens, seen["APIFY_TOKEN"]], [*events, seen["ACTOR_EVENTS_WEBSOCKET_URL"]]
            assert [(await api.send("GET", "/v2/users/me", token=one)).status for one in tokens] == [401, 200][-life:]
            for url, kind in zip(events, [_CLOSE, _TEXT][-life:], strict=True):
                async with session.ws_connect(url) as socket:
                    assert (await socket.receive()).type is kind
            await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")
            await api.finish(run["id"])
            refused = await api.send("GET", "/v2/users/me", token=tokens[-1])
            assert refused.error_type == "user-or-token-not-found"
            await api.send("POST", f"/v2/actor-runs/{run['id']}/resurrect")


async def test_the_log_has_a_time_before_every_line(api: Api) -> None:
    """Plain text; unfinished last lines and Unicode survive."""
    run = await api.run_actor("local~acrobat", {"do": "exit"})
    await api.finish(run["id"])
    answer = await api.get(f"/v2/actor-runs/{run['id']}/log")
    lines = answer.body.decode().splitlines()
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ", line) for line in lines)
    assert lines[0].endswith("ACTOR: Starting a local process.")
    assert [line[25:] for line in lines[-3:]] == ["one", "two ü", "three without end"]
    assert (await api.get(f"/v2/logs/{run['id']}", stream="true")).body == answer.body


async def test_an_exit_code_decides(api: Api) -> None:
    """0 is SUCCEEDED, all else FAILED; a start script of package.json is run as one."""
    run = await api.run_actor("local~acrobat", {"do": "exit", "code": 7})
    ended = await api.finish(run["id"])
    assert (ended["status"], ended["exitCode"]) == ("FAILED", 7)
    run = await api.run_actor("local~scripted", None)
    ended = await api.finish(run["id"])
    assert (ended["status"], ended["exitCode"]) == ("FAILED", 4)
    assert b"hello from local/scripted" in (await api.get(f"/v2/logs/{run['id']}")).body


#: Whether a child leaves its Actor's process group, by a session of its own; on Linux it is found all the same.
ESCAPES = pytest.mark.parametrize(
    "escapes", [False, pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="Linux finds it"))]
)


async def test_too_much_memory_is_the_end(api: Api) -> None:
    """Above the Run's memory the whole group is killed: FAILED, 137."""
    run = await api.run_actor("local~acrobat", {"do": "eat"}, memory=128)
    ended = await api.finish(run["id"])
    assert (ended["status"], ended["exitCode"]) == ("FAILED", 137)
    assert ended["stats"]["memMaxBytes"] > 128 << 20


@ESCAPES
@pytest.mark.parametrize(
    ("do", "query", "status", "exit_code"),
    [
        ("feed", {"memory": 128}, "FAILED", 137),
        ("hang", {"timeout": 2}, "TIMED-OUT", None),
        ("leave", {}, "SUCCEEDED", 0),
    ],
)
async def test_an_ended_run_leaves_no_process(
    api: Api, do: str, query: dict[str, int], status: str, exit_code: int | None, escapes: bool
) -> None:
    """A child's memory counts like its Actor's; a child that holds the log open neither delays the end nor outlives it.

    Of an Actor that is killed for memory or time, the child is killed too.
    """
    run = await api.run_actor("local~acrobat", {"do": do, "escapes": escapes}, **query)
    ended = await api.finish(run["id"])
    assert (ended["status"], ended["exitCode"]) == (status, exit_code)
    await _are_gone((await api.items(run, 1))[0]["pids"])


@ESCAPES
async def test_an_aborted_run_leaves_no_process(api: Api, escapes: bool) -> None:
    """The Actor and its child are gone when the Run is ABORTED."""
    run = await api.run_actor("local~acrobat", {"do": "hang", "escapes": escapes})
    pids = (await api.items(run, 1))[0]["pids"]
    await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")
    assert (await api.finish(run["id"]))["status"] == "ABORTED"
    await _are_gone(pids)


async def test_a_closed_server_ends_its_processes_and_starts_the_run_again(tmp_path: Path) -> None:
    """The Run stays live; the next server carries it out under its id."""
    async with open_api(tmp_path, actors=(ACTORS,)) as api:
        run = await api.run_actor("local~acrobat", {"do": "hang"})
        pids = (await api.items(run, 1))[0]["pids"]
    await _are_gone(pids)
    async with open_api(tmp_path, actors=(ACTORS,)) as api:
        await api.items(run, 2)
        again = (await api.get(f"/v2/actor-runs/{run['id']}")).data
        assert (again["status"], again["stats"]["migrationCount"]) == ("RUNNING", 1)


async def test_a_closing_server_gives_its_port_up_after_its_actors(tmp_path: Path) -> None:
    """Another program that listens there sees no Actor alive, whose calls it would get; an open poll delays the end."""
    seen: list[str | None] = []

    def take(address: tuple[str, int], pid: int) -> None:
        while not seen:
            with suppress(OSError), closing(socket.create_server(address)):
                seen.append(start_time(pid))

    async with (
        AsyncExitStack() as stack,
        anyio.create_task_group() as others,
        open_api(tmp_path, actors=(ACTORS,)) as api,
    ):
        run = await api.run_actor("local~acrobat", {"do": "hang"})
        actor, _ = (await api.items(run, 1))[0]["pids"]
        url = urlsplit(api.server.base_url)
        assert url.hostname is not None
        assert url.port is not None
        request = f"GET /v2/actor-runs/{run['id']}?waitForFinish=60 HTTP/1.1\r\nHost: {url.netloc}\r\n"
        poll = await stack.enter_async_context(await anyio.connect_tcp(url.hostname, url.port))
        await poll.send(f"{request}Authorization: Bearer {api.server.token}\r\n\r\n".encode())
        others.start_soon(anyio.to_thread.run_sync, take, (url.hostname, url.port), actor)
    assert seen == [None]


_SERVE = """
import sys, anyio
from pathlib import Path
from typing import Any
from batchrun.server import ServerSettings, open_server

async def main():
    async with open_server(ServerSettings(data_dir=Path(sys.argv[1]), actors=(Path(sys.argv[2]),))) as server:
        print("OPENED", server.base_url, server.token, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_a_run_leaves_no_process_that_nobody_waits_for(tmp_path: Path) -> None:
    """In a container, the server may be process 1, which gets every orphan and waits for none."""
    assert ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        async with open_api(tmp_path, actors=(ACTORS,)) as api:
            for _ in range(2):
                run = await api.run_actor("local~acrobat", {"do": "environment"}, memory=256, timeout=60)
                await api.finish(run["id"])
            task = await anyio.Path(f"/proc/self/task/{os.getpid()}/children").read_text()
            fields = [await anyio.Path(f"/proc/{pid}/stat").read_text() for pid in task.split()]
        assert [each for each in fields if each.rpartition(")")[2].split()[0] == "Z"] == []
    finally:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@asynccontextmanager
async def _serving(directory: Path, **given: Any) -> AsyncIterator[tuple[Any, list[int]]]:
    """Serve in a process that ends by SIGKILL; give a Run that hangs there, and the pids of its processes."""
    command = [sys.executable, "-c", _SERVE, str(directory), str(ACTORS)]
    async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            received = b""
            while not (opened := re.search(rb"^OPENED (\S+) (\S+)\n", received, re.MULTILINE)):
                received += await process.stdout.receive()
            headers = {"Authorization": f"Bearer {opened[2].decode()}"}
            async with aiohttp.ClientSession(opened[1].decode(), headers=headers) as session:
                async with session.post("/v2/actors/local~acrobat/runs", json={"do": "hang", **given}) as answer:
                    run = (await answer.json())["data"]
                pids: list[int] = []
                while not pids:
                    async with session.get(f"/v2/datasets/{run['defaultDatasetId']}/items") as answer:
                        pids = [pid for item in await answer.json() for pid in item["pids"]]
                    await anyio.sleep(0.02)
            yield run, pids
        finally:
            process.send_signal(signal.SIGKILL)


@ESCAPES
async def test_a_killed_server_leaves_no_process_that_the_next_one_does_not_end(tmp_path: Path, escapes: bool) -> None:
    """A Run's group ends with its server, so that nothing talks to who takes the port.

    What has left the group lives on; the next server ends it, then starts the Run again.
    """
    async with _serving(tmp_path, escapes=escapes) as (run, pids):
        variables = (await anyio.Path(f"/proc/{pids[0]}/environ").read_text()).split("\0")
    actor, child = pids
    await _are_gone([actor] if escapes else pids)
    assert (await anyio.to_thread.run_sync(start_time, child) is not None) is escapes
    stolen = next(each.removeprefix("APIFY_TOKEN=") for each in variables if each.startswith("APIFY_TOKEN="))
    async with open_api(tmp_path, actors=(ACTORS,)) as api:
        await _are_gone(pids)
        # What has left the group may send its token to whatever program has taken the port over.
        assert (await api.send("GET", "/v2/users/me", token=stolen)).refusal == (401, "user-or-token-not-found")
        await api.items(run, 2)
        assert (await api.get(f"/v2/actor-runs/{run['id']}")).data["stats"]["migrationCount"] == 1


async def test_a_server_on_a_copy_of_a_live_ones_state_leaves_its_processes(tmp_path: Path) -> None:
    """Whoever looks into why a batch hangs may start a server on a copy of its state."""
    async with _serving(tmp_path / "live") as (run, pids):
        await anyio.to_thread.run_sync(shutil.copytree, tmp_path / "live", tmp_path / "copy")
        async with open_api(tmp_path / "copy", actors=(ACTORS,)) as copy:
            await copy.items(run, 2)  # it has started the Run again
        assert all([await anyio.to_thread.run_sync(start_time, pid) for pid in pids])
    async with open_api(tmp_path / "live", actors=(ACTORS,)):
        await _are_gone(pids)


async def test_a_copy_of_a_live_servers_state_makes_no_token(tmp_path: Path) -> None:
    """Neither the page's nor that of a live Run: whoever looks into why a batch hangs may copy its directory."""
    async with open_api(tmp_path, actors=(ACTORS,)) as api:
        run = await api.run_actor("local~acrobat", {"do": "hang"})
        user_id = (await api.get("/v2/users/me")).data["id"]
        with closing(sqlite3.connect(tmp_path / "server.sqlite3")) as connection:
            stored: dict[str, str] = dict(connection.execute("SELECT name, value FROM account"))
        for prefix, of in (("batchrun_page_", user_id), ("batchrun_run_", run["id"])):
            text = f"{prefix}{of} {stored['process']}"
            signature = hmac.new(stored["secret"].encode(), text.encode(), hashlib.sha256).hexdigest()[:32]
            made = await api.send("GET", "/v2/users/me", token=f"{prefix}{of}_{signature}")
            assert made.refusal == (401, "user-or-token-not-found"), prefix
        await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")


async def test_a_state_directory_chooses_no_process_that_is_killed(tmp_path: Path) -> None:
    """Who supplies it can note any process in it, with its start time; only those of its own Runs are ended."""

    def note(pid: int) -> None:
        with closing(sqlite3.connect(tmp_path / "server.sqlite3")) as connection, connection:
            connection.execute("INSERT INTO processes VALUES ('supplied', ?, ?)", (pid, start_time(pid)))

    async with open_api(tmp_path):
        pass
    async with await anyio.open_process(["sleep", "60"], start_new_session=True) as process:
        await anyio.to_thread.run_sync(note, process.pid)
        async with open_api(tmp_path):
            assert await anyio.to_thread.run_sync(start_time, process.pid)
        process.kill()


async def test_the_first_status_is_ready_and_a_reader_sees_it_begin(api: Api) -> None:
    """A start answers READY; who then reads the Run finds it begun: Apify's command line takes READY for a failure."""
    run = await api.run_actor("local~acrobat", {"do": "hang"})
    read = (await api.get(f"/v2/actor-runs/{run['id']}")).data
    assert (run["status"], read["status"]) == ("READY", "RUNNING")
    await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")


async def test_the_last_status_message_of_an_actor_stays(api: Api) -> None:
    """Also when it is not terminal, and however the Run ends."""
    run = await api.run_actor("local~acrobat", {"do": "hang"})
    await api.items(run, 1)
    await api.send("PUT", f"/v2/actor-runs/{run['id']}", {"statusMessage": "page 7 of 9"})
    await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")
    ended = await api.finish(run["id"])
    assert (ended["status"], ended["statusMessage"]) == ("ABORTED", "page 7 of 9")


async def test_a_server_is_found_where_it_was_before_a_restart(tmp_path: Path) -> None:
    """A Run that goes on has its own URLs; another program at the port is no obstacle."""
    async with open_api(tmp_path) as api:
        before = api.server.base_url
    async with open_api(tmp_path) as api:
        assert api.server.base_url == before
    port = int(before.rpartition(":")[2])
    with closing(socket.create_server(("127.0.0.1", port))):
        async with open_api(tmp_path) as api:
            assert api.server.base_url != before
            assert (await api.get("/v2/users/me")).data["username"] == "local"
    (tmp_path / "port").write_text("99999999999999999999")
    async with open_api(tmp_path) as api:
        assert api.server.base_url != before
