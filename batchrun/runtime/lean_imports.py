"""Imports packages without what no command uses: a fifth of the time to the first request, a third of that of help."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType
from typing import Any


def import_leanly() -> None:
    """Import structlog, aiohttp and pydantic; called before anything else imports them.

    Call `need_authorities` before you use https with aiohttp.
    """
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        _import_structlog()
    if "aiohttp" not in sys.modules:
        _import_aiohttp()
    if "pydantic" not in sys.modules:
        _import_pydantic()


def import_help_leanly() -> None:
    """Import what typer prints help with, without Markdown and tracebacks, of which our help has none."""
    if "rich" in sys.modules:
        return
    markdown, traceback = _stand_in("rich.markdown", "Markdown"), _stand_in("rich.traceback", "Traceback")
    with suppress(ImportError), _modules({"attr": None, "rich.markdown": markdown, "rich.traceback": traceback}):
        import typer.rich_utils  # noqa: F401, PLC0415 - see above


def _import_structlog() -> None:
    """Import structlog as if rich, which prints tracebacks on a terminal, were not installed: the log is JSON lines."""
    with _modules({"rich": None}):
        import structlog  # noqa: F401, PLC0415 - see above


def _import_aiohttp() -> None:
    """Import aiohttp; the authorities of the context that it makes for all its connections are loaded later."""
    from batchrun.runtime.certificate_authorities import postponed_authorities  # noqa: PLC0415 - not for help

    with postponed_authorities():
        import aiohttp  # noqa: F401, PLC0415 - see above


def _import_pydantic() -> None:
    """Import pydantic with no plugins: it would look for them in the metadata of all installed packages."""
    loader = ModuleType("pydantic.plugin._loader")
    vars(loader)["get_plugins"] = tuple
    sys.modules[loader.__name__] = loader
    try:
        import pydantic.main  # noqa: F401, PLC0415 - see above
    except ImportError:  # it needs more of that module: whoever imports pydantic next has the real one
        del sys.modules[loader.__name__]


@contextmanager
def _modules(modules: Mapping[str, ModuleType | None]) -> Iterator[None]:
    """Let imports find these modules meanwhile; None: they find that there is no such module."""
    # An import of a module whose entry is None fails with ModuleNotFoundError. Source: Python's import system, 5.3.1.
    sys.modules.update(modules)  # type: ignore[arg-type] # the stub leaves this use out
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def _stand_in(module: str, name: str) -> ModuleType:
    """Return a module with only one class, whose objects are made by the real one; that is imported for the first."""

    def make(_cls: type, *args: Any, **options: Any) -> Any:
        return getattr(import_module(module), name)(*args, **options)

    stand_in = ModuleType(module)
    vars(stand_in)[name] = type(name, (), {"__new__": make})
    return stand_in
