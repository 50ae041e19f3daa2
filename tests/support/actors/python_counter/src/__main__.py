"""Push 1, 2, 3, … up to `count` three times at once: noted before each push, after it, and as requests of its queue."""

import asyncio
from typing import Any

from apify import Actor, Request


async def main() -> None:
    """Go on from where the state and the queue are."""
    async with Actor:
        given: Any = await Actor.get_input()
        state: Any = await Actor.use_state(default_value={"before": 0, "after": 0})
        count = given["count"]
        async with asyncio.TaskGroup() as children:
            for work in (count_up(state, "before", count), count_up(state, "after", count), crawl(count)):
                children.create_task(work)


async def count_up(state: Any, notes: str, count: int) -> None:
    """Count in the state."""
    while (n := state[notes]) < count:
        if notes == "before":
            state[notes] = n + 1
        await Actor.push_data({"notes": notes, "n": n + 1})
        state[notes] = n + 1
        await asyncio.sleep(0.1)


async def crawl(count: int) -> None:
    """Count in requests: each is handled after its push."""
    queue = await Actor.open_request_queue()
    await queue.add_requests([Request.from_url(f"http://127.0.0.1/{n + 1}") for n in range(count)])
    while request := await queue.fetch_next_request():
        await Actor.push_data({"notes": "queue", "n": int(request.url.rpartition("/")[2])})
        await asyncio.sleep(0.05)
        await queue.mark_request_as_handled(request)


asyncio.run(main())
