"""Push 1, 2, 3, … up to `count`, and keep how far it is as the state, noted before or after each push."""

import asyncio
from typing import Any

from apify import Actor


async def main() -> None:
    """Go on from the state."""
    async with Actor:
        given = await Actor.get_input()
        state: Any = await Actor.use_state(default_value={"n": 0})
        while (n := state["n"]) < given["count"]:
            if given["notes"] == "before":
                state["n"] = n + 1
            await Actor.push_data({"n": n + 1})
            state["n"] = n + 1
            await asyncio.sleep(0.1)


asyncio.run(main())
