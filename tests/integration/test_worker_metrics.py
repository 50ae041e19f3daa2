"""/metrics: the same numbers as in the worker's other views."""

import sys

import anyio
import orjson
import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from batchrun.apify.request_meter import endpoint_of
from batchrun.config.worker_config import WorkerConfig
from batchrun.worker import metrics
from batchrun.worker.data_directory import open_data_directory
from batchrun.worker.http import PageAccess, metrics_routes, open_http
from batchrun.worker.token_file import Token
from batchrun.worker.worker import Worker, open_worker
from tests.support.crash import open_api, wait_until
from tests.support.worker_process import WorkerProcess

LONG_MS = 600_000


def _samples(worker: WorkerProcess) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    status, text = worker.ask("/metrics")
    assert status == 200, text
    return _read(text.decode())


def _read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = list(text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    found = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples), "each series stands there once"
    return found


def _of(samples, name, **labels) -> float | None:
    value: float | None = samples.get((f"batchrun_{name}", frozenset(labels.items())))
    return value


def test_metrics_agree_with_the_views_and_with_the_platform(tmp_path):
    """Batches, live Runs, slots and memory as in /v1/worker; starts and settled jobs as the server's Runs."""
    with open_api(tmp_path / "api") as api:
        worker = WorkerProcess(tmp_path / "data", api.base_url, "[limits]\nmax_concurrent_runs = 7\n")
        done = [{"n": n, "items": 2, "fails": n == 3} for n in range(20)]
        held = [{"n": n, "ms": LONG_MS} for n in range(4)]
        with worker.running():
            worker.put_batch("done", done, "[retry]\nmax_attempts = 1\n")
            worker.wait_for_end("done")
            worker.put_batch("held", held)
            wait_until(lambda: _of(_samples(worker), "live_runs") == 4)
            wait_until(lambda: _of(_samples(worker), "runs_started_total") == 24)
            samples, view = _samples(worker), orjson.loads(worker.ask("/v1/worker")[1])
            batches = worker.batches()
        assert len(api.runs()) == 24
    held_id = batches["held"]["id"]
    assert view["live_runs"] == _of(samples, "batch_live_runs", batch=held_id) == 4
    assert view["slots"] == {
        "used": _of(samples, "slots_used"),
        "limit": _of(samples, "slots_limit"),
        "memory_mb": _of(samples, "memory_used_megabytes"),
        "max_memory_mb": _of(samples, "memory_limit_megabytes"),
    }
    assert {state: _of(samples, "batches", state=state) for state in view["batches"]} == view["batches"]
    assert (_of(samples, "worker_ready"), _of(samples, "platform_outage")) == (1, 0)
    assert _of(samples, "jobs_settled_total", outcome="succeeded") == 19
    assert _of(samples, "jobs_settled_total", outcome="failed") == 1
    assert _of(samples, "items_total") == 40
    starts = {"method": "POST", "endpoint": "/actor-tasks/{}/runs", "status": "201"}
    assert _of(samples, "request_seconds_count", **starts) == 24
    assert _of(samples, "request_seconds_bucket", le="+Inf", **starts) == 24
    assert (_of(samples, "ledger_commit_seconds_count") or 0) > 0
    assert (_of(samples, "batch_ledger_bytes", batch=held_id) or 0) > 0
    # Finished batches have no labels, and batches are the only ids among the labels.
    assert {dict(labels)["batch"] for _, labels in samples if "batch" in dict(labels)} == {held_id}
    words = {word for _, labels in samples for name, value in labels if name != "batch" for word in value.split("/")}
    assert [word for word in words if len(word) == 17 and word.isalnum()] == [], "ids of the platform look like that"


async def _metrics_without_platform(data_dir, config) -> tuple[int, str]:
    """Return the answer of /metrics before the platform has answered."""
    checked = WorkerConfig.model_validate({"worker": {"port": 0}, **config})
    async with (
        open_data_directory(data_dir) as directory,
        open_worker(directory, checked, {}) as worker,
        open_http(worker, Token("t"), PageAccess()) as address,
        ClientSession() as session,
        session.get(f"{address}/metrics") as answer,
    ):
        return answer.status, await answer.text()


async def test_metrics_are_served_before_the_platform_answers(tmp_path):
    """Unknown values have no sample; the budget of all batches is the configured one."""
    _, text = await _metrics_without_platform(tmp_path, {"limits": {"budget_usd": 3.5}})
    samples = _read(text)
    assert (_of(samples, "worker_ready"), _of(samples, "live_runs")) == (0, 0)
    assert _of(samples, "budget_limit_dollars") == 3.5
    assert (_of(samples, "slots_used"), _of(samples, "slots_limit")) == (0, None)
    assert _of(samples, "batches", state="active") == 0


async def test_many_who_ask_without_a_token_share_what_is_made(tmp_path, monkeypatch):
    """Whatever their headers ask for: making it takes 0.2 s of the event loop where there are 300 batches."""
    made: list[Worker] = []
    take = metrics.snapshot

    def snapshot(worker: Worker) -> metrics.MetricsSnapshot:
        made.append(worker)
        return take(worker)

    monkeypatch.setattr(metrics, "snapshot", snapshot)
    monkeypatch.setattr(metrics_routes, "FRESH_S", 60)
    checked = WorkerConfig.model_validate({"worker": {"port": 0}})
    answers: list[tuple[int, str]] = []
    async with (
        open_data_directory(tmp_path) as directory,
        open_worker(directory, checked, {}) as worker,
        open_http(worker, Token("t"), PageAccess()) as address,
        ClientSession() as session,
        anyio.create_task_group() as children,
    ):

        async def ask(accept: str) -> None:
            async with session.get(f"{address}/metrics", headers={"Accept": accept}) as answer:
                answers.append((answer.status, answer.content_type))

        for _ in range(10):
            for accept in ("text/plain", "application/openmetrics-text; version=x", "*/*"):
                children.start_soon(ask, accept)
    assert (len(made), sorted(set(answers))) == (1, [(200, "application/openmetrics-text"), (200, "text/plain")])


async def test_without_the_extra_the_answer_names_the_package(tmp_path, monkeypatch):
    """501 in the envelope, with the command that installs it; other routes work."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "batchrun.worker.metrics", raising=False)
    monkeypatch.delattr("batchrun.worker.metrics", raising=False)
    status, text = await _metrics_without_platform(tmp_path, {})
    error = orjson.loads(text)["error"]
    assert (status, error["type"]) == (501, "extra-missing")
    assert "pip install '.[metrics]'" in error["message"]


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/actor-tasks/abc~def/runs", "/actor-tasks/{}/runs"),
        ("/actor-runs", "/actor-runs"),
        ("/actor-runs/k2J8Hx/abort", "/actor-runs/{}/abort"),
        ("/users/me/usage/monthly", "/users/me/usage/monthly"),
        ("/key-value-stores/x/records/OUTPUT", "/key-value-stores/{}/records/{}"),
    ],
)
def test_an_endpoint_is_a_path_without_ids(path, endpoint):
    """The number of labels is bounded, however many ids there are."""
    assert endpoint_of(path) == endpoint
