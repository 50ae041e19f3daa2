"""Times in HTTP headers, and bounds that keep any time of the platform fit for sums."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_MIN_TIMESTAMP, _MAX_TIMESTAMP = 0.0, datetime(9990, 1, 1, tzinfo=UTC).timestamp()


def parse_http_date(text: str) -> datetime | None:
    """Return the time of an HTTP date; None if the text is none."""
    try:
        time = parsedate_to_datetime(text)
        return None if time.tzinfo is None else bounded_time(time.timestamp())
    except (ValueError, TypeError, OverflowError):
        return None


def bounded_time(timestamp: float) -> datetime:
    """Return a time in seconds since 1970 as a datetime, cut to the years from 1970 to 9990."""
    return datetime.fromtimestamp(min(_MAX_TIMESTAMP, max(_MIN_TIMESTAMP, timestamp)), UTC)
