"""Imports what a process needs only once it has sent its first request: the request does not wait for it."""

from importlib import import_module

import anyio.to_thread

#: Modules that are imported to their end; in `sys.modules` are those that another thread is importing, too.
_imported: set[str] = set()


async def need_module(name: str) -> None:
    """Import a module on a thread, once; an import statement after this does not block the loop."""
    if name not in _imported:
        await anyio.to_thread.run_sync(import_module, name)
        _imported.add(name)
