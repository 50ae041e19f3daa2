"""The worker's HTTP application: routes, token check, error envelope."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from batchrun.config.worker_config import ServiceConfig
from batchrun.errors import OutputError
from batchrun.worker.http import (
    batch_routes,
    live_event_routes,
    metrics_routes,
    openapi_document,
    output_routes,
    page_routes,
    worker_routes,
)
from batchrun.worker.http.error_envelope import put_errors_into_envelope
from batchrun.worker.http.request_context import WORKER
from batchrun.worker.http.token_check import demand_token
from batchrun.worker.token_file import Token
from batchrun.worker.worker import Worker

#: Max bytes of a request's body, apart from an uploaded job file, which is streamed.
MAX_BODY_BYTES = 1 << 20

_ROUTE_MODULES = (
    batch_routes,
    output_routes,
    live_event_routes,
    worker_routes,
    metrics_routes,
    openapi_document,
    page_routes,
)


@asynccontextmanager
async def open_http(worker: Worker, token: Token) -> AsyncIterator[str]:
    """Serve a worker over HTTP; yields the address.

    Raises:
        OutputError: the address cannot be bound.
    """
    app = web.Application(middlewares=[put_errors_into_envelope, demand_token(token)], client_max_size=MAX_BODY_BYTES)
    app[WORKER] = worker
    batch_routes.prepare(app)
    app[openapi_document.DOCUMENT] = openapi_document.document(
        route for module in _ROUTE_MODULES for route in module.ROUTES
    )
    for module in _ROUTE_MODULES:
        app.router.add_routes(module.ROUTES)
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
            f"cannot listen on {service.host}:{service.port}: {error.strerror or error}; use another --port"
        ) from error
    host, port = runner.addresses[0][:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
