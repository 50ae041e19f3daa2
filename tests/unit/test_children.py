"""The task group behind resources that own children."""

import anyio
import pytest

from batchrun.runtime.children import open_children


async def _leave(ended: list[str], error: Exception | None) -> None:
    async def stay() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cancelled")

    async with open_children(cancels_on_leaving=True) as children:
        children.start_soon(stay)
        await anyio.wait_all_tasks_blocked()
        if error is not None:
            raise error


async def test_children_that_never_end_are_cancelled_on_leaving():
    """However the block ends; its error comes out plain, not in a group."""
    ended: list[str] = []
    await _leave(ended, None)
    with pytest.raises(KeyError, match="mine"):
        await _leave(ended, KeyError("mine"))
    assert ended == ["cancelled"] * 2


async def test_children_are_waited_for_by_default():
    """Leaving ends with the last child; none is cancelled."""
    ended: list[str] = []

    async def work() -> None:
        await anyio.sleep(1)
        ended.append("done")

    async with open_children() as children:
        children.start_soon(work)
    assert ended == ["done"]


@pytest.mark.parametrize("cancels", [True, False])
async def test_an_error_of_a_child_is_not_hidden(cancels):
    """It cancels the block and comes out in a group, as from any task group."""

    async def fail() -> None:
        raise ValueError("a bug")

    async def open_and_wait() -> None:
        async with open_children(cancels_on_leaving=cancels) as children:
            children.start_soon(fail)
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await open_and_wait()
    assert [type(error) for error in caught.value.exceptions] == [ValueError]
