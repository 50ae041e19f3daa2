"""The worker's metrics, made from the same views as its API when they are scraped.

They can be read without the token, so they reveal nothing about the content of batches: batches are labelled by their
ids only, and no Run, job or dataset has a label. Batches that are over are left out.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from batchrun.apify.request_meter import NO_ANSWER
from batchrun.engine.account_counters import AccountCounters
from batchrun.output.layout import LEDGER
from batchrun.runtime.histogram import Histogram
from batchrun.worker.batch_list import list_rows
from batchrun.worker.status_views import BatchView, WorkerView, batch_view, worker_view
from batchrun.worker.submission import BatchState
from batchrun.worker.worker import Worker

#: Max batches with a label; the newest ones.
MAX_BATCHES = 500


class MetricsSnapshot(NamedTuple):
    """The metrics of one moment, and the files whose size is still to be read."""

    metrics: list[Metric]
    #: By batch id.
    ledgers: dict[str, Path]


def snapshot(worker: Worker) -> MetricsSnapshot:
    """Return a worker's metrics; call it in the worker's event loop."""
    batches = _shown(worker)
    found = [*_of_worker(worker_view(worker, list_rows(worker))), *_of_batches(batches)]
    if worker.account is not None:
        found += _of_counters(worker.account.shared.counters)
        found.append(_requests(worker.account.client.requests.latencies))
    return MetricsSnapshot(found, {view.id: Path(view.out_dir) / LEDGER for view in batches})


#: Names the version of OpenMetrics. prometheus_client stumbles over what others write here.
_OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def exposition(taken: MetricsSnapshot, is_open_metrics: bool) -> tuple[bytes, str]:
    """Return the metrics as text, with those of the process and of ledger sizes; blocking, so call it in a thread.

    Args:
        taken: the metrics.
        is_open_metrics: True for OpenMetrics, False for the older text format of Prometheus.

    Returns:
        The text, and its content type.
    """
    encode, content_type = choose_encoder(_OPEN_METRICS if is_open_metrics else "")
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Found([*taken.metrics, _ledger_bytes(taken.ledgers)]))
    ProcessCollector(registry=registry)
    return encode(registry), content_type


class _Found(Collector):
    def __init__(self, found: Sequence[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found


def _shown(worker: Worker) -> list[BatchView]:
    """Return the batches that are not over, those under way first."""
    alive = [each for each in worker.store if not each.state.is_over]
    alive.reverse()
    alive.sort(key=lambda each: not each.state.is_under_way)
    return [batch_view(worker, each) for each in alive[:MAX_BATCHES]]


def _of_worker(view: WorkerView) -> Iterator[Metric]:
    build = {"version": view.version, "python": platform.python_version()}
    yield InfoMetricFamily("batchrun_build", "Versions of this process.", build)
    yield _gauge("worker_start_time_seconds", "Start of the worker, in Unix time.", view.began_at.timestamp())
    yield _gauge("worker_ready", "1 while batches can run.", view.is_ready)
    yield _gauge("worker_draining", "1 while the worker is stopping.", view.is_draining)
    yield _gauge("platform_outage", "1 while the platform cannot be reached.", bool(view.outage))
    batches = GaugeMetricFamily("batchrun_batches", "Batches by state.", labels=["state"])
    for state in BatchState:
        batches.add_metric([state], view.batches.get(state, 0))
    yield batches
    yield _gauge("live_runs", "Runs that are live or being started.", view.live_runs)
    yield _gauge("slots_used", "Slots in use.", view.slots.used)
    yield _gauge("slots_limit", "Max live Runs.", view.slots.limit)
    yield _gauge("memory_used_megabytes", "Memory of live Runs.", view.slots.memory_mb)
    yield _gauge("memory_limit_megabytes", "Max memory of live Runs.", view.slots.max_memory_mb)
    if view.budget is not None:
        yield _gauge("budget_limit_dollars", "Budget of all batches together.", view.budget.limit_usd)
        yield _gauge("budget_spent_dollars", "Spent money of the budget.", view.budget.spent_usd)
        yield _gauge(
            "budget_reserved_dollars", "Money of the budget that is reserved for Runs.", view.budget.reserved_usd
        )


def _of_batches(views: Sequence[BatchView]) -> Iterator[Metric]:
    outcomes = GaugeMetricFamily(
        "batchrun_batch_jobs_settled", "Settled jobs of a batch by outcome.", labels=["batch", "outcome"]
    )
    for view in views:
        for outcome, count in view.outcomes.items():
            outcomes.add_metric([view.id, outcome], count)
    yield outcomes
    columns: dict[str, tuple[str, Sequence[float | None]]] = {
        "jobs": ("Approximate number of jobs of a batch.", [view.jobs.total for view in views]),
        "jobs_postponed": ("Jobs that wait for their next attempt.", [view.jobs.postponed for view in views]),
        "starts_in_doubt": ("Starts whose answer was lost.", [view.jobs.in_doubt for view in views]),
        "live_runs": ("Runs of a batch that are live or being started.", [view.live_runs for view in views]),
        "slots_limit": ("Max live Runs of a batch.", [view.max_concurrent_runs for view in views]),
        "items": ("Items of a batch's settled jobs.", [view.items for view in views]),
        "cost_dollars": (
            "Known costs of a batch; while it is open, of its settled jobs.",
            [view.cost_usd for view in views],
        ),
        "budget_dollars": ("Budget of a batch.", [view.budget_usd for view in views]),
    }
    for name, (text, values) in columns.items():
        family = GaugeMetricFamily(f"batchrun_batch_{name}", text, labels=["batch"])
        for view, value in zip(views, values, strict=True):
            if value is not None:
                family.add_metric([view.id], value)
        yield family


def _of_counters(counters: AccountCounters) -> Iterator[Metric]:
    total = counters.total()
    settled = CounterMetricFamily(
        "batchrun_jobs_settled", "Jobs settled since the worker began, by outcome.", labels=["outcome"]
    )
    for outcome, count in total.outcomes.items():
        settled.add_metric([outcome], count)
    yield settled
    yield CounterMetricFamily("batchrun_runs_started", "Runs started since the worker began.", total.started)
    yield CounterMetricFamily("batchrun_items", "Items collected since the worker began.", total.items)
    yield CounterMetricFamily(
        "batchrun_cost_dollars", "Known costs of jobs settled since the worker began.", total.cost_usd
    )
    yield CounterMetricFamily(
        "batchrun_costs_unknown", "Runs settled since the worker began whose cost is unknown.", total.unknown_costs
    )
    yield CounterMetricFamily(
        "batchrun_start_token_wait_seconds",
        "Time for which a rate limit has delayed the next start of a batch.",
        counters.token_wait_s,
    )
    yield _histogram("refill_seconds", "From the end of a Run to the start that refills its slot.", counters.refills)
    yield _histogram("ledger_commit_seconds", "Duration of commits.", counters.commits.latency)
    yield _histogram("ledger_commit_steps", "Number of steps in a commit.", counters.commits.steps)


def _requests(latencies: dict[tuple[str, str, int], Histogram]) -> Metric:
    family = HistogramMetricFamily(
        "batchrun_request_seconds",
        "Requests to the platform; status none: no answer.",
        labels=["method", "endpoint", "status"],
    )
    for (method, endpoint, status), histogram in latencies.items():
        labels = [method, endpoint, "none" if status == NO_ANSWER else str(status)]
        family.add_metric(labels, _buckets(histogram), histogram.sum)
    return family


def _ledger_bytes(ledgers: Mapping[str, Path]) -> Metric:
    family = GaugeMetricFamily("batchrun_batch_ledger_bytes", "Size of a batch's ledger.", labels=["batch"])
    for batch, file in ledgers.items():
        with suppress(OSError):  # a batch that has not begun has no ledger
            log = file.with_name(f"{file.name}-wal")
            family.add_metric([batch], file.stat().st_size + (log.stat().st_size if log.exists() else 0))
    return family


def _gauge(name: str, text: str, value: float | None) -> Metric:
    """Return a gauge; it has no sample if the value is unknown."""
    family = GaugeMetricFamily(f"batchrun_{name}", text)
    if value is not None:
        family.add_metric([], value)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(f"batchrun_{name}", text, _buckets(histogram), histogram.sum)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
