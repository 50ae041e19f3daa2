"""Handlers for the live Runs of a batch: a page of them, the log of one, its abort."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import anyio
import orjson
from aiohttp import web

from batchrun.account.account import Account
from batchrun.apify.client import ApifyClient
from batchrun.batch.running_batch import Batch
from batchrun.errors import ApiError, NoUsableAnswer, TransportError
from batchrun.ledger.facts import TASK_ID
from batchrun.ledger.sqlite.queries.open_runs import OpenRun
from batchrun.ledger.sqlite.reader import open_for_reading
from batchrun.maintenance.noted_config import read_config
from batchrun.model import Run, RunId, TaskId
from batchrun.output.kept_logs import KeptLogs
from batchrun.policy.secret_fields import without
from batchrun.preflight.preparation import read_input_secrets
from batchrun.report.failures_by_cause import run_address
from batchrun.report.sent_overrides import sent_override
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.worker.http.batch_files import has_ledger, out_dir_of, secret_fields
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.request_context import search_of, submission_of, whole_number, worker_of

DEFAULT_RUNS = 50
MAX_RUNS = 100
#: Seconds for which what the platform said about a Run is good enough.
FRESH_S = 10.0
#: Seconds that a page waits for what the platform says about its Runs.
PATIENCE_S = 2.0
#: Max requests for that at once.
_MAX_REQUESTS = 20
#: Max Runs whose state is kept.
_MAX_KEPT = 2000
#: Max characters of a status and of a status message: Actors choose the latter.
_MAX_CHARS = 1000
LOG_BYTES = 64 << 10
LOG_PATIENCE_S = 15.0

T = TypeVar("T")
#: Returns the secret texts of a Run's input; None: they are unknown.
SecretsOf = Callable[[RunId], Collection[str] | None]


@dataclass(frozen=True, slots=True)
class _Shown:
    """What is shown of a Run: a whole one may be a megabyte."""

    status: str
    status_message: str | None
    memory_mb: int | None
    cost_usd: float | None


def _shown(run: Run, secrets: Collection[str] | None) -> _Shown:
    """Return what is shown of a Run; no message, if the secrets of its input are unknown (None)."""
    said = run.fields.get("statusMessage")
    return _Shown(
        str(run.fields.get("status", run.status))[:_MAX_CHARS],
        without(said, secrets)[:_MAX_CHARS] if isinstance(said, str) and secrets is not None else None,
        run.memory_mb,
        run.cost_usd,
    )


class RunStates:
    """What the platform said last about the Runs that somebody looks at: their status message, memory and cost."""

    def __init__(self) -> None:
        self._known: dict[RunId, tuple[float, _Shown]] = {}

    async def look(self, account: Account, secrets_of: SecretsOf, run_ids: list[RunId]) -> dict[RunId, _Shown]:
        """Return the states of some Runs, as far as they are known within PATIENCE_S."""
        old = anyio.current_time() - FRESH_S
        asked = [each for each in run_ids if each not in self._known or self._known[each][0] < old]
        limiter = anyio.Semaphore(_MAX_REQUESTS)
        with anyio.move_on_after(PATIENCE_S):
            async with anyio.create_task_group() as children:
                for run_id in asked:
                    children.start_soon(self._ask, account, secrets_of, run_id, limiter)
        while len(self._known) > _MAX_KEPT:
            del self._known[next(iter(self._known))]
        return {each: self._known[each][1] for each in run_ids if each in self._known}

    async def _ask(self, account: Account, secrets_of: SecretsOf, run_id: RunId, limiter: anyio.Semaphore) -> None:
        async with limiter:
            try:
                run = await account.client.get_run(run_id, gives_up=True)
            except (ApiError, TransportError):
                return  # its row stays without a message
            self._known.pop(run_id, None)
            self._known[run_id] = anyio.current_time(), _shown(run, secrets_of(run_id))


_STATES = web.AppKey("run_states", RunStates)


def prepare(app: web.Application) -> None:
    """Create what the handlers share."""
    app[_STATES] = RunStates()


async def get_runs(request: web.Request) -> web.Response:
    """Return some live Runs, oldest first, with what the platform says about them, and the number of all."""
    worker, out_dir = worker_of(request), await out_dir_of(request)
    offset, limit = whole_number(request, "offset", 0, 1 << 31), whole_number(request, "limit", DEFAULT_RUNS, MAX_RUNS)
    found: list[OpenRun] = []
    total = 0
    if await has_ledger(out_dir):
        found, total = await anyio.to_thread.run_sync(_read, out_dir, offset, limit, search_of(request))
    states: dict[RunId, _Shown] = {}
    if worker.account is not None and (batch := _open_batch(request)) is not None:
        states = await request.app[_STATES].look(worker.account, batch.secrets_of, [run.run_id for run in found])
    items = [{**_row(run, states.get(run.run_id)), "url": run_address(worker.api, run.run_id)} for run in found]
    return web.Response(body=orjson.dumps({"items": items, "total": total}), content_type="application/json")


def _open_batch(request: web.Request) -> Batch | None:
    runner = worker_of(request).runners.get(submission_of(request).id)
    return runner.batch if runner is not None else None


def _read(out_dir: Path, offset: int, limit: int, search: str) -> tuple[list[OpenRun], int]:
    with open_for_reading(out_dir) as ledger, ledger.snapshot():
        return ledger.open_runs.page(offset, limit, search)


def _row(run: OpenRun, state: _Shown | None) -> dict[str, Any]:
    row = asdict(run)
    if state is None:
        return {**row, "status": None, "status_message": None}
    return {
        **row,
        "status": state.status,
        "status_message": state.status_message,
        "memory_mb": state.memory_mb or run.memory_mb,
        "cost_usd": run.cost_usd if state.cost_usd is None else state.cost_usd,
    }


async def get_run_log(request: web.Request) -> web.Response:
    """Return the end of a Run's log: from the platform, or as it was kept."""
    worker, (out_dir, run_id) = worker_of(request), await _run_of(request)
    tail = await anyio.to_thread.run_sync(KeptLogs(out_dir).read, run_id)
    if tail is None:
        if worker.account is None:
            raise Refused(503, "not-possible-now", worker.why_not_ready)
        client = worker.account.client
        await _refuse_foreign(request, client, out_dir, run_id)
        tail = await _patiently("give this log", client, client.get_log_tail(run_id, LOG_BYTES))
        batch = _open_batch(request)
        secrets: Collection[str] | None = batch.secrets_of(run_id) if batch is not None else None
        if secrets is None:
            secrets = await _patiently("show the input of this Run", client, _secrets_of(client, out_dir, run_id))
        if secrets is None:
            raise Refused(
                409,
                "wrong-state",
                "the job's line cannot be read, or has changed since: which secrets this log may quote is unknown. The"
                " platform shows the log",
            )
        tail = without(tail.decode("utf-8", "replace"), secrets).encode()
    return web.Response(body=tail, content_type="text/plain", charset="utf-8")


async def _secrets_of(client: ApifyClient, out_dir: Path, run_id: RunId) -> Collection[str] | None:
    """Return the secret texts of an ended Run's input; None: its line cannot be read, or has changed since."""
    fields = await anyio.to_thread.run_sync(secret_fields, out_dir)
    if fields.paths == ():
        return ()
    config, task_id = await anyio.to_thread.run_sync(lambda: read_config(out_dir, is_own=True))
    override = await anyio.to_thread.run_sync(sent_override, out_dir, config, run_id)
    if override is None:
        return None
    return (await read_input_secrets(client, config, task_id, fields)).of(override)


async def abort_run(request: web.Request) -> web.Response:
    """Abort one live Run; its job settles as aborted."""
    worker, submission, (out_dir, run_id) = worker_of(request), submission_of(request), await _run_of(request)
    is_open = submission.id in worker.runners or (submission.shards is not None and submission.state.is_under_way)
    if worker.account is None or not is_open:
        raise Refused(409, "wrong-state", "the batch is not open; resume it, then abort its Runs")
    client = worker.account.client
    await _refuse_foreign(request, client, out_dir, run_id)
    await _patiently("abort this Run", client, client.abort_run(run_id, gives_up=True))
    return web.Response(status=204)


async def _patiently(what: str, client: ApifyClient, answer: Awaitable[T]) -> T:
    """Give the platform `LOG_PATIENCE_S` to do what is asked, named in words.

    Raises:
        Refused: it does not.
    """
    try:
        return await client.within(LOG_PATIENCE_S, answer)
    except NoUsableAnswer as error:
        raise Refused(502, "not-possible-now", f"asked to {what}, the platform {error}") from None
    except (ApiError, TransportError) as error:
        raise Refused(502, "not-possible-now", f"the platform does not {what}: {error}") from None


async def _run_of(request: web.Request) -> tuple[Path, RunId]:
    """Return the batch's output directory and the Run in a request's path, if it is one of the batch's."""
    run_id, out_dir = RunId(request.match_info["run_id"]), await out_dir_of(request)
    if not await has_ledger(out_dir) or not await anyio.to_thread.run_sync(_is_known, out_dir, run_id):
        raise Refused(404, "run-not-found", f"this batch has no Run {run_id[:100]!r}")
    return out_dir, run_id


async def _refuse_foreign(request: web.Request, client: ApifyClient, out_dir: Path, run_id: RunId) -> None:
    """Refuse a Run of another task: whoever can write beside a spooled batch chooses which Runs its ledger names."""
    batch = _open_batch(request)
    task_id = batch.opening.task.id if batch is not None else await anyio.to_thread.run_sync(_task_of, out_dir)
    run = await _patiently("show this Run", client, client.get_run(run_id, gives_up=True))
    if task_id is not None and run.is_of_another(task_id):
        raise Refused(404, "run-not-found", f"Run {run_id} is of another task")


def _task_of(out_dir: Path) -> TaskId | None:
    with open_for_reading(out_dir) as ledger:
        return ledger.fact(TASK_ID)


def _is_known(out_dir: Path, run_id: RunId) -> bool:
    with open_for_reading(out_dir) as ledger:
        return bool(ledger.known_runs([run_id]))


ROUTES = [
    web.get("/v1/batches/{ref}/runs", get_runs),
    web.get("/v1/batches/{ref}/runs/{run_id}/log", get_run_log),
    web.post("/v1/batches/{ref}/runs/{run_id}/abort", abort_run),
]
