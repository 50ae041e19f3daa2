import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from batchrun.errors import ConfigError, OutputError
from batchrun.model import Attempt, AttemptState, Cause, JobKey, Mark, Outcome, Problem, Record, RunId, RunStatus
from batchrun.worker.batch_runner import no_trace
from batchrun.worker.submission import Submission
from batchrun.worker.trace_setup import open_tracing
from batchrun.worker.trace_spans import TraceSpans

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BATCH = Submission(id="20260101-abc", name="shop", created_at=NOW)
SECRET = "apify_api_secret"


class Seen:
    """Trace spans that are kept in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.traces = TraceSpans(provider)

    @property
    def spans(self) -> list[ReadableSpan]:
        """All ended spans, in order of their end."""
        return list(self._exporter.get_finished_spans())


def _attempt(number: int, cause: Cause | None, *, length_s: float = 5.0) -> Attempt:
    began = NOW + timedelta(seconds=10 * number)
    return Attempt(
        attempt_no=number,
        mark=Mark(SECRET),
        state=AttemptState.ENDED,
        run_id=RunId(f"run{number}"),
        status=RunStatus.SUCCEEDED if cause is None else RunStatus.FAILED,
        cause=cause,
        intended_at=began,
        started_at=began + timedelta(seconds=1),
        finished_at=began + timedelta(seconds=length_s),
        cost_usd=0.5,
    )


def _record(*attempts: Attempt, outcome: Outcome = Outcome.SUCCEEDED) -> Record:
    error = None if outcome is Outcome.SUCCEEDED else Problem(type="run-failed", message=SECRET)
    return Record(
        key=JobKey("k"), line=7, outcome=outcome, attempts=attempts, meta=SECRET, output=SECRET, run={"x": SECRET},
        error=error,
    )  # fmt: skip


def test_each_attempt_is_a_separate_trace_linked_to_its_batch() -> None:
    """It has the record's times, ids and outcome; a failed attempt is an error, its retry is not."""
    seen = Seen()
    with seen.traces.batch(BATCH) as note:
        note(_record(_attempt(1, Cause.FAILED), _attempt(2, None)))
    first, second, batch = seen.spans
    assert [span.name for span in seen.spans] == ["attempt", "attempt", "batch"]
    assert [span.parent for span in seen.spans] == [None] * 3
    assert len({span.context.trace_id for span in seen.spans}) == 3
    assert [[link.context for link in span.links] for span in (first, second)] == [[batch.context]] * 2
    assert dict(first.attributes or {}) == {
        "batchrun.batch": BATCH.id,
        "batchrun.job_key": "k",
        "batchrun.line": 7,
        "batchrun.attempt_no": 1,
        "batchrun.round": 1,
        "batchrun.run_id": "run1",
        "batchrun.status": "FAILED",
        "batchrun.cause": "failed",
        "batchrun.cost_usd": 0.5,
    }
    assert (second.attributes or {})["batchrun.outcome"] == "succeeded"
    assert [span.status.status_code for span in seen.spans] == [StatusCode.ERROR, StatusCode.UNSET, StatusCode.UNSET]
    assert first.start_time == (NOW + timedelta(seconds=10)).timestamp() * 1e9
    assert first.end_time == (NOW + timedelta(seconds=15)).timestamp() * 1e9
    assert dict(batch.attributes or {}) == {
        "batchrun.batch": BATCH.id,
        "batchrun.name": "shop",
        "batchrun.settled.succeeded": 1,
    }


def test_spans_contain_no_inputs_outputs_or_marks() -> None:
    """They stay in the record."""
    seen = Seen()
    with seen.traces.batch(BATCH) as note:
        note(_record(_attempt(1, Cause.FAILED), outcome=Outcome.FAILED))
    assert all(SECRET not in span.to_json() for span in seen.spans)


def test_a_job_without_a_run_and_a_lagging_clock_are_harmless() -> None:
    """No attempt, no span; a span never ends before its start."""
    seen = Seen()
    with seen.traces.batch(BATCH) as note:
        note(_record(outcome=Outcome.INVALID))
        note(_record(_attempt(1, None, length_s=-9)))
    attempt, _ = seen.spans
    assert attempt.end_time == attempt.start_time


def test_an_interrupted_batch_is_an_error() -> None:
    """Its span has the outcomes so far."""
    seen = Seen()
    with pytest.raises(OutputError), seen.traces.batch(BATCH):
        raise OutputError("the disk is full")
    (batch,) = seen.spans
    assert batch.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    "environ", [{}, {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}]
)
async def test_traces_are_off_by_default(environ: dict[str, str]) -> None:
    """Then records are not passed on at all."""
    async with open_tracing(None, environ) as trace:
        assert trace is no_trace
        with trace(BATCH) as on_record:
            assert on_record is None


async def test_without_the_extra_the_key_is_refused_and_the_environment_is_ignored(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error for worker.toml names the package to install; a variable may be meant for other programs."""
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "batchrun.worker.trace_spans")
    monkeypatch.delattr("batchrun.worker.trace_spans")
    with pytest.raises(ConfigError, match=r"worker.traces.*pip install '\.\[otel\]'"):
        async with open_tracing("http://127.0.0.1:9/v1/traces", {}):
            pass
    async with open_tracing(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}) as trace:
        assert trace is no_trace
