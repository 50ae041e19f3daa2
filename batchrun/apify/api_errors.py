"""Error answers of the API as the errors in errors.py: which type means what.

Source of the types: the Apify API v2 reference (https://docs.apify.com/api/v2).
"""

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

import orjson

from batchrun.errors import ApiError, NotFound, OutOfCredit, RateLimited, ResourcesBusy, ServerFailed, Unauthorized

#: Longest `Retry-After` that is obeyed, in seconds; a longer one is cut to this.
MAX_RETRY_AFTER_S = 600.0

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
_BY_STATUS: Mapping[int, type[ApiError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    408: ServerFailed,
    429: RateLimited,
}


def parse_error(
    status: int, body: bytes, headers: Mapping[str, str], *, method: str, path: str, now: datetime
) -> ApiError:
    """Return the error for an error answer: chosen by `error.type`, then by status.

    Args:
        status: HTTP status, 300 or above.
        body: as it came; need not be JSON.
        headers: of the answer.
        method: of the request.
        path: of the request, without the query which may hold secrets.
        now: the wall time, for a `Retry-After` that is a date.
    """
    error_type, message = _error_of(body)
    kind = _error_class(status, error_type)
    return kind(
        status=status,
        type=error_type,
        message=message or "no reason given",
        method=method,
        path=path,
        retry_after_s=_retry_after_s(headers.get("Retry-After"), now),
    )


def _error_of(body: bytes) -> tuple[str, str]:
    try:
        error = orjson.loads(body)["error"]
        return str(error.get("type") or ""), str(error.get("message") or "")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return "", ""


def _error_class(status: int, error_type: str) -> type[ApiError]:
    if error_type in _BUSY_TYPES:
        return ResourcesBusy
    if error_type in _OUT_OF_CREDIT_TYPES or status == 402:
        return OutOfCredit
    if status == 404 and not error_type:
        return ServerFailed  # the API always names a type: this is a proxy's answer while the platform is down
    return _BY_STATUS.get(status, ServerFailed if status >= 500 else ApiError)


def _retry_after_s(value: str | None, now: datetime) -> float | None:
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", seconds := value.strip()):
        return min(MAX_RETRY_AFTER_S, float(seconds))
    try:
        return min(MAX_RETRY_AFTER_S, max(0.0, (parsedate_to_datetime(value) - now).total_seconds()))
    except (ValueError, TypeError):
        return None
