"""The platform's clock, as its answers show it."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import anyio
import structlog

_log = structlog.get_logger()


class PlatformClock:
    """Reads the `Date` header of answers, which has a resolution of one second."""

    def __init__(self) -> None:
        #: The time in the last answer; None before the first answer.
        self.last: datetime | None = None
        self._last_text: str | None = None
        self._last_read_at = 0.0

    @property
    def now(self) -> datetime | None:
        """The time in the last answer, plus the time since."""
        if self.last is None:
            return None
        return self.last + timedelta(seconds=anyio.current_time() - self._last_read_at)

    def note(self, date: str | None) -> None:
        """Take the header of one more answer; None if the answer has no such header."""
        if date is None or date == self._last_text:
            return  # parsing is slow, and the text changes once a second
        self._last_text = date
        try:
            self.last = parsedate_to_datetime(date).astimezone(UTC)
            self._last_read_at = anyio.current_time()
        except (ValueError, TypeError):
            _log.debug("date_unreadable", date=date)
