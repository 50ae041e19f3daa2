"""An Actor as the official Python templates write it: unmodified SDK, all of its storages."""

import asyncio

from apify import Actor


async def main() -> None:
    """Read the input, store items and a value, show a message."""
    async with Actor:
        given = await Actor.get_input() or {}
        Actor.log.info("working on %s", given)
        # Above 1024 bytes the SDK compresses with brotli.
        await Actor.push_data([{"n": n, "text": "ü" * 600} for n in range(given.get("count", 3))])
        await Actor.push_data({"last": True})
        await Actor.set_value("OUTPUT", {"given": given, "run": Actor.configuration.actor_run_id})
        if urls := given.get("urls"):
            await work_through_queue(urls)
        if given.get("fail"):
            raise RuntimeError(given["fail"])
        await Actor.set_status_message("all done", is_terminal=True)


async def work_through_queue(urls: list[str]) -> None:
    """Add requests, take each, mark it as handled."""
    queue = await Actor.open_request_queue()
    await queue.add_requests(urls)
    while (request := await queue.fetch_next_request()) is not None:
        await Actor.push_data({"url": request.url})
        await queue.mark_request_as_handled(request)


asyncio.run(main())
