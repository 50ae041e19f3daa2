"""A time that is known within bounds."""

from datetime import datetime
from typing import NamedTuple


class TimeWindow(NamedTuple):
    """A time on a clock that is read from afar: not before `earliest`, not after `latest`."""

    earliest: datetime
    latest: datetime

    @property
    def width_s(self) -> float:
        """The uncertainty, in seconds."""
        return (self.latest - self.earliest).total_seconds()

    @property
    def middle(self) -> datetime:
        """The best guess."""
        return self.earliest + (self.latest - self.earliest) / 2
