"""Task groups whose users see plain errors, not groups of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from batchrun.errors import BatchrunError, first_error


@asynccontextmanager
async def plain_errors() -> AsyncIterator[None]:
    """Raise the first BatchrunError of an error group instead of the group."""
    try:
        yield
    except BaseExceptionGroup as group:
        if group.subgroup(BatchrunError) is not None:
            raise first_error(group) from group
        raise


@asynccontextmanager
async def open_children(*, cancels_on_leaving: bool = False) -> AsyncIterator[TaskGroup]:
    """Open a task group for a resource that owns children, whose user does not know of them.

    If the block alone raises, its error comes out plain, not in a group. Leaving waits for the children, like any task
    group, or cancels them.
    """
    raised: BaseException | None = None
    try:
        async with anyio.create_task_group() as children:
            try:
                yield children
            except BaseException as error:
                raised = error
                raise
            finally:
                if cancels_on_leaving:
                    children.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if raised is not None and group.exceptions == (raised,):
            raise raised from None
        raise
