"""Request bodies that are JSON objects."""

import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.worker.http.error_envelope import Refused


async def read_object(request: web.Request) -> JsonObject:
    """Return a request's body.

    Raises:
        Refused: the body is not a JSON object.
    """
    try:
        found = orjson.loads(await request.read())
    except orjson.JSONDecodeError as error:
        raise Refused(400, "bad-value", f"the body is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused(400, "bad-value", "send a JSON object")
    return found
