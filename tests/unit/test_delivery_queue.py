"""Notifications are tried again with growing waits, a bounded number of times, in order."""

from collections.abc import Sequence
from itertools import pairwise

import anyio
import pytest

from batchrun.notify.delivery_queue import BACKOFF, MAX_TRIES, DeliveryQueue
from batchrun.notify.notification import Notification, Undelivered


class ScriptedChannel:
    """A channel whose tries end as scripted; after the script they succeed."""

    name = "scripted"
    target = "nowhere"

    def __init__(self, *script: Undelivered | None) -> None:
        self.script = list(script)
        self.tries: list[tuple[float, str]] = []

    async def deliver(self, notification: Notification) -> None:
        """Note the try, and end it as scripted."""
        self.tries.append((anyio.current_time(), notification.id))
        if self.script and (error := self.script.pop(0)) is not None:
            raise error


async def deliver(channel: ScriptedChannel, ids: Sequence[str]) -> tuple[list[str], DeliveryQueue]:
    """Deliver notifications with these ids; return the ids that are done, and the queue."""
    done: list[str] = []
    all_done = anyio.Event()

    async def note_done(notification: Notification) -> None:
        done.append(notification.id)
        if len(done) == len(ids):
            all_done.set()

    queue = DeliveryQueue(channel, note_done)
    async with anyio.create_task_group() as children:
        children.start_soon(queue.run)
        for each in ids:
            queue.put(Notification(id=each, event="finished", text=""))
        await all_done.wait()
        children.cancel_scope.cancel()
    return done, queue


async def test_a_try_that_fails_is_repeated_after_growing_waits() -> None:
    """1 s doubles; the one behind waits, and comes through at once afterwards."""
    channel = ScriptedChannel(*[Undelivered("503")] * 4)
    done, queue = await deliver(channel, ["a", "b"])
    assert done == ["a", "b"]
    assert [each for _, each in channel.tries] == ["a"] * 5 + ["b"]
    times = [at for at, _ in channel.tries]
    waits = [later - earlier for earlier, later in pairwise(times[:5])]
    assert [1 <= wait / BACKOFF.first_s / 2**n <= 2 for n, wait in enumerate(waits)] == [True] * 4
    assert times[5] == times[4]
    assert queue.trouble == ""


async def test_tries_are_bounded() -> None:
    """A receiver that stays away holds a notification for 11 to 24 minutes, no longer."""
    channel = ScriptedChannel(*[Undelivered("no connection")] * MAX_TRIES)
    done, queue = await deliver(channel, ["a"])
    assert done == ["a"]
    assert len(channel.tries) == MAX_TRIES
    assert 11 * 60 <= channel.tries[-1][0] - channel.tries[0][0] <= 24 * 60
    assert queue.trouble == "scripted: no connection"


@pytest.mark.parametrize("is_final", [True, False])
async def test_a_final_refusal_is_not_repeated(*, is_final: bool) -> None:
    """A 404 would come again; the next notification is not held up by it."""
    channel = ScriptedChannel(Undelivered("404", is_final=is_final))
    await deliver(channel, ["a", "b"])
    assert [each for _, each in channel.tries] == (["a", "b"] if is_final else ["a", "a", "b"])
