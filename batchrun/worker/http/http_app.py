"""The worker's HTTP application: routes, token check, error envelope."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from pathlib import Path

import anyio
import structlog
from aiohttp import web

from batchrun.config.worker_config import ServiceConfig
from batchrun.errors import OutputError
from batchrun.runtime.content_security import STRANGER_POLICY
from batchrun.runtime.listening_sockets import listen_at_all
from batchrun.runtime.loopback import hold_loopback
from batchrun.runtime.open_files import connections_within_limit
from batchrun.server.http.connection_cap import KEEP_ALIVE_S, LINGER_S, LOGGER, ConnectionCap
from batchrun.worker.http import (
    batch_routes,
    history_routes,
    line_routes,
    live_event_routes,
    live_run_routes,
    metrics_routes,
    openapi_document,
    output_routes,
    page_routes,
    plan_routes,
    submit_routes,
    worker_routes,
)
from batchrun.worker.http.error_envelope import put_errors_into_envelope
from batchrun.worker.http.page_access import PageAccess
from batchrun.worker.http.request_context import PAGE, WORKER
from batchrun.worker.http.token_check import demand_token
from batchrun.worker.local_socket import bind_local_socket
from batchrun.worker.token_file import Token
from batchrun.worker.worker import Worker

#: Max bytes of a request's body, apart from an uploaded job file, which is streamed.
MAX_BODY_BYTES = 1 << 20
#: Max connections open at once; a page or a follower keeps one.
MAX_CONNECTIONS = 512

_ROUTE_MODULES = (
    submit_routes,
    plan_routes,
    batch_routes,
    output_routes,
    line_routes,
    history_routes,
    live_run_routes,
    live_event_routes,
    worker_routes,
    metrics_routes,
    openapi_document,
    page_routes,
)


_log = structlog.get_logger()


@asynccontextmanager
async def open_http(worker: Worker, token: Token, page: PageAccess) -> AsyncIterator[str]:
    """Serve a worker over HTTP, and through the socket in its data directory; yields the address.

    Raises:
        OutputError: the address cannot be bound.
    """
    cap = ConnectionCap(connections_within_limit(MAX_CONNECTIONS, eighths=1))
    app = web.Application(
        middlewares=[put_errors_into_envelope, demand_token(token, page, cap)], client_max_size=MAX_BODY_BYTES
    )
    app[WORKER], app[PAGE] = worker, page
    app.on_response_prepare.append(_keep_from_browsers)
    for module in (
        history_routes,
        live_event_routes,
        live_run_routes,
        metrics_routes,
        output_routes,
        submit_routes,
        worker_routes,
    ):
        module.prepare(app)
    routes = [route for module in _ROUTE_MODULES for route in module.ROUTES]
    app[openapi_document.DOCUMENT] = openapi_document.OpenApiDocument(routes)
    app.router.add_routes(routes)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=1.0,
        keepalive_timeout=KEEP_ALIVE_S,
        lingering_time=LINGER_S,
        auto_decompress=False,  # a body that is encoded is refused
        logger=LOGGER,
    )
    await runner.setup()
    assert runner.server is not None
    cap.watch(runner.server)
    with ExitStack() as held:
        try:
            address = await _listen(runner, worker.config.worker, held)
            await _listen_locally(runner, worker.directory.socket)
            yield address
        finally:
            await runner.cleanup()
            with suppress(OSError), anyio.CancelScope(shield=True):
                file = anyio.Path(worker.directory.socket)
                if await file.is_socket():  # not a file that was there before
                    await file.unlink()


async def _keep_from_browsers(_request: web.Request, answer: web.StreamResponse) -> None:
    """Let no answer but the page itself act in a browser, since it is of strangers; and let none stay there."""
    answer.headers.setdefault("Content-Security-Policy", STRANGER_POLICY)
    answer.headers.setdefault("Cache-Control", "no-store")
    answer.headers["X-Content-Type-Options"] = "nosniff"


async def _listen_locally(runner: web.AppRunner, file: Path) -> None:
    try:
        await web.SockSite(runner, await anyio.to_thread.run_sync(bind_local_socket, file)).start()
    except (OSError, OutputError) as error:
        _log.warning("local_socket_missing", reason=str(error), instead="commands with --url")


async def _listen(runner: web.AppRunner, service: ServiceConfig, held: ExitStack) -> str:
    try:
        for listener in await anyio.to_thread.run_sync(listen_at_all, service.host, service.port):
            await web.SockSite(runner, held.enter_context(closing(listener))).start()
        host, port = runner.addresses[0][:2]
        for each in hold_loopback([address[0] for address in runner.addresses], port):
            held.enter_context(each)
    except OSError as error:
        raise OutputError(
            f"cannot listen on {service.host}:{service.port}: {error.strerror or error}; use another --port"
        ) from error
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
