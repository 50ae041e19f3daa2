"""The worker and the batch of a request."""

from aiohttp import web

from batchrun.worker.submission import Submission
from batchrun.worker.worker import Worker

WORKER = web.AppKey("worker", Worker)


def worker_of(request: web.Request) -> Worker:
    """Return the worker of a request."""
    return request.app[WORKER]


def submission_of(request: web.Request) -> Submission:
    """Return the batch in a request's path: its id, or a name that only one batch has.

    Raises:
        UnknownBatch: there is none, or several have the name.
    """
    return worker_of(request).store.find(request.match_info["ref"])
