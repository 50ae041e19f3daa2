"""Errors as the API tells them: always the same envelope, never a traceback."""

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from batchrun.errors import BatchrunError, ConfigError, JobFileError
from batchrun.worker.worker import UnknownBatch, WrongState

_log = structlog.get_logger()

#: How errors of ours are told; the first kind that fits.
_TOLD: dict[type[BatchrunError], tuple[int, str]] = {
    UnknownBatch: (404, "batch-not-found"),
    WrongState: (409, "wrong-state"),
    ConfigError: (400, "bad-batch"),
    JobFileError: (400, "bad-batch"),
    BatchrunError: (503, "not-possible-now"),
}


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP status.
        type: a word for programs, like `bad-value`.
        message: what is wrong and what to do.
    """

    def __init__(self, status: int, type: str, message: str) -> None:  # noqa: A002 - the envelope's own word
        super().__init__(message)
        self.status, self.type, self.message = status, type, message


def error_answer(status: int, type_: str, message: str) -> web.Response:
    """Return an error in the envelope."""
    return web.json_response({"error": {"type": type_, "message": message}}, status=status)


@web.middleware
async def put_errors_into_envelope(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error with status, type and message."""
    try:
        return await handler(request)
    except Refused as refused:
        return error_answer(refused.status, refused.type, refused.message)
    except BatchrunError as error:
        status, type_ = next(told for kind, told in _TOLD.items() if isinstance(error, kind))
        return error_answer(status, type_, str(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _plain(error)
    except ConnectionResetError:
        return web.Response()  # whoever asked is gone; raised, it would be logged like a bug
    except Exception as error:  # noqa: BLE001 - one request's bug is no end of the worker
        _log.exception("request_broken", method=request.method, path=request.path)
        return error_answer(500, "bug", f"a bug in batchrun: {type(error).__name__}; its log tells where")


def _plain(error: web.HTTPException) -> web.Response:
    type_ = {404: "page-not-found", 405: "method-not-allowed", 413: "body-too-large"}.get(error.status, "bad-request")
    answer = error_answer(error.status, type_, error.text or error.reason)
    if "Allow" in error.headers:
        answer.headers["Allow"] = error.headers["Allow"]
    return answer
