"""Request bodies: received up to the limit, decompressed, and parsed.

A body that is not small goes to a file while it arrives, and is decompressed once it is complete, so that a slow or
hostile sender takes little memory. A body that must be parsed (an input, items, requests) is read from the file; a
stored value goes from the file to the database.
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.runtime.free_space import has_room
from batchrun.server.content.body_spool import BodySpool
from batchrun.server.content.content_encodings import Decoder, decoder_of
from batchrun.server.error_answers import body_too_large, body_too_slow, disk_full, request_invalid

#: Max bytes of a request's body, counted after decompression. Source: the API reference.
MAX_BODY_BYTES = 9_437_184
#: Max objects and lists in a body that is parsed: each takes 64 to 184 bytes of memory, and two of the body. 9 MB of
#: empty lists stop the event loop for seconds and take 190 MB.
MAX_PARTS = 1_000_000
#: Max announced bytes of a body that is read into memory at once, without a file.
SMALL_BYTES = 65_536
#: Timeout for the arrival of a body, in seconds: 9 MB at 79 KB/s.
BODY_TIMEOUT_S = 120


#: Calls a function in a thread.
Aside = Callable[[Callable[[], bytes | BodySpool]], Awaitable[bytes | BodySpool]]


async def receive_body(request: web.BaseRequest, directory: Path, aside: Aside) -> bytes | BodySpool:
    """Receive a body, decompressed, up to the limits. The caller must `take` or `close` a spool.

    `aside` calls in a thread, after a wait, what decompresses a body: a few at once take memory and time for it.
    """
    if not request.body_exists:
        return b""
    new_decoder = decoder_of(request.headers.get("Content-Encoding", ""))
    length = request.content_length
    if length is not None and length > MAX_BODY_BYTES:
        raise body_too_large(MAX_BODY_BYTES)
    if length is not None and length <= SMALL_BYTES:
        body = await _read_small(request)
        return body if new_decoder is None else await aside(partial(_decoded, [body], new_decoder, directory))
    spool = await _receive_large(request, directory)
    if new_decoder is None:
        return spool
    try:
        return await aside(partial(_decoded, spool.pieces(), new_decoder, directory))
    finally:
        await _closed(spool)


async def _read_small(request: web.BaseRequest) -> bytes:
    if request.content.is_eof():  # it came with the headers, which is usual, and needs no timer
        return await request.content.read()
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            return await request.content.read()
    except TimeoutError:
        raise body_too_slow(BODY_TIMEOUT_S) from None


async def _receive_large(request: web.BaseRequest, directory: Path) -> BodySpool:
    spool = await anyio.to_thread.run_sync(BodySpool, directory)
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            async for chunk in request.content.iter_any():
                await anyio.to_thread.run_sync(_take_in, spool, chunk, directory)
                del chunk  # the next one may be long in coming
    except BaseException as error:
        await _closed(spool)
        if isinstance(error, TimeoutError):
            raise body_too_slow(BODY_TIMEOUT_S) from None
        raise
    return spool


async def _closed(spool: BodySpool) -> None:
    with anyio.CancelScope(shield=True):
        await anyio.to_thread.run_sync(spool.close)


def check_size(input_: bytes) -> bytes:
    """Return an input that is no larger than a body may be: what is merged into it may make it so."""
    if len(input_) > MAX_BODY_BYTES:
        raise body_too_large(MAX_BODY_BYTES)
    return input_


def _take_in(spool: BodySpool, piece: bytes, directory: Path) -> None:
    if not has_room(directory):
        raise disk_full()
    if spool.size + len(piece) > MAX_BODY_BYTES:
        raise body_too_large(MAX_BODY_BYTES)
    spool.write(piece)


def _decoded(pieces: Iterable[bytes], new_decoder: Callable[[], Decoder], directory: Path) -> bytes | BodySpool:
    decoder, spool = new_decoder(), BodySpool(directory)
    try:
        for piece in pieces:
            for decoded in decoder.feed(piece):
                _take_in(spool, decoded, directory)
        decoder.finish()
        return spool.take() if spool.size <= SMALL_BYTES else spool
    except BaseException:
        spool.close()
        raise


#: Opening brackets in a body from which nesting is checked: orjson reads deeper JSON than it writes (254 levels).
_NESTED_FROM = 200


def load_json(body: bytes) -> Any:
    """Return the JSON value of a body, if it can be written again, also as part of another value.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or holds too many objects and lists.
    """
    if (parts := body.count(b"[") + body.count(b"{")) > MAX_PARTS:
        raise ValueError(f"it holds {parts:,} objects and lists; {MAX_PARTS:,} are allowed")
    value = orjson.loads(body)
    if parts > _NESTED_FROM:
        try:
            orjson.dumps([[[[value]]]])
        except orjson.JSONEncodeError:
            raise ValueError("it is nested too deeply") from None
    return value


def parse_json(body: bytes) -> Any:
    try:
        return load_json(body)
    except ValueError as error:
        raise request_invalid(f"The body is not valid JSON: {error}") from None


def parse_object(body: bytes) -> JsonObject:
    """Return the JSON object of a body; an empty body is an empty object."""
    value = parse_json(body) if body else {}
    if not isinstance(value, dict):
        raise request_invalid(f'The body must be a JSON object, got "{json_kind(value)}" instead')
    return value


def json_kind(value: Any) -> str:
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null")
