"""What the platform answers about a Run, and when a Run that it does not describe counts as lost or is given up."""

from typing import NamedTuple

from batchrun.errors import NotFound, ServerFailed, TransportError
from batchrun.model import Run

#: A Run whose id we hold counts as lost after the platform has not known it for this long, in seconds, if it does not
#: list it either.
LOST_AFTER_S = 10.0
#: A Run that the platform neither describes nor lists, while it answers other requests, is given up after this long, in
#: seconds. It may be live.
GIVEN_UP_AFTER_S = 600.0


class Sight(NamedTuple):
    """What the platform has answered about a Run."""

    #: Whether the Run has ended, is lost, or is given up.
    is_over: bool
    #: The Run as it ended; None if it is lost or given up, or not over.
    run: Run | None = None
    #: Why the Run is given up, although it may be live; None: it is not given up.
    unreadable: ServerFailed | TransportError | None = None
    #: True if the Run is another task's: it is none of ours, and is left alone.
    is_foreign: bool = False


STILL_LIVE = Sight(is_over=False)


def must_be_listed(error: NotFound | ServerFailed | TransportError, unknown_s: float) -> bool:
    """True if lists must show whether a Run exists that cannot be read; False: it is new, and may be unknown."""
    return not isinstance(error, NotFound) or unknown_s > LOST_AFTER_S


def sight_of_unread(error: NotFound | ServerFailed | TransportError, unknown_s: float) -> Sight:
    """Return what a Run counts as that could not be read for `unknown_s` seconds, and that no list shows either."""
    if isinstance(error, NotFound):
        return Sight(is_over=unknown_s > LOST_AFTER_S)
    return Sight(is_over=True, unreadable=error) if unknown_s > GIVEN_UP_AFTER_S else STILL_LIVE
