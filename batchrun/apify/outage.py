"""Whether the platform can be reached."""

import anyio
import structlog

#: Requests in a row without an answer that make an outage. One lost answer is common and is not reported.
OUTAGE_AFTER = 3

_log = structlog.get_logger()


class Outage:
    """Begins after some requests in a row without an answer, ends with the next answer."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        #: Why the last request got no answer; empty if it got one.
        self.last_failure = ""
        self._failures_in_a_row = 0
        self._began_at = 0.0

    @property
    def reason(self) -> str:
        """Why the platform cannot be reached; empty while there is no outage."""
        return self.last_failure if self._failures_in_a_row >= OUTAGE_AFTER else ""

    def note_failure(self, reason: str) -> None:
        """Note a request without an answer."""
        self.last_failure = reason
        self._failures_in_a_row += 1
        if self._failures_in_a_row == OUTAGE_AFTER:
            self._began_at = anyio.current_time()
            _log.warning("api_unreachable", base_url=self._base_url, reason=reason)

    def note_answer(self) -> None:
        """Note a request with an answer, be it an error."""
        if self._failures_in_a_row >= OUTAGE_AFTER:
            _log.warning("api_reachable", after_s=round(anyio.current_time() - self._began_at, 1))
        self._failures_in_a_row = 0
        self.last_failure = ""
