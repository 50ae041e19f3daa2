"""Answers with stored values. A large value is copied from the database to a file, from which it is sent.

A slow reader thus gets the value as it was at the request, even if it is overwritten meanwhile, and keeps no
transaction of the database open.
"""

from collections.abc import Mapping

import anyio.to_thread
from aiohttp import web

from batchrun.server.api.access_rights import has_signature, may_read
from batchrun.server.content.body_spool import BodySpool
from batchrun.server.routing.call import Call, raw_answer, spool_answer
from batchrun.server.store import stored_value_table


async def read_value(call: Call, store_id: str, key: str) -> tuple[str, bytes | BodySpool] | None:
    """Return content type and value under a key, a large value as a spool; None if there is none."""
    directory = call.backend.settings.data_dir

    def is_permitted(access: str | None, owner_id: str) -> bool:
        return may_read(call, access, owner_id) or has_signature(call, store_id, key)

    return await call.backend.database.read(stored_value_table.read_for, store_id, key, is_permitted, directory)


async def value_answer(
    call: Call, content_type: str, body: bytes | BodySpool, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    if isinstance(body, BodySpool) and call.faults.needs_whole_answer:
        body = await anyio.to_thread.run_sync(body.take)
    if isinstance(body, BodySpool):
        return await spool_answer(call, body, status, {**(headers or {}), "Content-Type": content_type})
    return raw_answer(body, status, content_type, headers)
