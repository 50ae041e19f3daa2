"""What is done for a client that has left: nothing more."""

import anyio
from aiohttp import web

from batchrun.worker.http.request_context import while_asked


async def test_what_a_client_asked_for_ends_when_it_is_gone():
    """An abandoned plan would hold its place among the plans for hours."""
    begun, ended = anyio.Event(), anyio.Event()

    async def handle(request: web.Request) -> web.Response:
        try:
            async with while_asked(request):
                if "bad" in request.query:
                    raise web.HTTPNotFound
                begun.set()
                await anyio.sleep_forever()
        except ConnectionResetError:
            ended.set()
            raise
        return web.Response()

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app)  # like the worker's, it lets handlers go on
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        with anyio.fail_after(60):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(b"GET /?bad=1 HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await stream.receive()).startswith(b"HTTP/1.1 404"), "an error of the block comes out plain"
                await stream.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                await begun.wait()
            await ended.wait()
    finally:
        await runner.cleanup()
