"""Whether the platform can be reached, as a whole and endpoint by endpoint."""

from dataclasses import dataclass

import anyio
import structlog

from batchrun.apify.request_meter import endpoint_of

#: Requests in a row without an answer of the API that make an outage. One lost answer is common and is not reported.
OUTAGE_AFTER = 3
#: Seconds after the last failed request of an endpoint when its outage is forgotten: nothing asks it any more.
FORGOTTEN_AFTER_S = 60.0

_log = structlog.get_logger()


@dataclass(slots=True)
class _Streak:
    failures: int = 0
    last_at: float = 0.0
    reason: str = ""

    def note(self, reason: str, now: float) -> None:
        self.failures += 1
        self.last_at = now
        self.reason = reason

    @property
    def is_outage(self) -> bool:
        return self.failures >= OUTAGE_AFTER


class Outage:
    """Begins after some requests in a row without an answer of the API; ends with the next answer.

    Failures of one endpoint in a row count too while other endpoints answer: a firewall may refuse starts alone.
    """

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._all = _Streak()
        self._by_endpoint: dict[str, _Streak] = {}
        #: When the outage in the log began (monotonic); None: the log shows no outage.
        self._began_at: float | None = None

    @property
    def last_failure(self) -> str:
        """Why the last request got no answer of the API; empty if it got one."""
        return self._all.reason

    @property
    def reason(self) -> str:
        """Why the platform, or one of its endpoints, cannot be reached; empty while there is no outage."""
        if self._all.is_outage:
            return self._all.reason
        if not self._by_endpoint:
            return ""
        since = anyio.current_time() - FORGOTTEN_AFTER_S
        for streak in self._by_endpoint.values():
            if streak.is_outage and streak.last_at >= since:
                return streak.reason
        return ""

    def note_failure(self, reason: str, method: str, path: str) -> None:
        """Note a request without an answer of the API, or with its word that it failed (5xx)."""
        now = anyio.current_time()
        self._all.note(reason, now)
        self._by_endpoint.setdefault(f"{method} {endpoint_of(path)}", _Streak()).note(reason, now)
        self._log_change()

    def note_answer(self, method: str, path: str) -> None:
        """Note a request that the API answered, be it with a refusal."""
        if not self._by_endpoint:
            return  # the usual case: nothing has failed
        self._all = _Streak()
        self._by_endpoint.pop(f"{method} {endpoint_of(path)}", None)
        since = anyio.current_time() - FORGOTTEN_AFTER_S
        for endpoint in [name for name, streak in self._by_endpoint.items() if streak.last_at < since]:
            del self._by_endpoint[endpoint]
        self._log_change()

    def is_answered_elsewhere(self, method: str, path: str, failures: int, *, by_all: bool) -> bool:
        """Whether this many failures in a row of one request had an answer to another one among them.

        Args:
            method: of the request.
            path: of the request.
            failures: in a row, without an answer.
            by_all: True to count the answers of all endpoints, False to count those of the request's own.
        """
        own = self._by_endpoint.get(f"{method} {endpoint_of(path)}", _Streak())
        return (self._all if by_all else own).failures < failures

    def _log_change(self) -> None:
        reason = self.reason
        if reason and self._began_at is None:
            self._began_at = anyio.current_time()
            _log.warning("api_unreachable", base_url=self._base_url, reason=reason)
        elif not reason and self._began_at is not None:
            _log.warning("api_reachable", after_s=round(anyio.current_time() - self._began_at, 1))
            self._began_at = None
