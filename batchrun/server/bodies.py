"""Request bodies: read within the limit, decompressed within the limit, and parsed."""

import zlib
from typing import Any

import anyio
import anyio.to_thread
import brotli  # type: ignore[import-untyped]  # it ships neither stubs nor a marker
import orjson
from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.faults import Fault, body_too_large, request_invalid

#: Bytes of a request's body at most, counted after decompression. Source: the API reference.
MAX_BODY_BYTES = 9_437_184
#: Compressed bytes from which decompression would hold up the loop noticeably.
_THREAD_FROM_BYTES = 131_072
_CHUNK_BYTES = 1 << 20
#: A body that is announced as smaller than this holds no memory worth a timer.
_UNTIMED_BYTES = 65_536
#: How long a body may take to arrive: whoever is slower holds memory for nothing.
BODY_TIMEOUT_S = 120


async def read_body(request: web.BaseRequest) -> bytes:
    """Return the decompressed body.

    Raises:
        Fault: 413 above the limit, 415 for an unknown encoding, 400 for one that is damaged.
    """
    if not request.body_exists:
        return b""
    encodings = [name.strip().lower() for name in request.headers.get("Content-Encoding", "").split(",")]
    encodings = [name for name in encodings if name not in ("", "identity")]
    if any(name not in _DECODERS for name in encodings):
        raise Fault(
            415,
            "unsupported-content-encoding",
            f"Content-Encoding {', '.join(encodings)} is not supported (use br, gzip, deflate or identity)",
        )
    body = await _read_raw(request)
    for name in reversed(encodings):
        decode = _DECODERS[name]
        body = decode(body) if len(body) < _THREAD_FROM_BYTES else await anyio.to_thread.run_sync(decode, body)
    return body


async def _read_raw(request: web.BaseRequest) -> bytes:
    if (request.content_length or 0) > MAX_BODY_BYTES:
        raise body_too_large(MAX_BODY_BYTES)
    if request.content_length is not None and request.content_length <= _UNTIMED_BYTES:
        return await _read_chunks(request)
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            return await _read_chunks(request)
    except TimeoutError:
        message = f"The body has not arrived within {BODY_TIMEOUT_S} seconds"
        # What is still to come would be taken for the next request.
        raise Fault(408, "request-timeout", message, headers={"Connection": "close"}) from None


async def _read_chunks(request: web.BaseRequest) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise body_too_large(MAX_BODY_BYTES)
        chunks.append(chunk)
    return b"".join(chunks)


def _inflate(body: bytes, *window_bits: int) -> bytes:
    """Decompress without ever holding more than the limit, so that a small body cannot fill the memory."""
    try:
        inflater = zlib.decompressobj(window_bits[0])
        decoded = inflater.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error:
        # "deflate" is sent with and without the zlib header.
        if len(window_bits) > 1:
            return _inflate(body, *window_bits[1:])
        raise request_invalid("The body does not match its Content-Encoding") from None
    if len(decoded) > MAX_BODY_BYTES:
        raise body_too_large(MAX_BODY_BYTES)
    if not inflater.eof:
        raise request_invalid("The compressed body ends too early")
    return decoded


def _unbrotli(body: bytes) -> bytes:
    decoder = brotli.Decompressor()
    chunks: list[bytes] = []
    size = 0
    try:
        chunk = decoder.process(body, output_buffer_limit=_CHUNK_BYTES)
        while chunk or not decoder.can_accept_more_data():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise body_too_large(MAX_BODY_BYTES)
            chunks.append(chunk)
            chunk = decoder.process(b"", output_buffer_limit=_CHUNK_BYTES)
    except brotli.error:
        raise request_invalid("The body does not match its Content-Encoding") from None
    if not decoder.is_finished():
        raise request_invalid("The compressed body ends too early")
    return b"".join(chunks)


_DECODERS = {
    "gzip": lambda body: _inflate(body, 31),
    "x-gzip": lambda body: _inflate(body, 31),
    "deflate": lambda body: _inflate(body, 15, -15),
    "br": _unbrotli,
}


#: JSON is read deeper than it is written (254 levels): below so many brackets there is nothing to check.
_NESTED_FROM = 200


def load_json(body: bytes) -> Any:
    """Return the JSON value of a body, if it can be written again, also inside of what it will be a part of.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    value = orjson.loads(body)
    if body.count(b"[") + body.count(b"{") > _NESTED_FROM:
        try:
            orjson.dumps([[[[value]]]])
        except orjson.JSONEncodeError:
            raise ValueError("it is nested too deeply") from None
    return value


def parse_json(body: bytes) -> Any:
    """Return the JSON value of a body.

    Raises:
        Fault: 400.
    """
    try:
        return load_json(body)
    except ValueError as error:
        raise request_invalid(f"The body is not valid JSON: {error}") from None


def parse_object(body: bytes) -> JsonObject:
    """Return the JSON object of a body; an empty body is an empty object.

    Raises:
        Fault: 400.
    """
    value = parse_json(body) if body else {}
    if not isinstance(value, dict):
        raise request_invalid(f'The body must be a JSON object, got "{json_kind(value)}" instead')
    return value


def json_kind(value: Any) -> str:
    """Return what JSON calls the type of a value."""
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(value), "null")
