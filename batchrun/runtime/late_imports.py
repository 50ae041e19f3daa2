"""Imports what a process needs only once it has sent its first request: the request does not wait for it."""

import sys
from importlib import import_module

import anyio.to_thread


async def need_module(name: str) -> None:
    """Import a module on a thread, unless it is imported; an import statement after this does not block the loop."""
    if name not in sys.modules:
        await anyio.to_thread.run_sync(import_module, name)
