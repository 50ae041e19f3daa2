"""The notifications that wait for one channel: delivered in order, each tried a bounded number of times."""

import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio
import structlog

from batchrun.notify.notification import Notification, Undelivered
from batchrun.policy.retry import Backoff

#: Tries of one notification over one channel. With the waits between them they take 11 to 24 minutes.
MAX_TRIES = 12
BACKOFF = Backoff(first_s=1.0, max_s=300.0)

_log = structlog.get_logger()


class Channel(Protocol):
    """A way to deliver notifications."""

    @property
    def name(self) -> str:
        """Its name in logs."""

    @property
    def target(self) -> str:
        """Where it leads, as far as that is no secret."""

    async def deliver(self, notification: Notification) -> None:
        """Try once to deliver it.

        Raises:
            Undelivered: it was not taken.
        """


class DeliveryQueue:
    """What waits for one channel.

    Args:
        channel: takes them, one at a time.
        on_done: called with each one that was delivered, or given up.
    """

    def __init__(self, channel: Channel, on_done: Callable[[Notification], Awaitable[None]]) -> None:
        self._channel = channel
        self._on_done = on_done
        self._waiting: deque[Notification] = deque()
        self._came = anyio.Event()
        #: Why the last try failed; empty once one succeeds.
        self.trouble = ""

    @property
    def waiting(self) -> list[Notification]:
        """What is not done yet, in order; the first one may be under way."""
        return list(self._waiting)

    def put(self, notification: Notification) -> None:
        """Deliver this one after those that wait."""
        self._waiting.append(notification)
        self._came.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            while not self._waiting:
                self._came = anyio.Event()
                await self._came.wait()
            await self._deliver(self._waiting[0])
            await self._on_done(self._waiting.popleft())

    async def _deliver(self, notification: Notification) -> None:
        channel = self._channel.name
        for tries in range(1, MAX_TRIES + 1):
            try:
                await self._channel.deliver(notification)
            except Undelivered as error:
                self.trouble = f"{channel}: {error}"
                if error.is_final or tries == MAX_TRIES:
                    _log.error("notification_given_up", channel=channel, id=notification.id, reason=str(error))
                    return
                _log.warning("notification_not_taken", channel=channel, id=notification.id, reason=str(error))
            else:
                self.trouble = ""
                _log.info(
                    "notification_delivered", channel=channel, id=notification.id, notify_event=notification.event
                )
                return
            await anyio.sleep(BACKOFF.wait_s(tries, random.random()))  # noqa: S311 - spread
