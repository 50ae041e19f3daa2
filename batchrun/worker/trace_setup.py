"""Whether batches are traced, and where to; `trace_spans` makes the spans and needs the extra `otel`."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
import structlog

from batchrun.errors import ConfigError
from batchrun.worker.batch_runner import Trace, no_trace

#: Variables that enable traces.
_ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_MISSING = "traces need an extra; in the source directory: pip install '.[otel]'"

_log = structlog.get_logger()


@asynccontextmanager
async def open_tracing(endpoint: str | None, environ: Mapping[str, str]) -> AsyncIterator[Trace]:
    """Yield the function that traces a batch; leaving sends the remaining spans, for a few seconds at most.

    Without an endpoint, variables of OpenTelemetry may enable traces.

    Raises:
        ConfigError: `endpoint` is given and the extra is not installed.
    """
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or not (endpoint or any(environ.get(name) for name in _ENDPOINT_VARIABLES)):
        yield no_trace
        return
    try:
        from batchrun.worker import trace_spans  # noqa: PLC0415 - its dependency may not be installed
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        if endpoint:
            raise ConfigError(_MISSING, key="worker.traces") from None
        _log.warning("not_traced", reason=_MISSING)  # the variable may be meant for other programs
        yield no_trace
        return
    export = trace_spans.SpanExport(endpoint)
    try:
        yield trace_spans.TraceSpans(export.provider).batch
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(export.close)
