"""Apify JSON <-> our values: paths, camelCase, queries, error types; no HTTP library, no waiting.

Source of every name: the Apify API v2 reference (https://docs.apify.com/api/v2).
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import orjson

from batchrun.errors import (
    ApiError,
    NotFound,
    OutOfCredit,
    RateLimited,
    ResourcesBusy,
    ServerFailed,
    Unauthorized,
)
from batchrun.model import DatasetId, JsonObject, Mark, Run, RunId, RunOptions, RunStatus, StoreId

#: Longest `waitForFinish` that the API honours, in seconds.
MAX_WAIT_FOR_FINISH_S = 60
#: Most Runs in one page of a list.
MAX_LIST_LIMIT = 1000
#: Most bytes of a request body, counted uncompressed.
MAX_BODY_BYTES = 9_437_184
#: A longer `Retry-After` is not believed: it is asked again after this time.
MAX_RETRY_AFTER_S = 600.0

_BUSY = frozenset({"actor-memory-limit-exceeded", "concurrent-runs-limit-exceeded"})
_OUT_OF_CREDIT = frozenset(
    {
        "not-enough-usage-to-run-paid-actor",
        "platform-feature-disabled",
        "monthly-usage-limit-too-low",
        "x402-payment-required",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Whose token this is, and what the account may do; None where the platform does not say."""

    username: str
    plan: str | None
    max_concurrent_runs: int | None
    live_runs: int | None
    max_monthly_usage_usd: float | None
    monthly_usage_usd: float | None


def segment(id_or_name: str) -> str:
    """Encode an id or a `user/name` address as one path segment."""
    return quote(id_or_name.replace("/", "~", 1), safe="~-._")


def user_agent(version: str, mark: Mark | None = None) -> str:
    """Name ourselves; with `mark`, so that the platform's `meta.userAgent` tells the Run it starts."""
    return f"batchrun/{version}" + (f" ({mark})" if mark is not None else "")


def options_query(options: RunOptions) -> dict[str, str]:
    """Return the query parameters of "Run task" for these options."""
    values: dict[str, str | None] = {
        "build": options.build,
        "timeout": _number(options.timeout_s),
        "memory": _number(options.memory_mb),
        "maxItems": _number(options.max_items),
        "maxTotalChargeUsd": _number(options.max_total_charge_usd),
        "restartOnError": _flag(options.restart_on_error),
        "webhooks": _webhooks(options.webhooks),
    }
    return {name: value for name, value in values.items() if value is not None}


def task_options(options: RunOptions) -> JsonObject:
    """Return the `options` object of a task."""
    values = {
        "build": options.build,
        "timeoutSecs": options.timeout_s,
        "memoryMbytes": options.memory_mb,
        "maxItems": options.max_items,
        "maxTotalChargeUsd": options.max_total_charge_usd,
        "restartOnError": options.restart_on_error,
    }
    return {name: value for name, value in values.items() if value is not None}


def _number(value: float | None) -> str | None:
    return None if value is None else str(value)


def _flag(value: bool | None) -> str | None:
    return None if value is None else str(value).lower()


def _webhooks(webhooks: tuple[JsonObject, ...] | None) -> str | None:
    return None if webhooks is None else base64.b64encode(orjson.dumps(list(webhooks))).decode()


def parse_data(body: bytes) -> Any:
    """Return the `data` of an answer.

    Raises:
        ValueError: the body is not the envelope the API documents.
    """
    envelope = orjson.loads(body)
    if not isinstance(envelope, dict) or "data" not in envelope:
        raise ValueError("the answer has no `data`")
    return envelope["data"]


def parse_run(data: Any) -> Run:
    """Read a Run object, or an item of a list of Runs.

    Raises:
        ValueError: it is not one; a Run without an id and a status we know cannot be followed.
    """
    try:
        meta = data.get("meta") or {}
        return Run(
            id=RunId(_text(data["id"])),
            status=RunStatus(data["status"]),
            dataset_id=DatasetId(data["defaultDatasetId"]) if data.get("defaultDatasetId") else None,
            store_id=StoreId(data["defaultKeyValueStoreId"]) if data.get("defaultKeyValueStoreId") else None,
            started_at=parse_time(data["startedAt"]),
            finished_at=parse_time(data["finishedAt"]) if data.get("finishedAt") else None,
            cost_usd=_cost(data.get("usageTotalUsd")),
            user_agent=agent if isinstance(agent := meta.get("userAgent"), str) else None,
            fields=data,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a Run: {error!r}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("an id is no text")
    return value


def _cost(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def parse_time(text: str) -> datetime:
    """Read the API's ISO time as an aware one in UTC."""
    at = datetime.fromisoformat(text)
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def format_time(at: datetime) -> str:
    """Write a time as the API does: ISO, milliseconds, Z."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z"


def parse_account(user: JsonObject, limits: JsonObject) -> Account:
    """Read `users/me` and `users/me/limits` ({} where that may not be read)."""
    allowed, used = limits.get("limits") or {}, limits.get("current") or {}
    plan = user.get("plan")
    return Account(
        username=str(user.get("username") or "?"),
        plan=plan.get("id") if isinstance(plan, dict) else None,
        max_concurrent_runs=_count(allowed.get("maxConcurrentActorJobs")),
        live_runs=_count(used.get("activeActorJobCount")),
        max_monthly_usage_usd=_cost(allowed.get("maxMonthlyUsageUsd")),
        monthly_usage_usd=_cost(used.get("monthlyUsageUsd")),
    )


def _count(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def parse_error(
    status: int, body: bytes, headers: Mapping[str, str], *, method: str, path: str, now: datetime
) -> ApiError:
    """Turn an error answer into the error it is: by `error.type`, then by status.

    Args:
        status: HTTP status, 300 or above.
        body: as it came; need not be JSON.
        headers: of the answer.
        method: of the request.
        path: of the request, without the query (a query may hold what nobody should read).
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
    if error_type in _BUSY:
        return ResourcesBusy
    if error_type in _OUT_OF_CREDIT or status == 402:
        return OutOfCredit
    if status == 404 and not error_type:
        return ServerFailed  # not the API's own: something in between answers while the platform cannot
    by_status = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 408: ServerFailed, 429: RateLimited}
    return by_status.get(status, ServerFailed if status >= 500 else ApiError)


def _retry_after_s(value: str | None, now: datetime) -> float | None:
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}", value.strip()):
        return min(MAX_RETRY_AFTER_S, float(value))
    try:
        return min(MAX_RETRY_AFTER_S, max(0.0, (parsedate_to_datetime(value) - now).total_seconds()))
    except (ValueError, TypeError):
        return None
