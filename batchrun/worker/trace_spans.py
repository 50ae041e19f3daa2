"""Trace spans: one each time a batch is open in this process, and one per attempt of its records.

An attempt's span is made from its durable record and has the record's times: a live Run costs nothing. It is a separate
trace with a link to the batch's span, so that a sampler decides per attempt, and no trace has a million spans.
Attributes are ids, outcomes and costs; never inputs, outputs or messages.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import INVALID_SPAN_CONTEXT, Link, SpanContext, Status, StatusCode, set_span_in_context
from opentelemetry.trace import NonRecordingSpan as NoSpan

from batchrun.model import Attempt, Outcome, Record
from batchrun.runtime.logs import without_secret_parts
from batchrun.version import __version__
from batchrun.worker.submission import Submission

#: Max seconds to send the remaining spans when the worker ends.
CLOSE_S = 3.0

_log = structlog.get_logger()


class TraceSpans:
    """Makes spans of batches and records."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("batchrun", __version__)

    @contextmanager
    def batch(self, submission: Submission) -> Iterator[Callable[[Record], None]]:
        """Make a span of an open batch; yields the function that takes each record."""
        attributes = {"batchrun.batch": submission.id, "batchrun.name": submission.name}
        with self._tracer.start_as_current_span(
            "batch", context=_ROOT, attributes=attributes, record_exception=False
        ) as span:
            settled: dict[Outcome, int] = {}

            def note(record: Record) -> None:
                settled[record.outcome] = settled.get(record.outcome, 0) + 1
                self._attempts(submission, record, span.get_span_context())

            try:
                yield note
            finally:
                for outcome, count in settled.items():
                    span.set_attribute(f"batchrun.settled.{outcome}", count)

    def _attempts(self, submission: Submission, record: Record, batch: SpanContext) -> None:
        for attempt in record.attempts:
            is_last = attempt is record.attempts[-1]
            span = self._tracer.start_span(
                "attempt",
                context=_ROOT,
                links=[Link(batch)],
                start_time=_ns(attempt.intended_at),
                attributes=_attributes(submission, record, attempt, is_last=is_last),
            )
            if attempt.started_at is not None:
                span.add_event("run started", timestamp=_ns(attempt.started_at))
            if attempt.cause is not None or (is_last and record.outcome is not Outcome.SUCCEEDED):
                span.set_status(Status(StatusCode.ERROR, attempt.cause or record.outcome))
            # The platform's clock may lag behind ours.
            span.end(max(_ns(attempt.finished_at or attempt.intended_at), _ns(attempt.intended_at)))


#: The context of a span without a parent, whatever else is traced in this process.
_ROOT = set_span_in_context(NoSpan(INVALID_SPAN_CONTEXT))


def _attributes(
    submission: Submission, record: Record, attempt: Attempt, *, is_last: bool
) -> dict[str, str | int | float]:
    found = {
        "batchrun.batch": submission.id,
        "batchrun.job_key": record.key,
        "batchrun.line": record.line,
        "batchrun.attempt_no": attempt.attempt_no,
        "batchrun.round": attempt.round,
        "batchrun.run_id": attempt.run_id,
        "batchrun.status": attempt.status,
        "batchrun.cause": attempt.cause,
        "batchrun.outcome": record.outcome if is_last else None,
        "batchrun.cost_usd": attempt.cost_usd,
    }
    return {name: value for name, value in found.items() if value is not None}


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1e9)


class SpanExport:
    """Sends spans to a collector, in a background thread; an unreachable collector only costs spans.

    Without an endpoint, the collector is that of OpenTelemetry's own variables.
    """

    def __init__(self, endpoint: str | None) -> None:
        logger = logging.getLogger("opentelemetry")
        logger.propagate = False
        logger.addHandler(_LogFirstOnly())
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "batchrun-worker"}))
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))

    def close(self) -> None:
        """Send the remaining spans, for CLOSE_S at most."""
        closing = threading.Thread(target=self.provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_S)


class _LogFirstOnly(logging.Handler):
    """Logs only the first error of the exporter, which repeats it for every batch of spans."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._has_logged = False

    def emit(self, record: logging.LogRecord) -> None:
        """Log an error, if it is the first."""
        if not self._has_logged:
            self._has_logged = True
            _log.warning("traces_not_sent", reason=without_secret_parts(record.getMessage()))
