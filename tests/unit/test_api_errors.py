from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.apify.api_errors import parse_error
from batchrun.apify.connections import Answer
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

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def error_of(status: int, error_type: str = "x", **headers: str) -> ApiError:
    """Return the error for an answer of the API."""
    error = any_error_of(status, error_type, body=None, **headers)
    assert isinstance(error, ApiError)
    return error


def any_error_of(
    status: int, error_type: str = "x", *, body: bytes | None = None, **headers: str
) -> ApiError | ForeignAnswer:
    """Return the error for an answer, be it the API's or not."""
    body = orjson.dumps({"error": {"type": error_type, "message": "m"}}) if body is None else body
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return parse_error(Answer(status, named, body), method="POST", path="/p", now=NOW)


@pytest.mark.parametrize(
    ("status", "error_type", "kind"),
    [
        (400, "invalid-input", ApiError),
        (409, "x", ApiError),
        (413, "request-too-large", ApiError),
        (401, "user-or-token-not-found", Unauthorized),
        (403, "insufficient-permissions", Unauthorized),
        (402, "x", OutOfCredit),
        (402, "x402-payment-required", OutOfCredit),
        (403, "platform-feature-disabled", OutOfCredit),
        (400, "not-enough-usage-to-run-paid-actor", OutOfCredit),
        (400, "monthly-usage-limit-too-low", OutOfCredit),
        (404, "record-not-found", NotFound),
        (404, "unknown-build-tag", NotFound),
        (408, "x", ServerFailed),
        (429, "rate-limit-exceeded", RateLimited),
        (500, "internal-server-error", ServerFailed),
        (502, "x", ServerFailed),
        (503, "x", ServerFailed),
        (599, "x", ServerFailed),
        (400, "operation-timed-out", ServerFailed),
        (409, "concurrent-update-detected", ServerFailed),
        (400, "socket-closed", ServerFailed),
        (403, "too-many-requests", RateLimited),
        *[
            (status, busy, ResourcesBusy)
            for status in (400, 402, 403, 429, 503)
            for busy in ("actor-memory-limit-exceeded", "concurrent-runs-limit-exceeded")
        ],
    ],
)
def test_the_error_class_follows_the_type_and_then_the_status(
    status: int, error_type: str, kind: type[ApiError]
) -> None:
    """Exactly this class, with all fields of the answer."""
    error = error_of(status, error_type)
    assert (type(error), error.status, error.type, error.message) == (kind, status, error_type, "m")
    assert str(error) == f"POST /p: {status} {error_type}: m"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Bad gateway</html>",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"3",
        b'"text"',
        b"{}",
        b'{"error":null}',
        b'{"error":"x"}',
        b'{"error":[1]}',
        b"[" * 100_000,
        b'{"error":{"type":',
    ],
)
def test_a_body_without_the_envelope_is_not_the_apis(body: bytes) -> None:
    """Whatever the status."""
    for status in (302, 401, 404, 429, 502):
        error = any_error_of(status, body=body)
        assert isinstance(error, ForeignAnswer)
        assert error.status == status


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("17", 17.0),
        (" 17 ", 17.0),
        ("Fri, 02 Jan 2026 03:04:35 GMT", 30.0),
        ("Fri, 02 Jan 2026 03:04:00 GMT", 0.0),
        ("Fri, 02 Jan 2026 03:04:35 -0000", None),
        ("soon", None),
        ("-5", None),
        ("1.5", 1.5),
        ("2s", 2.0),
        ("2, 2", 2.0),
        ("2026-01-02T03:04:35Z", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_never_negative(value: str, seconds: float | None) -> None:
    """Any other text counts as no header."""
    assert error_of(429, Retry_After=value).retry_after_s == seconds


@pytest.mark.parametrize(("date", "seconds"), [("Fri, 02 Jan 2026 04:00:00 GMT", 20.0), ("soon", 600.0), ("", 600.0)])
def test_a_retry_after_date_is_read_by_the_clock_of_its_answer(date: str, seconds: float) -> None:
    """Here that clock is 56 minutes ahead of ours; without a readable `Date`, ours has to do."""
    assert error_of(429, Retry_After="Fri, 02 Jan 2026 04:00:20 GMT", Date=date).retry_after_s == seconds


def test_without_a_retry_after_there_is_none() -> None:
    """The wait is chosen by our backoff then."""
    assert error_of(429).retry_after_s is None


@given(value=st.text(st.characters(max_codepoint=0xFF), max_size=60))
def test_no_retry_after_breaks_the_answer(value: str) -> None:
    """Any header gives no wait, or one of 0 s or more."""
    wait_s = error_of(429, Retry_After=value).retry_after_s
    assert wait_s is None or wait_s >= 0


@given(body=st.binary(max_size=200), status=st.integers(300, 999))
def test_no_body_breaks_an_error(body: bytes, status: int) -> None:
    """Any bytes give an ApiError of this status."""
    assert any_error_of(status, body=body).status == status


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        ({"approvalUrl": "https://console.apify.com/a?b=1"}, "m (approvalUrl: https://console.apify.com/a?b=1)"),
        (
            {"a": "https://a", "b": "https://b", "c": "https://c", "d": "https://d"},
            "m (a: https://a, b: https://b, c: https://c)",
        ),
        ({"invalidItems": [1], "runId": "r", "url": "https://" + "x" * 1000, "next": "javascript:x"}, "m"),
        ("https://text", "m"),
        (None, "m"),
    ],
)
def test_the_addresses_in_an_errors_data_are_shown(data: object, shown: str) -> None:
    """A person needs them to lift the refusal; anything else may be large, or may differ from Run to Run."""
    body = orjson.dumps({"error": {"type": "full-permission-actor-not-approved", "message": "m", "data": data}})
    error = any_error_of(403, body=body)
    assert isinstance(error, Unauthorized)
    assert (error.message, str(error).endswith(shown)) == (shown, True)


def test_a_message_of_the_platform_is_one_line() -> None:
    """Else what follows a line break would look like a line of ours, wherever it is printed."""
    envelope = {"type": "no\nrights", "message": "no\r\nSUCCEEDED\x85 100\u2028jobs" + "x" * 9000}
    data = {"approval\nUrl": "https://a/b\nSUCCEEDED"}
    body = orjson.dumps({"error": {**envelope, "data": data}})
    error = parse_error(Answer(403, {}, body), method="GET", path="/users/me", now=datetime.now(UTC))
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 2500
    assert "approval Url: https://a/b SUCCEEDED" in str(error)
