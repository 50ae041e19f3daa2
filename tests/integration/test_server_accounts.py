"""Several accounts on one server: what is private, what an id opens, and that each has limits of its own."""

import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest

from batchrun.cli.serve_command import _show
from batchrun.errors import ConfigError
from batchrun.server import InlineContext, open_server
from batchrun.server.content.request_bodies import receive_body
from batchrun.server.routing import call as call_module
from batchrun.server.settings import AccountSettings, ServerSettings
from tests.support.server_api import ACTORS, Answer, Api, open_api

BOB = "bob's token"
_ACCOUNTS = (AccountSettings(username="bob", token=BOB, max_concurrent_runs=3, max_total_memory_mb=1024),)
SERVER = {"actors": (ACTORS,), "accounts": _ACCOUNTS}


async def _bob(api: Api, method: str, path: str, body: Any = None, **query: Any) -> Answer:
    return await api.send(method, path, body, token=BOB, **query)


async def _ended_run(api: Api) -> Any:
    task = await api.create_task(name="mine")
    return (await api.start(task, {"a": 1}, waitForFinish=60)).data


async def test_each_account_is_somebody_else(tmp_path: Path) -> None:
    """Own id, name and limits, the same after a restart."""
    seen: list[Any] = []
    for _ in range(2):
        async with open_api(tmp_path, accounts=_ACCOUNTS) as api:
            local, bob = (await api.get("/v2/users/me")).data, (await _bob(api, "GET", "/v2/users/me")).data
            limits = (await _bob(api, "GET", "/v2/users/me/limits")).data["limits"]
        assert (local["username"], bob["username"]) == ("local", "bob")
        assert (limits["maxConcurrentActorJobs"], limits["maxActorMemoryGbytes"]) == (3, 1)
        assert local["id"] != bob["id"]
        seen.append((local["id"], bob["id"]))
    assert seen[0] == seen[1]


async def test_lists_show_ones_own(api: Api) -> None:
    """Runs, tasks, storages and Actors; two accounts may use the same names."""
    await _ended_run(api)
    await api.send("POST", "/v2/datasets", name="shared-name")
    made = await _bob(api, "POST", "/v2/actor-tasks", {"actId": "test~echo", "name": "mine"})
    dataset = await _bob(api, "POST", "/v2/datasets", name="shared-name")
    assert (made.status, dataset.status) == (201, 201)
    for path, local_total, bob_total in (
        ("/v2/actor-runs", 1, 0),
        ("/v2/actors/test~echo/runs", 1, 0),
        ("/v2/actor-tasks", 1, 1),
        ("/v2/datasets", 1, 1),
        ("/v2/key-value-stores", 0, 0),
    ):
        assert (await api.get(path)).data["total"] == local_total, path
        assert (await _bob(api, "GET", path)).data["total"] == bob_total, path
    assert [await _counted(api, token) for token in (api.server.token, BOB, None)] == [1, 0, 0]
    names = {actor["name"] for actor in (await _bob(api, "GET", "/v2/actors")).data["items"]}
    assert "acrobat" not in names
    assert "hello-world" in names


async def _counted(api: Api, token: str | None) -> int:
    stats = (await api.send("GET", "/v2/acts/test~echo", token=token)).data["stats"]
    assert ("lastRunStartedAt" in stats) == (stats["totalRuns"] > 0)
    return int(stats["totalRuns"])


async def test_tasks_and_actors_of_others_do_not_exist(api: Api) -> None:
    """404 by id and by name; nothing can be started, changed or read."""
    task = await api.create_task(name="mine")
    for address in (task, "local~mine", "~mine"):
        assert (await _bob(api, "GET", f"/v2/actor-tasks/{address}")).status == 404
        assert (await _bob(api, "POST", f"/v2/actor-tasks/{address}/runs")).status == 404
        assert (await _bob(api, "DELETE", f"/v2/actor-tasks/{address}")).status == 404
    assert (await _bob(api, "GET", "/v2/actors/local~acrobat")).status == 404
    assert (await _bob(api, "POST", "/v2/actors/local~acrobat/runs")).status == 404
    assert (await _bob(api, "POST", "/v2/actor-tasks", {"actId": "local/acrobat"})).status == 404
    for name in ("acrobat", "no-such"):  # nor is it said whether there is one
        assert (await api.send("GET", f"/v2/actors/local~{name}", token=None)).refusal == (401, "token-not-provided")
    assert (await api.send("GET", "/v2/actors/test~echo", token=None)).status == 200


async def test_an_id_opens_a_run_and_its_storages_for_reading(api: Api) -> None:
    """To anybody, with a token or without; its cost is the owner's business."""
    run = await _ended_run(api)
    for token in (None, BOB):
        shown = (await api.send("GET", f"/v2/actor-runs/{run['id']}", token=token)).data
        assert (shown["id"], "usageTotalUsd" in shown, "usageUsd" in shown) == (run["id"], False, False)
        items = await api.send("GET", f"/v2/datasets/{run['defaultDatasetId']}/items", token=token)
        assert items.body == [{"a": 1}]
        store = f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}"
        assert (await api.send("GET", f"{store}/records/OUTPUT", token=token)).body == {"a": 1}
        assert (await api.send("GET", f"{store}/keys", token=token)).status == 200
        assert (await api.send("GET", f"/v2/logs/{run['id']}", token=token)).status == 200
    assert "usageTotalUsd" in (await api.get(f"/v2/actor-runs/{run['id']}")).data


async def test_an_id_does_not_open_anything_for_writing(api: Api) -> None:
    """403 `insufficient-permissions` for another account, 401 for nobody; nothing has changed."""
    run = await _ended_run(api)
    dataset, store = f"/v2/datasets/{run['defaultDatasetId']}", f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}"
    queue, path = f"/v2/request-queues/{run['defaultRequestQueueId']}", f"/v2/actor-runs/{run['id']}"
    request = {"url": "http://example.com", "uniqueKey": "x"}
    attempts: list[tuple[str, str, Any]] = [
        ("POST", f"{dataset}/items", {"b": 2}),
        ("PUT", dataset, {"name": "taken"}),
        ("DELETE", dataset, None),
        ("PUT", f"{store}/records/OUTPUT", {"b": 2}),
        ("DELETE", f"{store}/records/OUTPUT", None),
        ("POST", f"{queue}/requests", request),
        ("POST", f"{queue}/head/lock?lockSecs=60", None),
        ("DELETE", queue, None),
        ("PUT", path, {"statusMessage": "mine now"}),
        ("POST", f"{path}/abort", None),
        ("POST", f"{path}/resurrect", None),
        ("POST", f"{path}/reboot", None),
        ("DELETE", path, None),
    ]
    for method, address, body in attempts:
        assert (await _bob(api, method, address, body)).refusal == (403, "insufficient-permissions"), address
        assert (await api.send(method, address, body, token=None)).status == 401, address
    assert (await api.get(f"{dataset}/items")).body == [{"a": 1}]
    assert (await api.get(path)).data["statusMessage"] == "Actor succeeded"


async def test_access_can_be_restricted_to_the_owner(api: Api) -> None:
    """Then an id is not enough to read: 403; a named storage can be opened to all who know its name."""
    run = await _ended_run(api)
    paths = {
        f"/v2/actor-runs/{run['id']}": [
            f"/v2/actor-runs/{run['id']}",
            f"/v2/acts/test~echo/runs/{run['id']}",
            f"/v2/logs/{run['id']}",
            f"/v2/actor-runs/{run['id']}/dataset/items",
            f"/v2/actor-runs/{run['id']}/key-value-store/records/OUTPUT",
        ],
        f"/v2/datasets/{run['defaultDatasetId']}": [f"/v2/datasets/{run['defaultDatasetId']}/items"],
        f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}": [
            f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}/records/OUTPUT"
        ],
    }
    for path, closed in paths.items():
        assert (await api.send("PUT", path, {"generalAccess": "RESTRICTED"})).status == 200
        for address in closed:
            for token in (None, BOB):
                assert (await api.send("GET", address, token=token)).status == 403, address
            assert (await api.get(address)).status == 200
        # Which Actor's it is, is not told either.
        assert (await _bob(api, "GET", f"/v2/acts/apify~hello-world/runs/{run['id']}")).status == 403
        assert (await api.send("PUT", path, {"generalAccess": None})).data["generalAccess"] == "RESTRICTED"
        assert (await api.send("PUT", path, {"generalAccess": "ANYBODY"})).refusal == (400, "invalid-request")
    dataset = (await api.send("POST", "/v2/datasets", name="open")).data["id"]
    assert (await _bob(api, "GET", "/v2/datasets/local~open")).status == 404
    for address in ("local~open", "local~no-such", "nobody~open"):
        assert (await api.send("GET", f"/v2/datasets/{address}", token=None)).status == 401
    await api.send("PUT", f"/v2/datasets/{dataset}", {"generalAccess": "ANYONE_WITH_NAME_CAN_READ"})
    assert (await _bob(api, "GET", "/v2/datasets/local~open")).data["id"] == dataset
    assert (await api.send("GET", "/v2/datasets/local~open/items", token=None)).body == []


async def test_a_run_that_is_restricted_while_it_ends_or_begins_again_stays_so(tmp_path: Path) -> None:
    """Another account can make that last: one DELETE of much keeps all others from storing anything."""
    goes_on, is_stored = anyio.Event(), threading.Event()

    async def wait(_: InlineContext) -> None:
        await goes_on.wait()

    async with open_api(tmp_path, inline_actors={"test/wait": wait}) as api:
        runs, database = api.server._backend.runs, api.server._backend.database
        ending, ended = [(await api.run_actor(f"test~{name}"))["id"] for name in ("wait", "echo")]
        await api.finish(ended)
        async with anyio.create_task_group() as children:
            children.start_soon(database.write, lambda _: is_stored.wait(60))
            goes_on.set()
            live = runs.find_live(ending)
            while live is not None and live.end_stored is None:  # noqa: ASYNC110 - that wakes nobody
                await anyio.sleep(0.01)
            children.start_soon(runs.change, ended, {"generalAccess": "RESTRICTED"})
            children.start_soon(runs.resurrect, ended, {})
            children.start_soon(runs.change, ending, {"generalAccess": "RESTRICTED"})
            await anyio.wait_all_tasks_blocked()
            is_stored.set()
        for run_id in (ending, ended):
            await api.finish(run_id)
            assert (await api.send("GET", f"/v2/actor-runs/{run_id}", token=None)).status == 403


async def test_a_restricted_run_restricts_the_way_to_its_storages(api: Api) -> None:
    """Whoever knows its id alone; a signature that is none opens nothing, and one that its owner has made opens it."""
    run = await _ended_run(api)
    at = f"/v2/actor-runs/{run['id']}"
    assert (await api.send("PUT", at, {"generalAccess": "RESTRICTED"})).status == 200
    paths = "dataset", "dataset/items", "key-value-store/keys", "key-value-store/records/INPUT", "request-queue/head"
    for path in paths:
        for query in ("", "?signature=x", "?signature="):
            assert (await api.send("GET", f"{at}/{path}{query}", token=None)).status == 403, path
            assert (await _bob(api, "GET", f"{at}/{path}{query}")).status == 403, path
        assert (await api.get(f"{at}/{path}")).status == 200
    signed = (await api.get(f"{at}/dataset")).data["itemsPublicUrl"].partition("?")[2]
    assert (await api.send("GET", f"{at}/dataset/items?{signed}", token=None)).body == [{"a": 1}]


async def test_limits_are_each_accounts_own(api: Api) -> None:
    """A Run that is too large for bob fits into what `local` has; bob's Runs take nothing of it."""
    refused = await _bob(api, "POST", "/v2/actors/test~echo/runs", {}, memory=2048)
    assert (refused.status, refused.error_type) == (402, "actor-memory-limit-exceeded")
    assert (await api.send("POST", "/v2/actors/test~echo/runs", {}, memory=2048)).status == 201


async def test_a_runs_token_acts_for_its_account(api: Api) -> None:
    """An Actor at work for bob is bob: it reads and writes what is bob's, and sees no plan."""
    run = (await _bob(api, "POST", "/v2/actors/test~echo/runs", {}, waitForFinish=60)).data
    tokens = api.server._backend.tokens
    owner = (await _bob(api, "GET", "/v2/users/me")).data["id"]
    assert run["userId"] == owner
    caller, account, run_id = tokens.recognise(tokens.of_run("r" * 17, 0), lambda _: (owner, 0))
    assert (caller.name, account and account.username, run_id) == ("RUN", "bob", "r" * 17)


async def test_what_a_run_has_begun_is_not_carried_out_after_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body that comes later changes nothing: its connection may have gone to a process that outlives the Run."""
    is_received, receive = anyio.Event(), receive_body

    async def noted(*args: Any) -> Any:
        is_received.set()
        return await receive(*args)

    monkeypatch.setattr(call_module, "receive_body", noted)
    async with open_api(tmp_path, inline_actors={"test/waits": lambda _: anyio.sleep_forever()}) as api:
        run = await api.run_actor("test~waits")
        token = api.server._backend.tokens.of_run(run["id"], 0)

        async def body() -> AsyncIterator[bytes]:
            yield b'{"a"'
            await is_received.wait()
            await api.send("POST", f"/v2/actor-runs/{run['id']}/abort")
            await api.finish(run["id"])
            yield b": 1}"

        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        path = f"{api.server.base_url}/v2/actors/test~echo/runs"
        async with aiohttp.request("POST", path, data=body(), headers=headers) as answer:
            assert answer.status == 401
            assert (await answer.json())["error"]["type"] == "user-or-token-not-found"
        assert (await api.get("/v2/actor-runs")).data["total"] == 1


async def test_two_accounts_cannot_share_a_token(tmp_path: Path) -> None:
    """Nor a name: a clear ConfigError before anything is served."""
    for bad in (AccountSettings(username="x", token="t"), AccountSettings(username="LOCAL", token="u")):
        with pytest.raises(ConfigError, match="its own token"):
            async with open_api(tmp_path, token="t", accounts=(bad,)):
                pass


async def test_a_token_that_is_not_given_is_made_and_kept(tmp_path: Path) -> None:
    """Each account has one of its own, the same after a restart, in a file for its user only."""
    seen = []
    for _ in range(2):
        async with open_api(tmp_path, accounts=(AccountSettings(username="Ann"),)) as api:
            token = api.server.tokens["Ann"]
            assert (await api.send("GET", "/v2/users/me", token=token)).data["username"] == "Ann"
            seen.append((token, api.server.token))
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[0][1]
    assert (tmp_path / "token.ann").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", "a~b", "ü", "a" * 64])
async def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    """Before anything is written anywhere for it."""
    with pytest.raises(ConfigError, match="cannot be an account's name"):
        async with open_api(tmp_path / "server", accounts=(AccountSettings(username=name),)):
            pass
    assert {file.name for file in (tmp_path / "server").iterdir()} == {".gitignore", "lock"}


async def test_tokens_are_shown_on_a_terminal_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log has the commands that read them; the same for one that no server has made.

    `--data .` takes a person's file of this name for it, which may hold his token of the platform.
    """
    (tmp_path / "token").write_text("a person's own")
    settings = ServerSettings(data_dir=tmp_path, accounts=(AccountSettings(username="Bob"),))
    async with open_server(settings) as server:
        made, kept, bobs = server.tokens["Bob"], tmp_path / "token", tmp_path / "token.bob"
        assert bobs.read_text().strip() == made
        _show(server, settings)
        logged = capsys.readouterr().err
        assert f"token    cat {kept}\n" in logged
        assert f"account  Bob, token: cat {bobs}\n" in logged
        assert made not in logged
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        _show(server, settings)
        shown = capsys.readouterr().err
        assert f"account  Bob, token: {made}\n" in shown
        assert "own" not in shown.replace(str(tmp_path), "")
