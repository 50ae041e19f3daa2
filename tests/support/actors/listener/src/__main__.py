"""An Actor that listens to the platform, as the SDK's documentation has it; unmodified SDK."""

import asyncio
from typing import Any

from apify import Actor, Event


async def main() -> None:
    """Tell of each life and each event; do what the input says."""
    async with Actor:
        given = await Actor.get_input()
        lives = (await Actor.get_value("LIVES") or 0) + 1
        await Actor.set_value("LIVES", lives)
        is_over = asyncio.Event()

        async def on_persist(data: Any) -> None:
            await Actor.push_data({"event": "persistState", "isMigrating": data.is_migrating})

        async def on_abort(_: Any) -> None:
            await Actor.push_data({"event": "aborting"})
            is_over.set()

        async def on_migration(_: Any) -> None:
            await Actor.push_data({"event": "migrating"})

        async def on_usage(data: Any) -> None:
            await Actor.set_value("USAGE", data.memory_info.current_size.bytes)

        Actor.on(Event.PERSIST_STATE, on_persist)
        Actor.on(Event.ABORTING, on_abort)
        Actor.on(Event.MIGRATING, on_migration)
        Actor.on(Event.SYSTEM_INFO, on_usage)
        await Actor.push_data({"life": lives, "input": given, "key": Actor.configuration.input_key})
        if given["do"] == "change" and lives == 1:
            await Actor.reboot()
        elif given["do"] == "change":
            await Actor.metamorph("local/listener", {"do": "exit"})
        elif given["do"] == "wait":
            await is_over.wait()


asyncio.run(main())
