"""Traces: a span for each passage of a batch through this process, and one for each attempt that came of it.

An attempt's span is made of its record, when that is durable: its times are the record's, and nothing is done for it
while it runs. It is a trace of its own with a link to the batch's span, so that a sampler decides about each attempt,
and no trace has a million spans. Attributes are ids, outcomes and costs; never inputs, outputs or messages.
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
from batchrun.version import __version__
from batchrun.worker.submission import Submission

#: How long the end of the worker waits for spans that are not sent yet.
CLOSE_S = 3.0

_log = structlog.get_logger()


class Traces:
    """Makes spans of batches and records.

    Args:
        provider: takes them.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("batchrun", __version__)

    @contextmanager
    def batch(self, submission: Submission) -> Iterator[Callable[[Record], None]]:
        """Span a batch's passage; yields what is to be told of each record."""
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
            # The platform's clock may be behind ours.
            span.end(max(_ns(attempt.finished_at or attempt.intended_at), _ns(attempt.intended_at)))


#: Of a span without a parent, whatever else is traced in this process.
_ROOT = set_span_in_context(NoSpan(INVALID_SPAN_CONTEXT))


def _attributes(
    submission: Submission, record: Record, attempt: Attempt, *, is_last: bool
) -> dict[str, str | int | float]:
    """Return what is known; what is not is left out."""
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


class Exporting:
    """Sends spans to a collector, from a thread of its own; a collector that is away costs spans and nothing else.

    Args:
        endpoint: where to; None: where OpenTelemetry's own variables say.
    """

    def __init__(self, endpoint: str | None) -> None:
        logger = logging.getLogger("opentelemetry")
        logger.propagate = False
        logger.addHandler(_SaidOnce())
        resource = Resource.create({"service.version": __version__})
        if str(resource.attributes["service.name"]).startswith("unknown_service"):
            resource = resource.merge(Resource({"service.name": "batchrun-worker"}))
        self.provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))

    def close(self) -> None:
        """Send what is left, for a while."""
        closing = threading.Thread(target=self.provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_S)


class _SaidOnce(logging.Handler):
    """Passes on the first of what the exporter complains of; it says the same of every batch of spans."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._has_told = False

    def emit(self, record: logging.LogRecord) -> None:
        """Log a complaint, if it is the first."""
        if not self._has_told:
            self._has_told = True
            _log.warning("traces_not_sent", reason=record.getMessage())
