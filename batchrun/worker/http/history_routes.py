"""Handlers for what was over time: of one batch, and of the worker's slots."""

from datetime import UTC, datetime
from typing import NamedTuple

import anyio
import orjson
from aiohttp import web

from batchrun.report.batch_history import BatchHistory, read_history
from batchrun.report.report_data import Distribution
from batchrun.worker.http.batch_files import has_ledger, out_dir_of
from batchrun.worker.http.request_context import submission_of, whole_number, worker_of

#: Max seconds that `last_s` may ask for.
MAX_LAST_S = 10_000_000
#: Max points of the worker's own history.
MAX_POINTS = 300
#: A history is read again after this many times the duration of its last reading: it takes seconds for a large batch.
_REST_PER_READING = 10
#: Max histories that are kept.
_MAX_KEPT = 32


class _Reading(NamedTuple):
    history: BatchHistory | None
    again_at: float
    #: When how long Runs took is read again, which may be from another reading.
    times_again_at: float


#: A batch, the seconds that are read, and how many of its jobs are settled; -1: it is open.
_Key = tuple[str, int, int]
_READINGS = web.AppKey("readings", dict[_Key, _Reading])


def prepare(app: web.Application) -> None:
    """Create what the handlers share."""
    app[_READINGS] = {}


async def get_history(request: web.Request) -> web.Response:
    """Return a batch over time, from its beginning or over its last seconds; null if nothing is known yet."""
    worker, submission = worker_of(request), submission_of(request)
    out_dir, last_s = await out_dir_of(request), whole_number(request, "last_s", 0, MAX_LAST_S)
    runner = worker.runners.get(submission.id)
    is_open = runner is not None and runner.batch is not None
    # One of a batch that rests is the same until it has settled something more.
    key = (submission.id, last_s, -1 if is_open else submission.counts.settled)
    readings, now = request.app[_READINGS], anyio.current_time()
    if (known := readings.get(key)) is None or now >= known.again_at:
        history, times = None, _newest_times(readings, key, now)
        if await has_ledger(out_dir):
            history = await anyio.to_thread.run_sync(
                lambda: read_history(out_dir, is_open=is_open, last_s=last_s or None, run_times=times and times[0])
            )
        took_s = anyio.current_time() - now
        again_at = now + _REST_PER_READING * took_s
        known = readings[key] = _Reading(history, again_at, again_at if times is None else times[1])
        while len(readings) > _MAX_KEPT:
            del readings[next(iter(readings))]
    body = orjson.dumps(known.history, option=orjson.OPT_NON_STR_KEYS)  # percentiles are by number
    return web.Response(body=body, content_type="application/json")


def _newest_times(readings: dict[_Key, _Reading], key: _Key, now: float) -> tuple[Distribution, float] | None:
    """Return how long Runs took, which is the same over any time, and until when; None: it is to be read."""
    for (batch, _, settled), known in readings.items():
        times = known.history.run_times if known.history is not None else None
        if times is not None and (batch, settled) == (key[0], key[2]) and now < known.times_again_at:
            return times, known.times_again_at
    return None


async def get_worker_history(request: web.Request) -> web.Response:
    """Return live Runs and max live Runs of all batches over the last hour."""
    samples = list(worker_of(request).samples)
    step = max(1, -(-len(samples) // MAX_POINTS))
    groups = [samples[at : at + step] for at in range(0, len(samples), step)]
    points = {
        "at": [group[0][0] for group in groups],
        "live_runs": [sum(live for _, live, _ in group) / len(group) for group in groups],
        "max_live_runs": [group[-1][2] for group in groups],
        "until": datetime.now(UTC),
    }
    return web.Response(body=orjson.dumps(points), content_type="application/json")


ROUTES = [web.get("/v1/batches/{ref}/history", get_history), web.get("/v1/worker/history", get_worker_history)]
