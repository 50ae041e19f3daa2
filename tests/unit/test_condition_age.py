"""How long a condition has lasted, on virtual time."""

import anyio

from batchrun.runtime.condition_age import ConditionAge


async def test_a_condition_lasts_from_when_it_is_seen_until_it_is_not() -> None:
    """A break begins it anew."""
    lasting, seen = ConditionAge(), list[float]()
    for holds in (False, True, True, True, False, True, True):
        seen.append(lasting.look(holds=holds))
        await anyio.sleep(10)
    assert seen == [0, 0, 10, 20, 0, 0, 10]
