"""Sends large answers: no faster than they are read, and whole or visibly cut.

A slow reader keeps one piece in memory; larger bodies wait in a file.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio.to_thread
import structlog
from aiohttp import web

from batchrun.server.content.body_spool import LARGE_BYTES, BodySpool, spooled
from batchrun.server.error_answers import ErrorAnswer

_log = structlog.get_logger()


async def send_pieces(
    request: web.BaseRequest, response: web.StreamResponse, pieces: AsyncIterator[bytes], directory: Path
) -> web.StreamResponse:
    """Send an answer of unknown length. `pieces` must not keep a piece that it has yielded."""
    with _whole_or_cut(request, response):
        await response.prepare(request)
        # After the headers of a HEAD answer, a client would read a body as the next answer.
        if request.method != "HEAD":
            await _write_pieces(response, pieces, directory)
        await response.write_eof()
    return response


async def send_spool(request: web.BaseRequest, response: web.StreamResponse, body: BodySpool) -> web.StreamResponse:
    """Send an answer whose body is in a spool, and close the spool."""
    with closing(body), _whole_or_cut(request, response):
        response.content_length = body.size
        await response.prepare(request)
        if request.method != "HEAD":
            await _write_spool(response, body)
        await response.write_eof()
    return response


def is_large(response: web.StreamResponse) -> bool:
    return (
        isinstance(response, web.Response)
        and isinstance(response.body, bytes | bytearray)
        and len(response.body) > LARGE_BYTES
    )


async def send_large(request: web.BaseRequest, response: web.StreamResponse, directory: Path) -> web.StreamResponse:
    """Send an answer that `is_large` by way of a file."""
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    body = await anyio.to_thread.run_sync(spooled, directory, response.body)
    response.body = None
    return await send_spool(request, web.StreamResponse(status=response.status, headers=response.headers), body)


async def _write_pieces(response: web.StreamResponse, pieces: AsyncIterator[bytes], directory: Path) -> None:
    async for piece in pieces:
        if len(piece) <= LARGE_BYTES:
            await response.write(piece)
            continue
        body = await anyio.to_thread.run_sync(spooled, directory, piece)
        del piece
        with closing(body):
            await _write_spool(response, body)


async def _write_spool(response: web.StreamResponse, body: BodySpool) -> None:
    for start in range(0, body.size, LARGE_BYTES):
        await response.write(await anyio.to_thread.run_sync(body.piece, start))


@contextmanager
def _whole_or_cut(request: web.BaseRequest, response: web.StreamResponse) -> Iterator[None]:
    """Cut the connection on errors after the headers, so that no client takes part of a body for all of it."""
    try:
        yield
    except ConnectionError:
        # The client has hung up; aiohttp closes the connection.
        pass
    except Exception as error:
        if not response.prepared:
            raise
        is_expected = isinstance(error, ErrorAnswer)
        _log.warning("answer_cut", path=request.path, reason=str(error), exc_info=None if is_expected else error)
        if request.transport is not None:
            request.transport.abort()
