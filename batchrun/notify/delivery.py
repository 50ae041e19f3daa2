"""Delivers notifications: stores each before it is sent, and sends it over every channel."""

import secrets
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import anyio
import structlog

from batchrun.config.notify_settings import NotifyConfig
from batchrun.errors import OutputError
from batchrun.model import JsonObject
from batchrun.notify.command_channel import CommandChannel
from batchrun.notify.delivery_queue import Channel, DeliveryQueue
from batchrun.notify.notification import Notification, Undelivered
from batchrun.notify.notify_secrets import read_notify_secrets
from batchrun.notify.outbox import MAX_WAITING, Outbox
from batchrun.notify.webhook_channel import WebhookChannel
from batchrun.runtime.children import open_children
from batchrun.runtime.crash_points import crash_point
from batchrun.runtime.fast_dataclasses import dataclass

#: Seconds that the end of a batch, or of a worker, waits for deliveries. What is not delivered then stays stored.
CLOSE_WAIT_S = 5.0

_log = structlog.get_logger()


class Notifier:
    """Delivers notifications; made by `open_notifier`.

    Args:
        config: which events are sent.
        channels: each gets every notification.
        outbox: keeps what is not delivered.
    """

    def __init__(self, config: NotifyConfig, channels: list[Channel], outbox: Outbox) -> None:
        self.config = config
        self._channels = channels
        self._outbox = outbox
        #: How often the channels were changed: what ends with earlier ones counts no more.
        self._changes = 0
        self.queues = self._queues_of(channels)
        #: Channels that have not taken a notification, by its id.
        self._open: dict[str, int] = {}
        #: The ids that this process took last: what was killed before it was noted comes again.
        self._taken: deque[str] = deque(maxlen=MAX_WAITING)
        self._testing = anyio.Lock()
        self._is_empty = anyio.Event()
        self._is_empty.set()
        #: Set once the channels have changed.
        self._changed = anyio.Event()

    @property
    def is_wanted(self) -> bool:
        """True if there is a channel."""
        return bool(self._channels)

    def wants(self, event: str) -> bool:
        """Return whether notifications of an event are delivered."""
        return self.is_wanted and event in self.config.events

    @property
    def waiting(self) -> int:
        """Notifications that are not delivered yet."""
        return len(self._open)

    @property
    def trouble(self) -> str:
        """Why the last try of a channel failed; empty if all succeeded."""
        return "; ".join(queue.trouble for queue in self.queues if queue.trouble)

    @property
    def undelivered(self) -> str:
        """What is not delivered yet, and why, in words; empty: nothing."""
        return f"{self.waiting:,} not delivered ({self.trouble or 'no answer yet'})" if self.waiting else ""

    async def send(self, notification: Notification) -> None:
        """Store a notification and deliver it soon; one that is not wanted is dropped, as is one too many.

        Nothing is raised: what happened goes on without its notification, and the log says so.
        """
        if not self.wants(notification.event) or notification.id in self._taken:
            return
        if self.waiting >= MAX_WAITING:
            _log.error("notification_dropped", id=notification.id, waiting=self.waiting)
            return
        self._take(notification)
        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._outbox.put, notification)
            crash_point("notification_stored")
        except OutputError as error:
            _log.error("notification_not_stored", id=notification.id, reason=str(error))  # and is sent all the same
        self._put(notification)

    async def load(self) -> None:
        """Deliver what earlier processes have left; without a channel it stays."""
        known = set(self._open)
        for notification in await anyio.to_thread.run_sync(self._outbox.load) if self.is_wanted else ():
            # One that waited when the files were read may be delivered by now.
            if notification.id not in known and notification.id not in self._open:
                self._take(notification)
                self._put(notification)

    async def change(self, config: NotifyConfig, channels: list[Channel]) -> None:
        """Deliver over other channels from now on, also what waits; without a channel that stays stored.

        What one of several channels has delivered and another has not goes out over all of them, with the same id.
        """
        waiting = self._waiting()
        self.config, self._channels = config, channels
        self._changes += 1
        self.queues = self._queues_of(channels)
        self._open.clear()
        for notification in waiting:
            self._put(notification)
        self._note_emptiness()  # otherwise it is not set: what waits did so before
        self._changed.set()
        await self.load()

    def _queues_of(self, channels: list[Channel]) -> list[DeliveryQueue]:
        return [DeliveryQueue(channel, partial(self._note_done, self._changes)) for channel in channels]

    def _waiting(self) -> list[Notification]:
        """Return what some channel has not delivered, oldest first."""
        found = {each.id: each for queue in self.queues for each in queue.waiting}
        return sorted(found.values(), key=lambda each: each.at)

    async def deliver(self) -> None:
        """Deliver until cancelled."""
        while True:
            self._changed = anyio.Event()
            async with open_children(cancels_on_leaving=True) as children:
                for queue in self.queues:
                    children.start_soon(queue.run)
                await self._changed.wait()

    async def test(self) -> dict[str, str]:
        """Send a notification over each channel, once; return what came of it, as `try_channels` does.

        One test at a time: each may run a program.
        """
        async with self._testing:
            return await try_channels(self._channels)

    @property
    def targets(self) -> dict[str, str]:
        """Where each channel leads, by its name."""
        return targets_of(self._channels)

    async def wait_a_moment(self) -> None:
        """Wait until all is delivered, at most `CLOSE_WAIT_S`; what is left then stays stored."""
        with anyio.move_on_after(CLOSE_WAIT_S):
            await self._is_empty.wait()

    def _take(self, notification: Notification) -> None:
        """Note that it waits, before it is stored: the same one may come once more meanwhile."""
        self._taken.append(notification.id)
        self._open[notification.id] = len(self.queues)
        if self._is_empty.is_set():
            self._is_empty = anyio.Event()

    def _put(self, notification: Notification) -> None:
        if self.queues:
            self._open[notification.id] = len(self.queues)
        else:
            self._open.pop(notification.id, None)  # the last channel was removed meanwhile
            self._note_emptiness()
        for queue in self.queues:
            queue.put(notification)

    def _note_emptiness(self) -> None:
        if not self._open:
            self._is_empty.set()

    async def _note_done(self, changes: int, notification: Notification) -> None:
        if changes != self._changes:
            return  # it waits for the channels that came after these
        self._open[notification.id] -= 1
        if self._open[notification.id]:
            return
        crash_point("notification_delivered")
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._outbox.remove, notification)
        self._open.pop(notification.id, None)
        self._note_emptiness()


class Sender(Protocol):
    """What a batch needs of a `Notifier`."""

    config: NotifyConfig

    def wants(self, event: str) -> bool:
        """Return whether notifications of an event are delivered."""

    async def send(self, notification: Notification) -> None:
        """Take a notification; see `Notifier.send`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchNotifier:
    """Sends the notifications of one batch."""

    #: Its configuration can change while the batch is open.
    notifier: Sender
    #: See `Notification.batch`.
    batch: JsonObject
    #: True if a worker carries the batch out: it watches platform and disk for all, and decides which are stopped.
    is_supervised: bool = False


async def try_channels(channels: Iterable[Channel]) -> dict[str, str]:
    """Send a notification over each channel, once; return why it was not taken, by channel: "" is success."""
    notification = Notification(
        id=f"{secrets.token_hex(8)}-test",
        event="test",
        text="This is a test of batchrun: notifications arrive here.",
    )
    results = {}
    for channel in channels:
        try:
            await channel.deliver(notification)
            results[channel.name] = ""
        except Undelivered as error:
            results[channel.name] = str(error)
    return results


def targets_of(channels: Iterable[Channel]) -> dict[str, str]:
    """Return where each channel leads, by its name."""
    return {channel.name: channel.target for channel in channels}


def open_channels(config: NotifyConfig, environ: Mapping[str, str]) -> list[Channel]:
    """Return the configured channels.

    Raises:
        ConfigError: a secret cannot be read, or is none.
    """
    secrets = read_notify_secrets(config, environ)
    channels: list[Channel] = []
    if secrets.url is not None:
        is_slack = config.kind == "slack"
        channels.append(
            WebhookChannel(secrets.url, is_slack=is_slack, signing_key=secrets.signing_key, environ=environ)
        )
    if config.command:
        channels.append(CommandChannel(config.command, environ))
    return channels


@asynccontextmanager
async def delivering(notifier: Notifier) -> AsyncIterator[None]:
    """Deliver while the context lasts, what earlier processes have left first.

    What is not delivered at its end stays stored.
    """
    async with open_children(cancels_on_leaving=True) as children:
        await notifier.load()
        children.start_soon(notifier.deliver)
        yield
