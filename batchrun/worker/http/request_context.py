"""The worker, the batch and the body of a request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
from aiohttp import web
from pydantic import BaseModel, ValidationError

from batchrun.config.load import as_config_error
from batchrun.config.text_bounds import parse_json
from batchrun.model import JsonObject
from batchrun.runtime.children import open_children
from batchrun.worker.http.error_envelope import Refused
from batchrun.worker.http.page_access import PageAccess
from batchrun.worker.submission import Submission
from batchrun.worker.submission_store import UnknownBatch
from batchrun.worker.worker import Worker

#: Timeout for the arrival of a body, in seconds; a form has another second for each `MIN_BYTES_PER_S`.
BODY_TIMEOUT_S = 120
MIN_BYTES_PER_S = 10_000
#: Max characters that are searched for.
MAX_SEARCH = 200
#: Max characters of an idempotency key.
MAX_KEY = 200
#: Seconds between two looks whether a client is still there.
_LOOK_S = 0.5
M = TypeVar("M", bound=BaseModel)
WORKER = web.AppKey("worker", Worker)
PAGE = web.AppKey("page", PageAccess)
#: Of a request: true if a signed link has let it in, and nothing else.
IS_LINKED = web.RequestKey("is_linked", bool)


def worker_of(request: web.Request) -> Worker:
    """Return the worker of a request."""
    return request.app[WORKER]


def submission_of(request: web.Request) -> Submission:
    """Return the batch in a request's path: its id, or a name that only one batch has.

    Raises:
        UnknownBatch, LogUnreachable: as `find_batch`.
    """
    return find_batch(worker_of(request), request.match_info["ref"])


def find_batch(worker: Worker, ref: str) -> Submission:
    """Return the batch with an id, or with a name that only one has.

    Raises:
        UnknownBatch: there is none, or several have the name.
        LogUnreachable: none is known, as the worker has not read the fleet's list yet.
    """
    try:
        return worker.store.find(ref)
    except UnknownBatch:
        if worker.fleet is not None:
            worker.fleet.refuse_unread()
        raise


def batch_to_order(request: web.Request) -> Submission:
    """Return the batch in a request's path, for an order that changes it.

    Raises:
        UnknownBatch, LogUnreachable: as `submission_of`.
        WrongState: it is from before the worker's fleet.
        Refused: it is a part of another one, which obeys for all its parts.
    """
    submission, fleet = submission_of(request), worker_of(request).fleet
    if fleet is not None:
        fleet.refuse_from_before(submission)
    if submission.part_of is not None:
        problem = f"batch {submission.id} is a part of {submission.part_of}: give the order for that batch"
        raise Refused(409, "wrong-state", problem)
    return submission


def idempotency_key(request: web.Request) -> str | None:
    """Return the Idempotency-Key of a request; None without one."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isprintable()):
        raise Refused(400, "bad-value", f"Idempotency-Key: send 1 to {MAX_KEY} printable characters")
    return key


def whole_number(request: web.Request, name: str, default: int, most: int) -> int:
    """Return a parameter of a request's query.

    Raises:
        Refused: it is not a whole number from 0 to `most`.
    """
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18 or int(text) > most:
        raise Refused(400, "bad-value", f"{name}: send a whole number up to {most:,}")
    return int(text)


def search_of(request: web.Request) -> str:
    """Return what a request searches for.

    Raises:
        Refused: it is too long.
    """
    if len(search := request.query.get("search", "")) > MAX_SEARCH:
        raise Refused(400, "bad-value", f"search: send at most {MAX_SEARCH} characters")
    return search.encode("utf-8", "replace").decode()


def refuse_encoding(request: web.Request) -> None:
    """Refuse a body that is compressed: it could be a thousand times larger than what was sent."""
    if request.headers.get("Content-Encoding", "identity") != "identity":
        raise Refused(415, "unsupported-media-type", "send the body without a Content-Encoding")


def too_slow() -> Refused:
    """Return the refusal of a body that does not arrive."""
    return Refused(408, "request-timeout", f"the body did not arrive within {BODY_TIMEOUT_S} s; send it again")


async def read_object(request: web.Request) -> JsonObject:
    """Return a request's body.

    Raises:
        Refused: the body is not a JSON object, or does not arrive.
    """
    refuse_encoding(request)
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            found = parse_json(await request.read())
    except TimeoutError:
        raise too_slow() from None
    except ValueError as error:
        raise Refused(400, "bad-value", f"the body {error}") from None
    if not isinstance(found, dict):
        raise Refused(400, "bad-value", "send a JSON object")
    return found


def validated(model: type[M], given: JsonObject) -> M:
    """Return what was sent as a model.

    Raises:
        Refused: it does not fit.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise Refused(400, "bad-value", str(as_config_error(error, None, {}, model))) from None


@asynccontextmanager
async def while_asked(request: web.Request) -> AsyncIterator[None]:
    """Cancel the block when the client is gone: only for what changes nothing.

    Raises:
        ConnectionResetError: the client is gone.
    """
    async with open_children(cancels_on_leaving=True) as children:
        children.start_soon(_until_gone, request, children.cancel_scope)
        yield
    if request.transport is None:
        raise ConnectionResetError("the client is gone")


async def _until_gone(request: web.Request, scope: anyio.CancelScope) -> None:
    while request.transport is not None:  # noqa: ASYNC110 - cancelling its handler is all that aiohttp offers
        await anyio.sleep(_LOOK_S)
    scope.cancel()
