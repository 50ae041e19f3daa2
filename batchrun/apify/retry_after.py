"""The `Retry-After` header of an answer, as seconds. `throttle.py` and `transport.py` wait for that long."""

import re
from collections.abc import Mapping
from datetime import datetime

from batchrun.apify.http_date import parse_http_date

#: Longest `Retry-After` that is obeyed, in seconds; a longer one is cut to this.
MAX_RETRY_AFTER_S = 600.0


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds to wait before the same request is sent again; None: the answer names none.

    `now` is for a date in an answer that has no `Date`.
    """
    value = headers.get("Retry-After")
    if value is None:
        return None
    # Servers also send fractions and units, and proxies join two headers into a list.
    if found := re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*s?\s*(?:,.*)?", value.strip(), re.ASCII):
        return min(MAX_RETRY_AFTER_S, float(found[1]))
    if (until := parse_http_date(value)) is None:
        return None
    # The clock that names the end of the wait has also stamped the answer, whatever other clocks show.
    answered_at = parse_http_date(headers.get("Date", "")) or now
    return min(MAX_RETRY_AFTER_S, max(0.0, (until - answered_at).total_seconds()))
