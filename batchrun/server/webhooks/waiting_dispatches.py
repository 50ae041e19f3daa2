"""The dispatches of one account that wait for a call, by the time of their next try. No I/O."""

import heapq

import anyio


class WaitingDispatches:
    """Dispatches of one account; no dispatch is in it twice."""

    def __init__(self) -> None:
        #: (Loop time, dispatch id), a heap.
        self._due: list[tuple[float, str]] = []
        #: Ids that are due or being delivered.
        self._known: set[str] = set()
        self._came = anyio.Event()

    def __len__(self) -> int:
        """Return the number of dispatches that wait or are being delivered."""
        return len(self._known)

    def push(self, dispatch_id: str, after_s: float) -> None:
        """Add a dispatch; not one that is known already."""
        if dispatch_id in self._known:
            return
        self._known.add(dispatch_id)
        heapq.heappush(self._due, (anyio.current_time() + after_s, dispatch_id))
        self._came.set()

    async def next(self) -> str:
        """Wait until a dispatch is due, and return it; it stays known until `forget`."""
        while not self._due or self._due[0][0] > anyio.current_time():
            self._came = anyio.Event()
            with anyio.CancelScope(deadline=self._due[0][0] if self._due else float("inf")):
                await self._came.wait()
        return heapq.heappop(self._due)[1]

    def forget(self, dispatch_id: str) -> None:
        """Let a dispatch that was delivered be added again."""
        self._known.discard(dispatch_id)
