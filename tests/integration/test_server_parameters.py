"""Parameters that few requests have, and headers that every answer has."""

from typing import Any

import pytest

from batchrun.server import InlineContext
from batchrun.server.settings import AccountSettings
from tests.support.server_api import ACTORS, Api


async def paint(context: InlineContext) -> None:
    """Log as a terminal is written to."""
    await context.log("\x1b[31mred\x1b[0m and \x1b]0;title\x07plain")


SERVER = {
    "actors": (ACTORS,),
    "inline_actors": {"test/paint": paint},
    "accounts": (AccountSettings(username="bob", token="b"),),
}


async def _dataset(api: Api, items: Any) -> str:
    created = (await api.send("POST", "/v2/datasets")).data["id"]
    assert (await api.send("POST", f"/v2/datasets/{created}/items", items)).status == 201
    return f"/v2/datasets/{created}/items"


async def test_every_answer_tells_its_rate_limit_and_lets_scripts_read_it(api: Api) -> None:
    """Successes, streams, refusals of all sorts, and what is no endpoint."""
    long = await _dataset(api, [{"n": n} for n in range(1500)])
    run = (await api.send("POST", "/v2/actors/test~paint/runs", waitForFinish=60)).data
    for method, path, status, per_s in (
        ("GET", "/v2/users/me", 200, "60"),
        ("GET", long, 200, "60"),
        ("GET", f"{long}?format=csv", 200, "60"),
        ("GET", f"/v2/logs/{run['id']}", 200, "60"),
        ("POST", long, 400, "400"),
        ("POST", "/v2/actor-tasks/none/runs", 404, "400"),
        ("GET", f"/v2/key-value-stores/{run['defaultKeyValueStoreId']}/records/NONE", 404, "200"),
        ("POST", "/v2/actors", 403, "60"),
        ("PATCH", "/v2/actors", 405, "60"),
        ("GET", "/v2/nothing", 404, "60"),
        ("OPTIONS", "/v2/actor-tasks", 204, "60"),
    ):
        answer = await api.send(method, path)
        assert (answer.status, answer.headers["X-RateLimit-Limit"]) == (status, per_s), path
        assert answer.headers["Access-Control-Allow-Origin"] == "*", path
        assert "X-RateLimit-Limit" in answer.headers["Access-Control-Expose-Headers"], path
    refused = await api.send("GET", "/v2/users/me", token="wrong")
    assert (refused.status, refused.headers["X-RateLimit-Limit"]) == (401, "60")


async def test_an_account_is_not_slowed_down_by_another(api: Api) -> None:
    """Each has its own list of tasks, and its own limit on asking for it."""
    mine = {(await api.get("/v2/actor-tasks")).status for _ in range(200)}
    assert mine == {200, 429}
    assert (await api.send("GET", "/v2/actor-tasks", token="b")).status == 200


async def test_logs_come_without_escape_codes_unless_they_are_wanted(api: Api) -> None:
    """`raw=1` leaves them in."""
    run = (await api.send("POST", "/v2/actors/test~paint/runs", waitForFinish=60)).data
    plain, raw = await api.get(f"/v2/logs/{run['id']}"), await api.get(f"/v2/actor-runs/{run['id']}/log?raw=1")
    assert plain.body.splitlines()[-1][25:] == b"red and plain"
    assert raw.body.splitlines()[-1][25:] == b"\x1b[31mred\x1b[0m and \x1b]0;title\x07plain"


async def test_items_as_the_old_crawler_showed_them(api: Api) -> None:
    """`simplified` and `skipFailedPages`."""
    good = {"url": "u", "pageFunctionResult": {"title": "t"}, "loadedAt": 1}
    bad = {"url": "v", "errorInfo": "no"}
    path = await _dataset(api, [good, bad])
    assert (await api.get(path, simplified=1)).body == [{"url": "u", "title": "t"}, bad]
    assert (await api.get(path, simplified=1, skipFailedPages=1)).body == [{"url": "u", "title": "t"}]
    assert (await api.get(path, skipFailedPages="true")).body == [good]


async def test_requests_are_listed_by_their_state(api: Api) -> None:
    """Locked, pending, or both; what is handled is in neither."""
    queue = f"/v2/request-queues/{(await api.send('POST', '/v2/request-queues')).data['id']}"
    for name in ("a", "b", "c"):
        request = {"url": f"http://{name}.test", "uniqueKey": name}
        await api.send("POST", f"{queue}/requests", request | ({"handledAt": "2026-01-01"} if name == "c" else {}))
    locked = (await api.send("POST", f"{queue}/head/lock", lockSecs=60, limit=1)).data["items"]
    assert [request["uniqueKey"] for request in locked] == ["a"]

    async def listed(**query: str) -> list[str]:
        items = (await api.get(f"{queue}/requests", **query)).data["items"]
        return sorted(request["uniqueKey"] for request in items)

    assert await listed() == ["a", "b", "c"]
    assert (await listed(filter="locked"), await listed(filter="pending")) == (["a"], ["b"])
    assert await listed(filter="locked,pending") == ["a", "b"]
    for query in ({"filter": "handled"}, {"filter": "locked", "exclusiveStartId": "x"}):
        assert (await api.get(f"{queue}/requests", **query)).refusal == (400, "invalid-value")


@pytest.mark.parametrize("kind", ["datasets", "key-value-stores", "request-queues"])
async def test_storages_are_listed_by_ownership(api: Api, kind: str) -> None:
    """One's own; none is shared by being listed."""
    await api.send("POST", f"/v2/{kind}", name="mine")
    totals = [(await api.get(f"/v2/{kind}", ownership=one)).data["total"] for one in ("ownedByMe", "sharedWithMe")]
    assert totals == [1, 0]
    assert (await api.get(f"/v2/{kind}", ownership="others")).status == 400


async def test_actors_are_listed_by_owner_and_use(api: Api) -> None:
    """`my` leaves out those of others, `sortBy` goes by the last Run; both count Runs truly."""

    async def listed(**query: Any) -> list[str]:
        return [actor["name"] for actor in (await api.get("/v2/actors", **query)).data["items"]]

    assert "hello-world" in await listed()
    mine = await listed(my=1)
    assert "acrobat" in mine
    assert not {"hello-world", "paint", "echo"} & set(mine)
    before = ""
    for actor in ("echo", "paint"):
        run = {"startedAt": before}
        while run["startedAt"] <= before:  # start times have milliseconds only
            run = (await api.send("POST", f"/v2/actors/test~{actor}/runs", {}, waitForFinish=60)).data
        before = run["startedAt"]
    assert (await listed(sortBy="stats.lastRunStartedAt", desc=1))[:2] == ["paint", "echo"]
    stats = (await api.get("/v2/actors/test~paint")).data["stats"]
    last = (await api.get("/v2/actors/test~paint/runs/last")).data
    runs = (await api.get("/v2/actors/test~paint/runs")).data["total"]
    assert (stats["totalRuns"], stats["lastRunStartedAt"]) == (runs, last["startedAt"])
    assert (await api.get("/v2/actors", sortBy="name")).status == 400


async def test_a_run_cannot_be_limited_where_limits_do_not_hold(api: Api) -> None:
    """Asked for, limited permissions are refused, not pretended."""
    path = "/v2/actors/test~echo/runs"
    assert (await api.send("POST", path, {}, forcePermissionLevel="FULL_PERMISSIONS")).status == 201
    refused = await api.send("POST", path, {}, forcePermissionLevel="LIMITED_PERMISSIONS")
    assert (refused.status, refused.error_type) == (400, "invalid-value")
