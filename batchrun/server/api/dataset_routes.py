"""Endpoints of datasets."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.accounts.rate_limits import PER_START
from batchrun.server.api.addresses import storage_id_of, storage_of
from batchrun.server.api.dataset_item_answers import items_answer
from batchrun.server.api.storage_endpoints import StorageEndpoints, signing_key, signing_property, storage_query
from batchrun.server.content.item_json import dump_item, load_with_half_pairs, may_hold_half_pairs
from batchrun.server.content.request_bodies import json_kind, load_json
from batchrun.server.error_answers import request_invalid
from batchrun.server.routing.call import Call, data_answer, raw_answer
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.store import item_table
from batchrun.server.store.storage_table import Kind, Storage

#: Max items of a push that are written as JSON on the event loop; more use a thread.
_INLINE_ITEMS = 1000


def _describe(call: Call, storage: Storage) -> JsonObject:
    base_url, secret = call.backend.base_url, signing_key(call, storage)
    return {
        "itemCount": storage.count,
        "cleanItemCount": storage.clean_count,
        "fields": [],
        "schema": None,
        "consoleUrl": f"{base_url}/v2/datasets/{storage.id}",
        "itemsPublicUrl": f"{base_url}/v2/datasets/{storage.id}/items{storage_query(secret, storage)}",
        **signing_property(secret),
        "stats": {
            "readCount": storage.reads,
            "writeCount": storage.writes,
            "storageBytes": storage.bytes,
            "inflatedBytes": storage.bytes,
        },
    }


_ENDPOINTS = StorageEndpoints(Kind.DATASET, "dataset-name-not-unique", _describe)


def add_routes(table: RouteTable) -> None:
    for one in _ENDPOINTS.add_routes(table, "/v2/datasets", "dataset"):
        table.add("GET", f"{one}/items", list_items, needs_token=False)
        table.add("POST", f"{one}/items", push_items, per_s=PER_START)
        table.add("GET", f"{one}/statistics", get_statistics)


async def list_items(call: Call) -> web.StreamResponse:
    return await items_answer(call, await storage_id_of(call, Kind.DATASET))


async def push_items(call: Call) -> web.Response:
    """Append one item or an array of them, all or none.

    They are parsed as a whole, so they are in memory for a moment: up to 9 MB, the documented limit of a push.
    """
    dataset_id, body = await storage_id_of(call, Kind.DATASET), await call.body()
    try:
        value = await _parsed(call, body)
    except ValueError as error:
        raise request_invalid(f"The body is not valid JSON: {error}") from None
    pushed: list[Any] = value if isinstance(value, list) else [value]
    for item in pushed:
        if not isinstance(item, dict):
            raise request_invalid(f'Dataset items must be objects, got "{json_kind(item)}" instead')
    bodies, clean = await _dumped(call, pushed), sum(1 for item in pushed if item)
    async with call.live.last_save.pushing() if call.live is not None else nullcontext():
        await call.backend.database.write(item_table.append, dataset_id, call.user.id, bodies, clean)
        await call.backend.runs.charge_items(dataset_id, len(bodies))
    location = f"{call.backend.base_url}/v2/datasets/{dataset_id}/items"
    return raw_answer(b"{}", 201, headers={"Location": location})


async def _parsed(call: Call, body: bytes) -> Any:
    try:
        return load_json(body)
    except orjson.JSONDecodeError:
        if not may_hold_half_pairs(body):
            raise
        return await call.aside(lambda: load_with_half_pairs(body))


async def _dumped(call: Call, items: Sequence[JsonObject]) -> list[bytes]:
    if len(items) <= _INLINE_ITEMS:
        return [*map(dump_item, items)]
    return await call.aside(lambda: [*map(dump_item, items)])


async def get_statistics(call: Call) -> web.Response:
    """Show statistics of fields: there are none without a dataset schema."""
    await storage_of(call, Kind.DATASET)
    return data_answer({"fieldStatistics": {}})
