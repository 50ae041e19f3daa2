"""Answers as a broken way to the server sends them: an HTML page, a reset, half a body, a slow body."""

import socket
import struct

import anyio
from aiohttp import web

from batchrun.server.error_answers import ErrorAnswer

#: Statuses that a gateway answers, not the API: their body is HTML.
_GATEWAY_STATUSES = frozenset({502, 504})


def unexpected_error(status: int, type: str = "") -> web.Response:  # noqa: A002 - the API's own word
    """Return a gateway's HTML page for a status that gateways answer, and for any status without an error type.

    Raises:
        ErrorAnswer: the error is the API's.
    """
    if status in _GATEWAY_STATUSES or not type:
        page = f"<html><head><title>{status}</title></head><body>The server did not answer in time</body></html>"
        return web.Response(status=status, text=page, content_type="text/html")
    raise ErrorAnswer(status, type, "There was an unexpected error on the server")


def reset(request: web.BaseRequest) -> web.Response:
    """Reset the connection. The returned answer is never sent."""
    if (transport := request.transport) is not None:
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    return web.Response(status=500)


async def truncate(request: web.BaseRequest, response: web.Response, keep: float) -> web.StreamResponse:
    """Send a fraction of the body, and close the connection."""
    if not (content := _content(request, response)):
        return response
    begun = await _begun(request, response)
    await begun.write(content[: int(len(content) * keep)])
    if request.transport is not None:
        request.transport.close()
    return begun


async def trickle(
    request: web.BaseRequest, response: web.Response, chunk_bytes: int, pause_s: float
) -> web.StreamResponse:
    """Send the body in chunks, with a pause after each."""
    if not (content := _content(request, response)):
        return response
    begun = await _begun(request, response)
    for start in range(0, len(content), chunk_bytes):
        await begun.write(content[start : start + chunk_bytes])
        await anyio.sleep(pause_s)
    await begun.write_eof()
    return begun


async def _begun(request: web.BaseRequest, response: web.Response) -> web.StreamResponse:
    headers = {name: value for name, value in response.headers.items() if name.lower() != "content-length"}
    begun = web.StreamResponse(status=response.status, headers=headers)
    begun.content_length = len(_content(request, response))
    await begun.prepare(request)
    return begun


def _content(request: web.BaseRequest, response: web.Response) -> bytes:
    if request.method == "HEAD" or not isinstance(response.body, bytes | bytearray):
        return b""
    return bytes(response.body)
