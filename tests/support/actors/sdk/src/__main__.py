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
        if given.get("fail"):
            raise RuntimeError(given["fail"])
        await Actor.set_status_message("all done", is_terminal=True)


asyncio.run(main())
