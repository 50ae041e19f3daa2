"""Push 1, 2, 3, … up to `count`, and keep how far it is: as its state, before or after each push, or as its queue."""

import asyncio
from typing import Any

from apify import Actor, Request


async def main() -> None:
    """Go on from where the state or the queue is."""
    async with Actor:
        given: Any = await Actor.get_input()
        await (crawl if given["notes"] == "queue" else count)(given)


async def count(given: Any) -> None:
    """Count in the state."""
    state: Any = await Actor.use_state(default_value={"n": 0})
    while (n := state["n"]) < given["count"]:
        if given["notes"] == "before":
            state["n"] = n + 1
        await Actor.push_data({"n": n + 1})
        state["n"] = n + 1
        await asyncio.sleep(0.1)


async def crawl(given: Any) -> None:
    """Count in requests: each is handled after its push."""
    queue = await Actor.open_request_queue()
    await queue.add_requests([Request.from_url(f"http://127.0.0.1/{n + 1}") for n in range(given["count"])])
    while request := await queue.fetch_next_request():
        await Actor.push_data({"n": int(request.url.rpartition("/")[2])})
        await asyncio.sleep(0.05)
        await queue.mark_request_as_handled(request)


asyncio.run(main())
