"""The worker's numbers as metrics: made when they are asked for, from the views that everybody else is shown too.

Whoever may read them need not know the token, so that nothing in them tells what a batch is about: batches are labelled
by their ids alone, and no Run, job or dataset has a label. Batches that are over drop out.
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
from batchrun.engine.instruments import Instruments
from batchrun.output.layout import LEDGER
from batchrun.runtime.histogram import Histogram
from batchrun.worker.submission import State
from batchrun.worker.views import BatchView, WorkerView, batch_view, worker_view
from batchrun.worker.worker import Worker

#: Batches that have labels of their own; of more, those that were handed in last.
MAX_BATCHES = 500


class Snapshot(NamedTuple):
    """The numbers of one moment, and where those are that take a look at the disk."""

    metrics: list[Metric]
    #: By batch.
    ledgers: dict[str, Path]


def snapshot(worker: Worker) -> Snapshot:
    """Return a worker's numbers as they are now; to be called where the worker lives."""
    batches = _shown(worker)
    found = [*_of_worker(worker_view(worker)), *_of_batches(batches)]
    if worker.account is not None:
        found += _of_instruments(worker.account.shared.instruments)
        found.append(_requests(worker.account.client.requests.latencies))
    return Snapshot(found, {view.id: Path(view.out_dir) / LEDGER for view in batches})


def exposition(taken: Snapshot, accept: str) -> tuple[bytes, str]:
    """Write metrics out, with those of the process and the sizes of the ledgers; for a thread, since it reads files.

    Returns:
        The text, and its content type: the one that `accept` asks for.
    """
    encode, content_type = choose_encoder(accept)
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
    """Return the batches that are not over; those that are under way before those that rest."""
    alive = [each for each in worker.shelf if not each.state.is_over]
    alive.reverse()
    alive.sort(key=lambda each: not each.state.is_under_way)
    return [batch_view(worker, each) for each in alive[:MAX_BATCHES]]


def _of_worker(view: WorkerView) -> Iterator[Metric]:
    build = {"version": view.version, "python": platform.python_version()}
    yield InfoMetricFamily("batchrun_build", "What runs here.", build)
    yield _gauge("worker_start_time_seconds", "When the worker began, in Unix time.", view.began_at.timestamp())
    yield _gauge("worker_ready", "1 while batches can be carried out.", view.is_ready)
    yield _gauge("worker_draining", "1 while the worker comes to its end.", view.is_draining)
    yield _gauge("platform_outage", "1 while the platform cannot be reached.", bool(view.outage))
    batches = GaugeMetricFamily("batchrun_batches", "Batches by state.", labels=["state"])
    for state in State:
        batches.add_metric([state], view.batches.get(state, 0))
    yield batches
    yield _gauge("live_runs", "Runs that are live or being started.", view.live_runs)
    yield _gauge("slots_used", "Places for live Runs that are taken.", view.slots.used)
    yield _gauge("slots_limit", "Places for live Runs.", view.slots.limit)
    yield _gauge("memory_used_megabytes", "Memory of the Runs that are live.", view.slots.memory_mb)
    yield _gauge("memory_limit_megabytes", "Most memory of all live Runs.", view.slots.max_memory_mb)
    if view.budget is not None:
        yield _gauge("budget_limit_dollars", "Most that all batches may cost.", view.budget.limit_usd)
        yield _gauge("budget_spent_dollars", "What of the budget is spent.", view.budget.spent_usd)
        yield _gauge("budget_reserved_dollars", "What of it is set aside for live Runs.", view.budget.reserved_usd)


def _of_batches(views: Sequence[BatchView]) -> Iterator[Metric]:
    outcomes = GaugeMetricFamily(
        "batchrun_batch_jobs_settled", "Settled jobs of a batch by outcome.", labels=["batch", "outcome"]
    )
    for view in views:
        for outcome, count in view.outcomes.items():
            outcomes.add_metric([view.id, outcome], count)
    yield outcomes
    columns: dict[str, tuple[str, Sequence[float | None]]] = {
        "jobs": ("Jobs of a batch, about.", [view.jobs.total for view in views]),
        "jobs_postponed": ("Jobs that wait for their next attempt.", [view.jobs.postponed for view in views]),
        "starts_in_doubt": ("Starts whose answer was lost.", [view.jobs.in_doubt for view in views]),
        "live_runs": ("Runs of a batch that are live.", [view.live_runs for view in views]),
        "slots_limit": ("Most Runs of a batch at once.", [view.max_concurrent_runs for view in views]),
        "items": ("Items that a batch has collected.", [view.items for view in views]),
        "cost_dollars": ("Known costs of a batch.", [view.cost_usd for view in views]),
        "budget_dollars": ("Most that a batch may cost.", [view.budget_usd for view in views]),
    }
    for name, (told, values) in columns.items():
        family = GaugeMetricFamily(f"batchrun_batch_{name}", told, labels=["batch"])
        for view, value in zip(views, values, strict=True):
            if value is not None:
                family.add_metric([view.id], value)
        yield family


def _of_instruments(instruments: Instruments) -> Iterator[Metric]:
    total = instruments.total()
    settled = CounterMetricFamily(
        "batchrun_jobs_settled", "Jobs settled since the worker began, by outcome.", labels=["outcome"]
    )
    for outcome, count in total.outcomes.items():
        settled.add_metric([outcome], count)
    yield settled
    yield CounterMetricFamily("batchrun_runs_started", "Runs started since the worker began.", total.started)
    yield CounterMetricFamily("batchrun_items", "Items collected since the worker began.", total.items)
    yield CounterMetricFamily(
        "batchrun_cost_dollars", "Known costs of what was settled since the worker began.", total.cost_usd
    )
    yield CounterMetricFamily(
        "batchrun_costs_unknown", "Runs settled since the worker began whose cost is unknown.", total.unknown_costs
    )
    yield CounterMetricFamily(
        "batchrun_start_token_wait_seconds",
        "Time for which a batch's next start was held back by a rate.",
        instruments.token_wait_s,
    )
    yield _histogram("refill_seconds", "From the end of a Run to the start that fills its slot.", instruments.refills)
    yield _histogram("ledger_commit_seconds", "How long commits take.", instruments.commits.latency)
    yield _histogram("ledger_commit_steps", "Steps in one commit.", instruments.commits.steps)


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
        with suppress(OSError):  # it is not begun
            log = file.with_name(f"{file.name}-wal")
            family.add_metric([batch], file.stat().st_size + (log.stat().st_size if log.exists() else 0))
    return family


def _gauge(name: str, told: str, value: float | None) -> Metric:
    """Return a gauge; without a sample where the value is unknown."""
    family = GaugeMetricFamily(f"batchrun_{name}", told)
    if value is not None:
        family.add_metric([], value)
    return family


def _histogram(name: str, told: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(f"batchrun_{name}", told, _buckets(histogram), histogram.sum)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))
