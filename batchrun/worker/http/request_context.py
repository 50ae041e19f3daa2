"""What a handler needs of its request: the worker, and the batch that the address names."""

from aiohttp import web

from batchrun.worker.submission import Submission
from batchrun.worker.worker import Worker

WORKER = web.AppKey("worker", Worker)


def worker_of(request: web.Request) -> Worker:
    """Return the worker that a request is for."""
    return request.app[WORKER]


def submission_of(request: web.Request) -> Submission:
    """Return the batch that a request's address names, by id or by a name that only one has.

    Raises:
        UnknownBatch: there is none.
    """
    return worker_of(request).find(request.match_info["ref"])
