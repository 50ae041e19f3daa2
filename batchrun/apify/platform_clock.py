"""The clock that stamps Runs, measured at each answered start.

It need be neither this machine's clock nor the one in the `Date` header, which a gateway in between may have set. The
answer to a start carries `startedAt`, read from the Runs' clock between request and answer.
"""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import structlog

from batchrun.apify.http_date import bounded_time, parse_http_date
from batchrun.model import CLOCK_DOUBT, TimeWindow
from batchrun.runtime.steady_time import steady_time

#: Length of a period, in seconds. After measurements that contradict each other, such as before and after a jump of the
#: Runs' clock, all of them count for one period at least and two at most.
PERIOD_S = 600.0
#: How much the Runs' clock may drift from this machine's steady clock, in seconds per second: Linux slews a clock by
#: at most 500 ppm, and there are two.
MAX_DRIFT = 0.001
#: Of `startedAt`, in seconds.
STAMP_RESOLUTION_S = 0.001
#: Measurements that contradict each other by more than this, in seconds, are logged.
NOTABLE_DISPUTE_S = 1.0

_log = structlog.get_logger()


class _Lead(NamedTuple):
    """How far the Runs' clock is ahead of the steady clock, in seconds: at least and at most."""

    least: float
    most: float
    #: On the steady clock. The more time lies between, the less certain it is.
    measured_at: float
    #: True if measurements contradict each other. No later one narrows it: each clock may stamp the next Run.
    is_disputed: bool = False

    @property
    def width_s(self) -> float:
        return self.most - self.least

    def drift_s(self, moment: float) -> float:
        """Return by how much it may have changed, in either direction, at another moment."""
        return MAX_DRIFT * abs(moment - self.measured_at)

    def joined(self, seen: "_Lead") -> "_Lead":
        """Add a measurement: one that agrees narrows the bounds, one that contradicts widens them to hold both."""
        now = seen.measured_at
        least, most = self.least - self.drift_s(now), self.most + self.drift_s(now)
        if seen.most < least or most < seen.least:
            return _Lead(min(least, seen.least), max(most, seen.most), now, is_disputed=True)
        if self.is_disputed or (seen.least <= least and seen.most >= most):
            return self  # nothing new
        return _Lead(max(least, seen.least), min(most, seen.most), now)


class PlatformClock:
    """The Runs' clock as far as it is known; shared by all batches in one account.

    Its times are windows. Each user takes the end at which nothing is lost: a search for Runs begins at the earliest
    time, a wait ends when even the earliest time has passed it.
    """

    def __init__(self) -> None:
        #: The `Date` header of the last answer that had one. It may be any clock's.
        self.date: datetime | None = None
        self._date_text: str | None = None
        self._date_read_at = 0.0
        #: By the measurements of the current period; None: not measured.
        self._lead: _Lead | None = None
        #: By those of the period before, if they contradicted each other.
        self._lead_before: _Lead | None = None
        self._period_began_at = float("-inf")

    @property
    def date_now(self) -> datetime | None:
        """The last `Date`, plus the time since; None if no answer had one."""
        return self.date and self.date + timedelta(seconds=steady_time() - self._date_read_at)

    @property
    def is_measured(self) -> bool:
        """True once this process has got the answer to a start."""
        return self._lead is not None

    @property
    def now(self) -> TimeWindow:
        """The present time on the Runs' clock."""
        return self.at(steady_time())

    def at(self, moment: float) -> TimeWindow:
        """Return a moment's time on the Runs' clock, by all that is known now.

        Args:
            moment: as `steady_time` returned it.
        """
        if self._lead is None:
            return self._guess(moment)
        drift_s = self._lead.drift_s(moment)
        least, most = self._lead.least - drift_s, self._lead.most + drift_s
        if self._lead_before is not None:
            drift_s = self._lead_before.drift_s(moment)
            least = min(least, self._lead_before.least - drift_s)
            most = max(most, self._lead_before.most + drift_s)
        return TimeWindow(bounded_time(moment + least), bounded_time(moment + most))

    def note_date(self, text: str | None) -> None:
        """Take the `Date` header of one more answer; None if the answer has no such header."""
        if text is None or text == self._date_text:
            return  # parsing is slow, and the text changes once a second
        self._date_text = text
        date = parse_http_date(text)
        if date is None:
            _log.debug("date_unreadable", date=text)
        else:
            self.date, self._date_read_at = date, steady_time()

    def note_start(self, started_at: datetime, sent_at: float) -> None:
        """Measure: a start has been answered now.

        Args:
            started_at: of its Run.
            sent_at: when the request was sent, as `steady_time` returned it, or earlier.
        """
        now, stamp = steady_time(), started_at.timestamp()
        most = stamp + STAMP_RESOLUTION_S - sent_at + MAX_DRIFT * (now - sent_at)
        seen = _Lead(stamp - now, most, now)
        # A first stamp that is off by more than any clock may be is not believed alone.
        known = self._guessed_lead(now) if self._lead is None else self._lead
        if now - self._period_began_at > PERIOD_S:
            self._period_began_at = now
            self._lead_before = known if known.is_disputed else None
            known = seen if known.is_disputed else known
        self._lead = known.joined(seen)
        if self._lead.is_disputed and not known.is_disputed:
            self._period_began_at = now
        if self._lead.width_s > known.width_s + NOTABLE_DISPUTE_S:
            _log.warning("clocks_of_runs_disagree", by_s=round(self._lead.width_s, 3))

    def _guessed_lead(self, moment: float) -> _Lead:
        earliest, latest = self._guess(moment)
        return _Lead(earliest.timestamp() - moment, latest.timestamp() - moment, moment)

    def _guess(self, moment: float) -> TimeWindow:
        """Return what is known without a measurement: this machine's clock and the last `Date`, and a wide margin."""
        since_s = timedelta(seconds=moment - steady_time())
        guesses = [each + since_s for each in (datetime.now(UTC), self.date_now) if each is not None]
        return TimeWindow(min(guesses) - CLOCK_DOUBT, max(guesses) + CLOCK_DOUBT)
