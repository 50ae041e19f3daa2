"""Errors of the API: always the same envelope, never a traceback."""

import structlog
from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.typedefs import Handler

from batchrun.errors import BatchrunError, ConfigError, JobFileError, LogUnreachable
from batchrun.worker.status_views import FLEET_UNREACHABLE
from batchrun.worker.submission_store import UnknownBatch, WrongState

_log = structlog.get_logger()

#: Status and type of our errors; the first matching class counts.
_STATUS_AND_TYPE: dict[type[BatchrunError], tuple[int, str]] = {
    UnknownBatch: (404, "batch-not-found"),
    WrongState: (409, "wrong-state"),
    ConfigError: (400, "bad-batch"),
    JobFileError: (400, "bad-batch"),
    LogUnreachable: (503, FLEET_UNREACHABLE),
    BatchrunError: (503, "not-possible-now"),
}


#: Max characters of a message, which may list 20 problems and a submitter's keys.
MAX_MESSAGE_CHARS = 10_000
#: Seconds after which what is not possible now may be.
RETRY_AFTER_S = 5


class Refused(Exception):
    """The error with which a request is answered; its type is a code for programs, like `bad-value`."""

    def __init__(self, status: int, type: str, message: str) -> None:  # noqa: A002 - the envelope's own word
        super().__init__(message)
        self.status, self.type, self.message = status, type, message


def error_answer(status: int, type_: str, message: str) -> web.Response:
    """Return an error answer; a message that quotes what was sent is cut."""
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else None
    return web.json_response(
        {"error": {"type": type_, "message": message[:MAX_MESSAGE_CHARS]}}, status=status, headers=headers
    )


@web.middleware
async def put_errors_into_envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with status, type and message."""
    try:
        return await handler(request)
    except (Refused, BatchrunError, HttpProcessingError, web.RequestPayloadError) as error:
        return error_answer(*_told(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _plain(error)
    except ConnectionError:
        return web.Response()  # the client is gone; raised, this would be logged like a bug
    except Exception as error:  # noqa: BLE001 - a bug in one request must not end the worker
        _log.exception("request_broken", method=request.method, path=request.path)
        return error_answer(500, "bug", f"a bug in batchrun: {type(error).__name__}; its log has the traceback")


def _told(error: Exception) -> tuple[int, str, str]:
    """Return status, type and message of an error."""
    if isinstance(error, Refused):
        return error.status, error.type, error.message
    if isinstance(error, BatchrunError):
        return *next(answer for kind, answer in _STATUS_AND_TYPE.items() if isinstance(error, kind)), str(error)
    return 400, "bad-request", "the body is not what its headers say: a form, its length, its encoding"


def _plain(error: web.HTTPException) -> web.Response:
    type_ = {404: "page-not-found", 405: "method-not-allowed", 413: "body-too-large"}.get(error.status, "bad-request")
    answer = error_answer(error.status, type_, error.text or error.reason)
    if "Allow" in error.headers:
        answer.headers["Allow"] = error.headers["Allow"]
    return answer
