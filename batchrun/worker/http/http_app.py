"""The worker's HTTP API, put together: routes, the token, and errors in one envelope."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from batchrun.config.worker_config import ServiceConfig
from batchrun.errors import OutputError
from batchrun.worker.http import (
    batch_routes,
    health_routes,
    limit_routes,
    live_event_routes,
    metrics_routes,
    openapi_document,
    output_routes,
    page_routes,
)
from batchrun.worker.http.error_envelope import put_errors_into_envelope
from batchrun.worker.http.request_context import WORKER
from batchrun.worker.http.token_check import demand_token
from batchrun.worker.token_file import Token
from batchrun.worker.worker import Worker

#: What a form may weigh beside its job file, which is streamed.
MAX_BODY_BYTES = 1 << 20

_ROOMS = (
    batch_routes,
    output_routes,
    live_event_routes,
    limit_routes,
    health_routes,
    metrics_routes,
    openapi_document,
    page_routes,
)


@asynccontextmanager
async def open_http(worker: Worker, token: Token) -> AsyncIterator[str]:
    """Offer a worker over HTTP; yields the address.

    Raises:
        OutputError: the address cannot be listened at.
    """
    app = web.Application(middlewares=[put_errors_into_envelope, demand_token(token)], client_max_size=MAX_BODY_BYTES)
    app[WORKER] = worker
    batch_routes.prepare(app)
    app[openapi_document.DOCUMENT] = openapi_document.document(route for room in _ROOMS for route in room.ROUTES)
    for room in _ROOMS:
        app.router.add_routes(room.ROUTES)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
    await runner.setup()
    try:
        yield await _listen(runner, worker.config.worker)
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, service: ServiceConfig) -> str:
    try:
        await web.TCPSite(runner, service.host, service.port).start()
    except OSError as error:
        raise OutputError(
            f"{service.host}:{service.port} cannot be listened at: {error.strerror or error}; take another --port"
        ) from error
    host, port = runner.addresses[0][:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
