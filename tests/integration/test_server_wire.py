"""The server's manners: tokens, errors, methods, bodies, limits."""

import gzip
import zlib
from pathlib import Path

import brotli  # type: ignore[import-untyped]  # it ships neither stubs nor a marker
import orjson
import pytest

from batchrun.errors import OutputError
from tests.support.server_api import Api, open_api

MAX_BODY_BYTES = 9_437_184


async def test_a_token_is_needed_and_must_be_right(api: Api) -> None:
    """401 with the type for a missing and the one for a wrong token; the query takes one too."""
    assert (await api.send("GET", "/v2/users/me", token=None)).refusal == (401, "token-not-provided")
    for wrong in ("x", "batchrun_run_abc_def", "ünïcode", api.server.token + "x"):
        answer = await api.send("GET", "/v2/users/me", token=None, headers={"Authorization": f"Bearer {wrong}"})
        assert (answer.status, answer.error_type) == (401, "user-or-token-not-found")
    answer = await api.send("GET", f"/v2/users/me?token={api.server.token}", token=None)
    assert (answer.status, answer.data["username"]) == (200, "local")


async def test_names_lists_and_writes_need_a_token(api: Api) -> None:
    """401 for all but what an id opens."""
    run = (await api.start(await api.create_task(name="open"), {"n": 1}, waitForFinish=60)).data
    store = f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}/records/OUTPUT"
    assert (await api.send("GET", store, token=None)).body == {"n": 1}
    for method, path in [
        ("PUT", store),
        ("GET", "/v2/actor-runs"),
        ("GET", "/v2/datasets/~mine/items"),
        ("POST", f"/v2/actor-runs/{run['id']}/abort"),
        ("GET", f"/v2/actor-tasks/{run['actorTaskId']}"),
        ("GET", f"/v2/actor-tasks/{run['actorTaskId']}/runs/last"),
        ("GET", f"/v2/actor-tasks/{run['actorTaskId']}/runs/last/dataset/items"),
    ]:
        assert (await api.send(method, path, token=None)).status == 401, (method, path)


async def test_unknown_routes_and_methods_are_told_apart(api: Api) -> None:
    """404 for no endpoint, 405 with the allowed methods for a wrong one."""
    assert (await api.get("/v2/nothing")).refusal == (404, "page-not-found")
    answer = await api.send("PATCH", "/v2/actor-tasks")
    assert (answer.status, answer.error_type, answer.headers["Allow"]) == (405, "method-not-allowed", "GET, POST")
    assert "GET, POST" in answer.body["error"]["message"]


async def test_a_get_may_stand_for_another_method(api: Api) -> None:
    """`?method=POST` starts a Run, `?method=DELETE` deletes."""
    task = await api.create_task(name="tunnel")
    assert (await api.get(f"/v2/actor-tasks/{task}/runs?method=POST")).status == 201
    assert (await api.get(f"/v2/actor-tasks/{task}?method=delete")).status == 204


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("br", brotli.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body, wbits=-15)),
        ("identity", bytes),
    ],
)
async def test_bodies_may_be_compressed(api: Api, encoding: str, encode: object) -> None:
    """gzip, br, deflate with and without its header, and none."""
    task = await api.create_task(name="packed")
    raw = encode(orjson.dumps({"n": "ü" * 5000}))  # type: ignore[operator]  # parametrised
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    answer = await api.send("POST", f"/v2/actor-tasks/{task}/run-sync", raw=raw, headers=headers)
    assert (answer.status, answer.body) == (201, {"n": "ü" * 5000})


@pytest.mark.parametrize(
    ("encoding", "raw", "status", "error_type"),
    [
        ("zstd", b"x", 415, "unsupported-content-encoding"),
        ("gzip, br", brotli.compress(gzip.compress(b"{}", mtime=0)), 415, "unsupported-content-encoding"),
        ("gzip", b"not gzip", 400, "invalid-request"),
        ("gzip", gzip.compress(b"{}" * 99, mtime=0)[:-9], 400, "invalid-request"),
        ("br", b"\xff\xff\xff", 400, "invalid-request"),
        ("br", brotli.compress(b"{}" * 999, quality=1)[:-2], 400, "invalid-request"),
        ("deflate", b"?", 400, "invalid-request"),
        ("gzip", gzip.compress(b" " * (MAX_BODY_BYTES + 1), 1, mtime=0), 413, "request-too-large"),
        ("br", brotli.compress(b" " * (MAX_BODY_BYTES + 1), quality=1), 413, "request-too-large"),
        ("deflate", zlib.compress(b" " * (MAX_BODY_BYTES + 1), 1), 413, "request-too-large"),
        ("identity", b" " * (MAX_BODY_BYTES + 1), 413, "request-too-large"),
    ],
)
async def test_bodies_that_cannot_be_read_are_refused(
    api: Api, encoding: str, raw: bytes, status: int, error_type: str
) -> None:
    """Unknown encodings, several, damaged bodies, and those above the limit after decompression; nothing is started."""
    task = await api.create_task(name="packed")
    path = f"/v2/actor-tasks/{task}/runs"
    answer = await api.send("POST", path, raw=raw, headers={"Content-Encoding": encoding})
    assert (answer.status, answer.error_type, api.server.runs_started) == (status, error_type, 0)


async def test_a_body_of_exactly_the_limit_is_taken(api: Api) -> None:
    """9,437,184 bytes are stored and come back."""
    store = (await api.send("POST", "/v2/key-value-stores")).data["id"]
    path = f"/v2/key-value-stores/{store}/records/big"
    raw = bytes(MAX_BODY_BYTES)
    assert (await api.send("PUT", path, raw=raw)).status == 201
    assert (await api.get(path)).body == raw


async def test_rate_limits_are_announced_and_enforced(tmp_path: Path) -> None:
    """60 a second for one task, 400 for its starts; other resources are not concerned; it can be turned off."""
    async with open_api(tmp_path / "one") as api:
        task, other = await api.create_task(name="one"), await api.create_task(name="two")
        answers = [await api.get(f"/v2/actor-tasks/{task}") for _ in range(200)]
        refused = [answer for answer in answers if answer.status == 429]
        assert answers[0].headers["X-RateLimit-Limit"] == "60"
        assert [answer.status for answer in answers[:60]] == [200] * 60
        assert refused[0].error_type == "rate-limit-exceeded"
        assert (await api.get(f"/v2/actor-tasks/{other}")).status == 200
        assert (await api.start(task)).headers["X-RateLimit-Limit"] == "400"
    async with open_api(tmp_path / "two", is_rate_limited=False) as api:
        task = await api.create_task(name="one")
        answers = [await api.get(f"/v2/actor-tasks/{task}") for _ in range(200)]
        assert {answer.status for answer in answers} == {200}
        assert "X-RateLimit-Limit" not in answers[0].headers


async def test_the_account_shows_its_limits(tmp_path: Path) -> None:
    """What the settings say is what `users/me` and `users/me/limits` say."""
    async with open_api(tmp_path, max_total_memory_mb=4096, max_concurrent_runs=7, username="me-too") as api:
        me, limits = (await api.get("/v2/users/me")).data, (await api.get("/v2/users/me/limits")).data
    assert (me["username"], me["plan"]["maxConcurrentActorRuns"]) == ("me-too", 7)
    assert (limits["limits"]["maxActorMemoryGbytes"], limits["limits"]["maxConcurrentActorJobs"]) == (4, 7)


async def test_one_data_directory_takes_one_server(tmp_path: Path) -> None:
    """The second is refused."""
    async with open_api(tmp_path / "s"):
        with pytest.raises(OutputError, match="another server"):
            async with open_api(tmp_path / "s"):
                pass


async def test_a_taken_port_is_said_to_be(tmp_path: Path) -> None:
    """A clear error, no traceback of a socket."""
    async with open_api(tmp_path / "one") as api:
        port = int(api.server.base_url.rpartition(":")[2])
        with pytest.raises(OutputError, match=f"cannot listen on 127.0.0.1:{port}"):
            async with open_api(tmp_path / "two", port=port):
                pass


@pytest.mark.parametrize(
    "path",
    [
        "/v2/actor-runs/%2e%2e%2f%2e%2e%2fetc",
        "/v2/key-value-stores/x/records/..%2f..%2fetc%2fpasswd",
        "/v2/datasets/%00/items",
        "/v2/actor-tasks/%ff%fe",
        "/v2/logs/" + "a" * 3000,
        "/v2/actor-runs/ünïcode",
        "/demo/..%2fserver.sqlite3",
    ],
)
async def test_odd_addresses_are_not_found(api: Api, path: str) -> None:
    """4xx with an envelope, never a 5xx, never a file."""
    answer = await api.get(path)
    assert answer.status in (400, 404)
    assert answer.error_type in ("record-not-found", "page-not-found", "invalid-record-key")
