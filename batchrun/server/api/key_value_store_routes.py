"""Endpoints of key-value stores."""

from collections.abc import AsyncIterator
from urllib.parse import quote

import anyio.to_thread
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.runtime.content_security import STRANGER_POLICY, is_played
from batchrun.server.accounts.rate_limits import PER_RECORD
from batchrun.server.api.addresses import own_storage_of, storage_id_of, storage_of
from batchrun.server.api.storage_endpoints import StorageEndpoints, signing_key, signing_property, storage_query
from batchrun.server.api.value_answers import read_value, value_answer
from batchrun.server.content.body_spool import LARGE_BYTES, BodySpool
from batchrun.server.content.query_parameters import MAX_LIST_LIMIT
from batchrun.server.content.url_signatures import is_signed_as_storage, record_signature
from batchrun.server.content.zip_stream import ZipStream
from batchrun.server.error_answers import record_key_invalid, thing_missing
from batchrun.server.names import check_record_key
from batchrun.server.routing.call import Call, data_answer, empty_answer, raw_answer, stream_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.store import stored_value_table
from batchrun.server.store.storage_table import Kind, Storage


def _describe(call: Call, storage: Storage) -> JsonObject:
    url, secret = f"{call.backend.base_url}/v2/key-value-stores/{storage.id}", signing_key(call, storage)
    query = storage_query(secret, storage)
    return {
        "consoleUrl": url,
        "keysPublicUrl": f"{url}/keys{query}",
        "recordsPublicUrl": f"{url}/records{query}",
        **signing_property(secret),
        "schema": None,
        "stats": {
            "readCount": storage.reads,
            "writeCount": storage.writes,
            "deleteCount": storage.deletes,
            "listCount": storage.lists,
            "storageBytes": storage.bytes,
        },
    }


_ENDPOINTS = StorageEndpoints(Kind.KEY_VALUE_STORE, "key-value-store-name-not-unique", _describe)


def add_routes(table: RouteTable) -> None:
    for one in _ENDPOINTS.add_routes(table, "/v2/key-value-stores", "key-value-store"):
        table.add("GET", f"{one}/keys", list_keys, needs_token=False)
        table.add("GET", f"{one}/records", download_records, needs_token=False)
        record = f"{one}/records/{{key}}"
        table.add("GET", record, get_record, per_s=PER_RECORD, needs_token=False)
        table.add("PUT POST", record, put_record, per_s=PER_RECORD)
        table.add("DELETE", record, delete_record, per_s=PER_RECORD)


async def list_keys(call: Call) -> web.Response:
    store = await storage_of(call, Kind.KEY_VALUE_STORE, takes_signature=True)
    call.backend.final_usage.reads.note(store.id, lists=1)
    after, prefix = call.query.text("exclusiveStartKey") or "", call.query.text("prefix") or ""
    limit = call.query.integer("limit", maximum=MAX_LIST_LIMIT) or MAX_LIST_LIMIT
    found = await call.backend.database.read(stored_value_table.keys, store.seq, after, prefix, limit + 1)
    shown, is_truncated, secret = found[:limit], len(found) > limit, signing_key(call, store)
    return data_answer(
        {
            "items": [_key(call, store, key, size, secret) for key, size in shown],
            "count": len(shown),
            "limit": limit,
            "exclusiveStartKey": after or None,
            "isTruncated": is_truncated,
            "nextExclusiveStartKey": shown[-1][0] if is_truncated else None,
        }
    )


def _key(call: Call, store: Storage, key: str, size: int, secret: str | None) -> JsonObject:
    url = _record_url(call, store.id, key)
    if secret is not None:
        url += f"?signature={record_signature(secret, key)}"
    return {"key": key, "size": size, "recordPublicUrl": url}


def _record_url(call: Call, store_id: str, key: str) -> str:
    return f"{call.backend.base_url}/v2/key-value-stores/{store_id}/records/{quote(key, safe='')}"


async def get_record(call: Call) -> web.StreamResponse:
    store_id, key = await storage_id_of(call, Kind.KEY_VALUE_STORE), check_record_key(call.path["key"])
    stored = await read_value(call, store_id, key)
    if stored is None:
        raise thing_missing("Record")
    call.backend.final_usage.reads.note(store_id, reads=1)
    headers = _player_headers(call, stored[0])
    if call.query.boolean("attachment"):
        headers["Content-Disposition"] = f'attachment; filename="{key}"'
    return await value_answer(call, *stored, headers=headers)


def _player_headers(call: Call, content_type: str) -> dict[str, str]:
    """Return what lets a browser play a sound or video that is opened by itself: it loads it a second time.

    It may load this address alone: another one of this server can start a Run, which says who looks at the value.
    """
    if not is_played(content_type):
        return {}
    address = f"{call.request.host}{quote(call.request.path)}"
    return {"Content-Security-Policy": f"{STRANGER_POLICY}; media-src {address}"}


async def download_records(call: Call) -> web.StreamResponse:
    """Answer with a ZIP archive of the records, piece by piece, so that no whole record is in memory."""
    store = await storage_of(call, Kind.KEY_VALUE_STORE, takes_signature=True)
    prefix = call.query.text("prefix") or ""
    headers = {"Content-Type": "application/zip", "Content-Disposition": f'attachment; filename="{store.id}.zip"'}
    return await stream_answer(call, _archived(call, store, prefix), 200, headers)


async def _archived(call: Call, store: Storage, prefix: str) -> AsyncIterator[bytes]:
    archive = ZipStream()
    async for key in _all_keys(call, store, prefix):
        stored = await read_value(call, store.id, key)
        if stored is not None:
            call.backend.final_usage.reads.note(store.id, reads=1)
            yield archive.begin(key)
            async for piece in _pieces(stored[1]):
                yield await anyio.to_thread.run_sync(archive.write, piece)
    yield archive.close()


async def _pieces(body: bytes | BodySpool) -> AsyncIterator[bytes]:
    if isinstance(body, bytes):
        yield body
        return
    for start in range(0, body.size, LARGE_BYTES):
        yield await anyio.to_thread.run_sync(body.piece, start)


async def _all_keys(call: Call, store: Storage, prefix: str) -> AsyncIterator[str]:
    after = ""
    while found := await call.backend.database.read(stored_value_table.keys, store.seq, after, prefix, MAX_LIST_LIMIT):
        for key, _ in found:
            yield key
        after = found[-1][0]


async def put_record(call: Call) -> web.Response:
    """Store the decompressed body with its content type. A large body arrives in a file."""
    store_id, key = await storage_id_of(call, Kind.KEY_VALUE_STORE), check_record_key(call.path["key"])
    if is_signed_as_storage(key, store_id):
        raise record_key_invalid("the store's own id in it would make its signed URL one of the whole store")
    content_type = call.header("Content-Type") or "application/octet-stream"
    user_id, body = call.user.id, await call.body_or_spool()
    if isinstance(body, bytes):
        await call.backend.database.write(stored_value_table.put, store_id, user_id, key, content_type, body)
    else:
        await _put_large(call, body, store_id, user_id, key, content_type)
    if call.live is not None:
        call.live.last_save.note_stored()
    return raw_answer(b"{}", 201, headers={"Location": _record_url(call, store_id, key)})


async def _put_large(call: Call, body: BodySpool, *names: str) -> None:
    try:
        # Closed right after the commit, even if the caller has hung up. Not earlier: a transaction may be repeated.
        await call.backend.database.write(stored_value_table.put, *names, body, then=lambda _: body.close())
    except Exception:
        body.close()
        raise


async def delete_record(call: Call) -> web.Response:
    """Delete a key, which need not exist."""
    store, key = await own_storage_of(call, Kind.KEY_VALUE_STORE), check_record_key(call.path["key"])
    await call.backend.database.write(stored_value_table.delete, store.seq, key)
    return empty_answer()
