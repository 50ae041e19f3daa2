"""A task group for resources that own children: what the block inside raises comes out as it is."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskGroup

from batchrun.errors import BatchrunError, first_error


@asynccontextmanager
async def plain_errors() -> AsyncIterator[None]:
    """Let an error of ours that children ended with come out as itself, not in a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        if group.subgroup(BatchrunError) is not None:
            raise first_error(group) from group
        raise


@asynccontextmanager
async def open_children(*, cancels_on_leaving: bool = False) -> AsyncIterator[TaskGroup]:
    """Open a task group whose block is written by somebody who has never heard of the children.

    An error of the block alone is raised as such, not in a group.

    Args:
        cancels_on_leaving: for children that do not end by themselves; else leaving waits for them, like any group.
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
