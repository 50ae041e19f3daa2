"""An Actor's last save before the server stops: its pushes are in the saved state, or wait."""

from collections.abc import AsyncIterator

import anyio
import pytest

from batchrun.server.runs.actor_events import EventChannel
from batchrun.server.runs.last_save import LastSave


class Asked:
    """An Actor that is asked to save, and pushes."""

    def __init__(self) -> None:
        self.save, self.events, self.pushed = LastSave(), EventChannel(), 0
        self.is_saved = False

    async def ask(self) -> None:
        """Be asked until a save is good."""
        await self.save.ask(self.events)
        self.is_saved = True

    async def push(self) -> None:
        """Push once."""
        async with self.save.pushing():
            self.pushed += 1


@pytest.fixture
async def actor() -> AsyncIterator[Asked]:
    """An Actor that is being asked."""
    async with anyio.create_task_group() as children:
        actor = Asked()
        with actor.events.follow(is_own=True) as events:
            children.start_soon(actor.ask)
            await events.receive()
            yield actor
        children.cancel_scope.cancel()


async def test_a_push_after_a_good_save_waits(actor: Asked) -> None:
    """The next life makes it."""
    actor.save.note_stored()
    with anyio.move_on_after(10) as waited:
        await actor.push()
    assert (waited.cancelled_caught, actor.pushed, actor.is_saved) == (True, 0, True)


async def test_a_push_before_the_state_is_stored_makes_the_actor_be_asked_again(actor: Asked) -> None:
    """That state may count the push, or not."""
    await actor.push()
    actor.save.note_stored()
    await anyio.sleep(10)
    assert not actor.is_saved
    actor.save.note_stored()
    await anyio.sleep(10)
    assert actor.is_saved


async def test_a_value_stored_while_a_push_waits_lets_it_go_on(actor: Asked) -> None:
    """The value may be a state that counts the push; the Actor is asked again."""
    actor.save.note_stored()
    async with anyio.create_task_group() as children:
        children.start_soon(actor.push)
        await anyio.wait_all_tasks_blocked()
        assert actor.pushed == 0
        actor.save.note_stored()
    assert (actor.pushed, actor.is_saved) == (1, False)
    await anyio.sleep(10)
    actor.save.note_stored()
    await anyio.sleep(10)
    assert actor.is_saved


async def test_a_crawlers_push_waits_from_the_end_on(actor: Asked) -> None:
    """Whatever it stores."""
    actor.save.hold()
    actor.save.note_stored()
    with anyio.move_on_after(10) as waited:
        await actor.push()
    assert (waited.cancelled_caught, actor.pushed) == (True, 0)
