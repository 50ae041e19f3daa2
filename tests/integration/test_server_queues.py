"""Request queues over HTTP."""

import base64
import hashlib
import re
from typing import Any

import pytest

from batchrun.server.api import request_queue_routes
from tests.support.server_api import Api

SERVER = {"is_rate_limited": False}


async def _queue(api: Api, *urls: str) -> str:
    path = f"/v2/request-queues/{(await api.send('POST', '/v2/request-queues')).data['id']}"
    if urls:
        added = await api.send("POST", f"{path}/requests/batch", [{"url": url, "uniqueKey": url} for url in urls])
        assert added.status == 201
    return path


async def _head(api: Api, path: str, **query: Any) -> list[str]:
    return [item["url"] for item in (await api.get(f"{path}/head", **query)).data["items"]]


async def test_a_request_is_added_once_under_the_id_that_clients_compute(api: Api) -> None:
    """The id is derived from the unique key; a second one with the key is said to be present."""
    path = await _queue(api)
    first = await api.send("POST", f"{path}/requests", {"url": "http://a", "uniqueKey": "http://example.com"})
    again = await api.send("POST", f"{path}/requests", {"url": "http://b", "uniqueKey": "http://example.com"})
    digest = base64.b64encode(hashlib.sha256(b"http://example.com").digest()).decode()
    request_id = re.sub("[+/=]", "", digest)[:15]
    assert first.data == {"requestId": request_id, "wasAlreadyPresent": False, "wasAlreadyHandled": False}
    assert again.data == {"requestId": request_id, "wasAlreadyPresent": True, "wasAlreadyHandled": False}
    assert (await api.get(f"{path}/requests/{request_id}")).data["url"] == "http://a"


async def test_the_head_is_in_order_and_the_forefront_comes_first(api: Api) -> None:
    """What was added first comes first; what was put to the front before it; what is handled no more."""
    path = await _queue(api, "a", "b", "c")
    await api.send("POST", f"{path}/requests/batch", [{"url": "x"}, {"url": "y"}], forefront="true")
    assert await _head(api, path) == ["x", "y", "a", "b", "c"]
    request = (await api.get(f"{path}/head", limit=1)).data["items"][0]
    handled = {"url": "x", "uniqueKey": "x", "handledAt": "2026-01-01T00:00:00.000Z"}
    assert (await api.send("PUT", f"{path}/requests/{request['id']}", handled)).data["wasAlreadyPresent"]
    assert await _head(api, path, limit=2) == ["y", "a"]
    counts = (await api.get(path)).data
    names = ("totalRequestCount", "handledRequestCount", "pendingRequestCount")
    assert [counts[name] for name in names] == [5, 1, 4]
    assert (await api.send("POST", f"{path}/requests", {"url": "x"})).data["wasAlreadyHandled"]


async def test_a_head_is_shorter_if_its_requests_are_large(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read whole; what is not shown is not locked."""
    monkeypatch.setattr(request_queue_routes, "_MAX_LIST_BYTES", 1_000)
    urls = [letter * 600 for letter in "abc"]
    path = await _queue(api, *urls)
    assert await _head(api, path) == urls[:1]
    for url in urls:
        locked = (await api.send("POST", f"{path}/head/lock", lockSecs=60, clientKey="me")).data
        assert [item["url"] for item in locked["items"]] == [url]


async def test_locked_requests_are_held_by_one_client(api: Api) -> None:
    """Another client gets the next ones, may not touch the first, and gets them when they are let go."""
    path = await _queue(api, "a", "b", "c")
    lock = f"{path}/head/lock"
    mine = (await api.send("POST", lock, lockSecs=60, limit=2, clientKey="me")).data
    assert [item["url"] for item in mine["items"]] == ["a", "b"]
    other = (await api.send("POST", lock, lockSecs=60, clientKey="you")).data
    assert ([item["url"] for item in other["items"]], other["queueHasLockedRequests"]) == (["c"], True)
    request = f"{path}/requests/{mine['items'][0]['id']}"
    for method, body in [("PUT", {"url": "a"}), ("DELETE", None)]:
        assert (await api.send(method, request, body, clientKey="you")).refusal == (403, "request-handled-or-locked")
    assert (await api.send("PUT", f"{request}/lock", lockSecs=90, clientKey="you")).status == 403
    assert (await api.send("PUT", f"{request}/lock", lockSecs=90, clientKey="me")).status == 200
    assert (await api.send("DELETE", f"{request}/lock", clientKey="me")).status == 204
    assert await _head(api, path) == ["a"]
    assert (await api.send("POST", f"{path}/requests/unlock", clientKey="me")).data == {"unlockedCount": 1}
    assert await _head(api, path) == ["a", "b"]


async def test_requests_are_listed_in_pages_and_deleted(api: Api) -> None:
    """A cursor leads through all of them; deleted by id or key they are gone."""
    path = await _queue(api, *(f"u{n}" for n in range(5)))
    page = (await api.get(f"{path}/requests", limit=3)).data
    rest = (await api.get(f"{path}/requests", cursor=page["nextCursor"])).data
    assert {item["url"] for item in page["items"] + rest["items"]} == {f"u{n}" for n in range(5)}
    assert "nextCursor" not in rest
    body = [{"id": page["items"][0]["id"]}, {"uniqueKey": page["items"][1]["uniqueKey"]}]
    assert (await api.send("DELETE", f"{path}/requests/batch", body)).status == 200
    assert (await api.get(path)).data["totalRequestCount"] == 3
    assert (await api.get(f"{path}/requests/{page['items'][0]['id']}")).error_type == "record-not-found"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("requests", {"url": 5}),
        ("requests", []),
        ("requests/batch", {}),
        ("requests/batch", []),
        ("requests/batch", [{"uniqueKey": "x"}]),
        ("requests/batch", [{"url": "x"}] * 26),
        ("head/lock", None),
    ],
)
async def test_what_is_no_request_is_refused(api: Api, path: str, body: Any) -> None:
    """400, and nothing is added."""
    queue = await _queue(api)
    assert (await api.send("POST", f"{queue}/{path}", body)).refusal == (400, "invalid-request")
    assert (await api.get(queue)).data["totalRequestCount"] == 0


async def test_a_list_of_large_requests_comes_in_pages(api: Api) -> None:
    """Shorter than asked for, so that no list fills the memory; the cursor leads to the rest."""
    queue = f"/v2/request-queues/{(await api.send('POST', '/v2/request-queues')).data['id']}/requests"
    for n in range(12):
        await api.send("POST", queue, {"url": "http://x", "uniqueKey": str(n), "payload": "x" * 1_000_000})
    first = (await api.get(queue, limit=100)).data
    rest = (await api.get(queue, limit=100, cursor=first["nextCursor"])).data
    assert (len(first["items"]), len(rest["items"])) == (9, 3)
    assert {item["uniqueKey"] for item in first["items"] + rest["items"]} == {str(n) for n in range(12)}
    assert "nextCursor" not in rest


async def test_a_call_without_a_client_key_is_a_new_client(api: Api) -> None:
    """Two calls of one key leave the queue with one client, two without a key do not; no lock is taken over."""
    path = (await api.send("POST", "/v2/request-queues")).data["id"]
    path = f"/v2/request-queues/{path}"
    for _ in range(2):
        await api.send("POST", f"{path}/requests", {"url": "a"}, clientKey="one")
    assert not (await api.get(path)).data["hadMultipleClients"]
    await api.get(f"{path}/head")
    assert (await api.get(path)).data["hadMultipleClients"]
    locked = (await api.send("POST", f"{path}/head/lock", lockSecs=60)).data
    request = f"{path}/requests/{locked['items'][0]['id']}"
    assert (await api.send("PUT", f"{request}/lock", lockSecs=60)).refusal == (403, "request-handled-or-locked")
    assert (await api.send("PUT", f"{request}/lock", lockSecs=60, clientKey=locked["clientKey"])).status == 200


async def test_locks_are_writes_and_a_list_reads_each_request(api: Api) -> None:
    """A write per request that is locked, prolonged or unlocked; a read per request of a list or a head."""
    path = await _queue(api, "a", "b", "c")
    locked = (await api.send("POST", f"{path}/head/lock", lockSecs=60, limit=2, clientKey="me")).data["items"]
    await api.send("PUT", f"{path}/requests/{locked[0]['id']}/lock", lockSecs=60, clientKey="me")
    assert (await api.send("POST", f"{path}/requests/unlock", clientKey="me")).data["unlockedCount"] == 2
    await api.get(f"{path}/requests")
    await api.get(f"{path}/head", limit=2)
    await api.server._backend.final_usage.finish_due(lambda _: None)
    stats = (await api.get(path)).data["stats"]
    assert (stats["writeCount"], stats["readCount"]) == (3 + 2 + 1 + 2, 2 + 3 + 2)
