"""Endpoints of request queues."""

from typing import Any

import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.accounts.rate_limits import PER_QUEUE_BATCH, PER_START
from batchrun.server.api.addresses import own_storage_of, storage_of
from batchrun.server.api.storage_endpoints import StorageEndpoints
from batchrun.server.content.request_bodies import MAX_BODY_BYTES, parse_json
from batchrun.server.error_answers import request_invalid, thing_missing, value_invalid
from batchrun.server.ids import iso, new_id, now_ms
from batchrun.server.routing.call import Call, data_answer, empty_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.store import request_table, storage_table
from batchrun.server.store.request_table import Registration
from batchrun.server.store.storage_table import Kind, Storage

#: Max requests in one batch, in one list, at the head, and locked at once. Source: the request queue page.
_MAX_BATCH, _MAX_LIST, _MAX_HEAD, _MAX_LOCKED_HEAD = 25, 10_000, 1000, 25
#: Max bytes of requests in one list, which is in memory as a whole.
_MAX_LIST_BYTES = MAX_BODY_BYTES
#: Max seconds of a lock, 30 days; longer ones are clamped. Keeps arithmetic finite.
_MAX_LOCK_S = 30 * 24 * 3600


def _describe(call: Call, storage: Storage) -> JsonObject:
    return {
        "totalRequestCount": storage.count,
        "handledRequestCount": storage.clean_count,
        "pendingRequestCount": storage.count - storage.clean_count,
        "hadMultipleClients": bool(storage.is_shared),
        "consoleUrl": f"{call.backend.base_url}/v2/request-queues/{storage.id}",
        "stats": {
            "writeCount": storage.writes,
            "readCount": storage.reads,
            "deleteCount": storage.deletes,
            "headItemReadCount": 0,
            "storageBytes": storage.bytes,
        },
    }


_ENDPOINTS = StorageEndpoints(Kind.REQUEST_QUEUE, "request-queue-name-not-unique", _describe)


def add_routes(table: RouteTable) -> None:
    for one in _ENDPOINTS.add_routes(table, "/v2/request-queues", "request-queue"):
        table.add("GET", f"{one}/head", get_head, needs_token=False, reads_much=True)
        table.add("POST", f"{one}/head/lock", lock_head, per_s=PER_QUEUE_BATCH, reads_much=True)
        table.add("GET", f"{one}/requests", list_requests, needs_token=False, reads_much=True)
        table.add("POST", f"{one}/requests", add_request, per_s=PER_START)
        table.add("POST", f"{one}/requests/batch", add_batch, per_s=PER_QUEUE_BATCH)
        table.add("DELETE", f"{one}/requests/batch", delete_batch, per_s=PER_QUEUE_BATCH)
        table.add("POST", f"{one}/requests/unlock", unlock_all)
        request = f"{one}/requests/{{request}}"
        table.add("GET", request, get_request, per_s=PER_START, needs_token=False, reads_much=True)
        table.add("PUT", request, update_request, per_s=PER_START)
        table.add("DELETE", request, delete_request, per_s=PER_START)
        table.add("PUT", f"{request}/lock", prolong_lock, per_s=PER_START)
        table.add("DELETE", f"{request}/lock", delete_lock, per_s=PER_START)


async def _queue(call: Call) -> Storage:
    return await _shared_with(call, await storage_of(call, Kind.REQUEST_QUEUE))


def _note_reads(call: Call, queue: Storage, count: int) -> None:
    """Count a read per request of an answer, and one for an answer without any."""
    call.backend.final_usage.reads.note(queue.id, reads=max(count, 1))


def _client_of(call: Call) -> str:
    """Return the client of a call: without a key, each call is a new client. Source: the API reference."""
    return call.query.text("clientKey") or new_id()


async def _own_queue(call: Call) -> Storage:
    return await _shared_with(call, await own_storage_of(call, Kind.REQUEST_QUEUE))


async def _shared_with(call: Call, queue: Storage) -> Storage:
    """Note the client of the call and return the queue. A second client makes the queue shared for good."""
    if queue.is_shared or not call.is_by(queue.user_id):
        return queue
    client = _client_of(call)
    if queue.client == client:
        return queue
    await call.backend.database.write(storage_table.note_client, queue, client)
    return await storage_of(call, Kind.REQUEST_QUEUE)


def _checked(value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise request_invalid("A request must be an object")
    url, unique_key = value.get("url"), value.get("uniqueKey", value.get("url"))
    if not isinstance(url, str) or not isinstance(unique_key, str) or not url or not unique_key:
        raise request_invalid("A request needs a url and a uniqueKey that are strings")
    return {**value, "uniqueKey": unique_key}


def _shown(registration: Registration) -> JsonObject:
    return {
        "requestId": registration.id,
        "wasAlreadyPresent": registration.was_present,
        "wasAlreadyHandled": registration.was_handled,
    }


async def add_request(call: Call) -> web.Response:
    (added,) = await _add(call, await _own_queue(call), [await call.json_object()])
    return data_answer(_shown(added), 201)


async def add_batch(call: Call) -> web.Response:
    added = await _add(call, await _own_queue(call), await _batch(call))
    processed = [{**_shown(registration), "uniqueKey": registration.unique_key} for registration in added]
    return data_answer({"processedRequests": processed, "unprocessedRequests": []}, 201)


async def _add(call: Call, queue: Storage, values: list[Any]) -> list[Registration]:
    docs, to_front = [_checked(value) for value in values], call.query.boolean("forefront")
    return await call.backend.database.write(request_table.add, queue.seq, docs, to_front, now_ms())


async def delete_batch(call: Call) -> web.Response:
    queue, values = await _own_queue(call), await _batch(call)
    ids = [_id_of(value) for value in values]
    client = _client_of(call)
    await call.backend.database.write(request_table.delete, queue.seq, ids, client, now_ms())
    return data_answer({"processedRequests": values, "unprocessedRequests": []})


async def _batch(call: Call) -> list[Any]:
    values = parse_json(await call.body())
    if not isinstance(values, list) or not 1 <= len(values) <= _MAX_BATCH:
        raise request_invalid(f"The body must be an array of 1 to {_MAX_BATCH} requests")
    return values


def _id_of(value: Any) -> str:
    given = value if isinstance(value, dict) else {}
    if isinstance(given.get("id"), str):
        return str(given["id"])
    if isinstance(given.get("uniqueKey"), str):
        return request_table.request_id_of(given["uniqueKey"])
    raise request_invalid("Each request must be named by its id or its uniqueKey")


async def list_requests(call: Call) -> web.Response:
    """List requests by id, in pages; `filter` selects locked or pending ones.

    A page is shorter than requested if its requests are large: clients read on while there is a `nextCursor`.
    """
    queue = await _queue(call)
    limit = call.query.integer("limit", maximum=_MAX_LIST) or _MAX_LIST
    after_id = call.query.text("cursor") or call.query.text("exclusiveStartId") or ""
    states = call.query.names("filter")
    if unknown := [state for state in states if state not in request_table.STATES]:
        raise value_invalid(f"Parameter filter must hold {' or '.join(request_table.STATES)}, not {unknown[0]}")
    if states and call.query.text("exclusiveStartId"):
        raise value_invalid("Parameters filter and exclusiveStartId cannot be used together")
    found, is_more = await call.backend.database.read(
        request_table.page, queue.seq, after_id, limit, _MAX_LIST_BYTES, states, now_ms()
    )
    _note_reads(call, queue, len(found))
    answer: JsonObject = {"items": [orjson.Fragment(doc) for _, doc in found], "limit": limit}
    if after_id:
        answer["exclusiveStartId"] = after_id
    if is_more:
        answer["nextCursor"] = found[-1][0]
    return data_answer(answer)


async def get_request(call: Call) -> web.Response:
    queue = await _queue(call)
    doc = await call.backend.database.read(request_table.read, queue.seq, call.path["request"])
    if doc is None:
        raise thing_missing("Request")
    _note_reads(call, queue, 1)
    return data_answer(orjson.Fragment(doc))


async def update_request(call: Call) -> web.Response:
    """Change a request. With `handledAt` it is handled, without it is pending again."""
    queue, given = await _own_queue(call), _checked(await call.json_object())
    doc = {**given, "id": call.path["request"]}
    to_front, client = call.query.boolean("forefront"), _client_of(call)
    changed = await call.backend.database.write(request_table.update, queue.seq, doc, to_front, client, now_ms())
    if call.live is not None and doc.get("handledAt"):
        call.live.last_save.has_handled = True
    return data_answer(_shown(changed))


async def delete_request(call: Call) -> web.Response:
    queue, client = await _own_queue(call), _client_of(call)
    await call.backend.database.write(request_table.delete, queue.seq, [call.path["request"]], client, now_ms())
    return empty_answer()


async def get_head(call: Call) -> web.Response:
    queue = await _queue(call)
    limit = call.query.integer("limit", maximum=_MAX_HEAD) or _MAX_HEAD
    docs = await call.backend.database.read(request_table.head, queue.seq, limit, _MAX_LIST_BYTES, now_ms())
    _note_reads(call, queue, len(docs))
    return data_answer(_head(queue, limit, docs))


async def lock_head(call: Call) -> web.Response:
    queue, client, lock_s = await _own_queue(call), _client_of(call), _lock_s(call)
    limit = call.query.integer("limit", maximum=_MAX_LOCKED_HEAD) or _MAX_LOCKED_HEAD
    until_ms = now_ms() + lock_s * 1000
    docs, is_any_locked = await call.backend.database.write(
        request_table.lock_head, queue.seq, limit, _MAX_LIST_BYTES, client, now_ms(), until_ms
    )
    items = [{**doc, "lockExpiresAt": iso(until_ms)} for doc in docs]
    _note_reads(call, queue, len(docs))
    answer = _head(queue, limit, items) | {"lockSecs": lock_s, "queueHasLockedRequests": is_any_locked}
    return data_answer(answer | {"clientKey": client}, 201)


def _head(queue: Storage, limit: int, items: list[JsonObject]) -> JsonObject:
    modified_at = iso(queue.modified_ms)
    return {"limit": limit, "queueModifiedAt": modified_at, "hadMultipleClients": bool(queue.is_shared), "items": items}


def _lock_s(call: Call) -> int:
    lock_s = call.query.integer("lockSecs", maximum=_MAX_LOCK_S)
    if lock_s == 0:
        raise request_invalid("Parameter lockSecs is required and must be a positive whole number")
    return lock_s


async def prolong_lock(call: Call) -> web.Response:
    queue, until_ms = await _own_queue(call), now_ms() + _lock_s(call) * 1000
    await _set_lock(call, queue, until_ms)
    return data_answer({"lockExpiresAt": iso(until_ms)})


async def delete_lock(call: Call) -> web.Response:
    await _set_lock(call, await _own_queue(call), 0)
    return empty_answer()


async def _set_lock(call: Call, queue: Storage, until_ms: int) -> None:
    to_front, client = call.query.boolean("forefront"), _client_of(call)
    await call.backend.database.write(
        request_table.set_lock, queue.seq, call.path["request"], to_front, client, now_ms(), until_ms
    )


async def unlock_all(call: Call) -> web.Response:
    queue, client = await _own_queue(call), _client_of(call)
    unlocked = await call.backend.database.write(request_table.unlock_all, queue.seq, client, now_ms())
    return data_answer({"unlockedCount": unlocked})
