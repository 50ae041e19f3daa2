"""Error answers as the errors in errors.py: whether an answer is the API's own, and which type means what.

Source of the types: the Apify API v2 reference (https://docs.apify.com/api/v2).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from batchrun.apify import wire
from batchrun.apify.connections import Answer
from batchrun.apify.foreign_answers import in_words
from batchrun.apify.mended_json import parse_json
from batchrun.apify.retry_after import retry_after_s
from batchrun.errors import (
    ApiError,
    ForeignAnswer,
    NotFound,
    OutOfCredit,
    RateLimited,
    ResourcesBusy,
    ServerFailed,
    Unauthorized,
)

#: Addresses of an error's `data` that its message shows, and the longest one.
MAX_ADVICE, MAX_ADVICE_CHARS = 3, 500
#: The account's limits on what is live: a later start may pass.
_BUSY_TYPES = frozenset({"actor-memory-limit-exceeded", "concurrent-runs-limit-exceeded"})
#: The account cannot pay: no later start passes.
_OUT_OF_CREDIT_TYPES = frozenset(
    {
        "not-enough-usage-to-run-paid-actor",
        "platform-feature-disabled",
        "monthly-usage-limit-too-low",
        "x402-payment-required",
    }
)
#: The API gave up in the middle of a request: its effect is unknown, whatever the status.
_GAVE_UP_TYPES = frozenset(
    {
        "concurrent-update-detected",
        "operation-canceled",
        "operation-timed-out",
        "query-timeout",
        "request-aborted-prematurely",
        "socket-closed",
        "socket-destroyed",
    }
)
_RATE_TYPES = frozenset({"rate-limit-exceeded", "too-many-requests"})
_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    408: ServerFailed,
    429: RateLimited,
}


def parse_error(answer: Answer, *, method: str, path: str, now: datetime) -> ApiError | ForeignAnswer:
    """Return the error for an answer that is no 2xx.

    Only an answer with the API's error envelope is the API's own; its `error.type` chooses the error, then its status.
    `path` has no query, which may hold secrets; `now` is for a `Retry-After` date in an answer without a `Date`.
    """
    envelope = _envelope_of(answer.body)
    if envelope is None:
        return foreign_answer(answer, method=method, path=path, now=now)
    error_type, message = envelope
    return _error_class(answer.status, error_type)(
        status=answer.status,
        type=error_type,
        message=message,
        method=method,
        path=path,
        retry_after_s=retry_after_s(answer.headers, now),
    )


def foreign_answer(answer: Answer, *, method: str, path: str, now: datetime, redirected_to: str = "") -> ForeignAnswer:
    """Return the error for an answer that is not the API's; `redirected_to` is "" without a redirect."""
    wait_s = retry_after_s(answer.headers, now)
    return ForeignAnswer(
        f"{method} {path}: {in_words(answer, redirected_to)}", status=answer.status, retry_after_s=wait_s
    )


def _envelope_of(body: bytes) -> tuple[str, str] | None:
    """Return type and message of the API's error envelope, with what its `data` advises; None if the body has none."""
    if len(body) > wire.MAX_ERROR_BYTES:
        return None
    try:
        error = parse_json(body)["error"]
        error_type, message, data = error["type"], error.get("message"), error.get("data")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(error_type, str) or not error_type:
        return None
    said = wire.line_of(str(message or ""), wire.MAX_MESSAGE_CHARS) or "no reason given"
    return wire.line_of(error_type, wire.MAX_NAME_CHARS), f"{said}{_advice(data)}"


def _advice(data: Any) -> str:
    """Return the addresses in an error's `data`, like the `approvalUrl` at which a person can lift the refusal."""
    named = data.items() if isinstance(data, dict) else ()
    found = [
        f"{wire.line_of(name, wire.MAX_NAME_CHARS)}: {wire.line_of(value, MAX_ADVICE_CHARS)}"
        for name, value in named
        if isinstance(value, str) and value.startswith("https://") and len(value) <= MAX_ADVICE_CHARS
    ]
    return f" ({', '.join(found[:MAX_ADVICE])})" if found else ""


def _error_class(status: int, error_type: str) -> type[ApiError]:
    if error_type in _BUSY_TYPES:
        return ResourcesBusy
    if error_type in _OUT_OF_CREDIT_TYPES or status == 402:
        return OutOfCredit
    if error_type in _GAVE_UP_TYPES:
        return ServerFailed
    if error_type in _RATE_TYPES:
        return RateLimited
    return _BY_STATUS.get(status, ServerFailed if status >= 500 else ApiError)
