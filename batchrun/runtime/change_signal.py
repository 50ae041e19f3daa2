"""A signal without a value: something may have changed, so look again."""

import anyio


class ChangeSignal:
    """Wakes all waiters. A notification without a waiter is lost, so check the state before waiting."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        #: Made by the first waiter, since most notifications find none.
        self._event: anyio.Event | None = None

    def notify(self) -> None:
        """Wake all who wait now."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self, limit_s: float | None = None) -> None:
        """Wait for the next notification, or for `limit_s` seconds."""
        if self._event is None:
            self._event = anyio.Event()
        if limit_s is None:
            await self._event.wait()
            return
        with anyio.move_on_after(limit_s):
            await self._event.wait()
