"""What goes on while all threads wait."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread


@asynccontextmanager
async def all_threads_waiting() -> AsyncIterator[None]:
    """Keep each thread that calls share in a call that does not return meanwhile; none was free until the end."""
    goes_on = threading.Event()
    limiter = anyio.to_thread.current_default_thread_limiter()
    async with anyio.create_task_group() as children:
        for _ in range(int(limiter.total_tokens)):
            children.start_soon(anyio.to_thread.run_sync, goes_on.wait, 60)
        await anyio.wait_all_tasks_blocked()
        try:
            yield
            assert limiter.available_tokens == 0
        finally:
            goes_on.set()
