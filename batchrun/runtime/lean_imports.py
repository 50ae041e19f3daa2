"""Imports packages without the parts that no command uses: a fifth of the time to the first request."""

import sys
from types import ModuleType


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


def _import_structlog() -> None:
    """Import structlog as if rich, which prints tracebacks on a terminal, were not installed: the log is JSON lines."""
    # An import of a module whose entry is None fails with ModuleNotFoundError. Source: Python's import system, 5.3.1.
    sys.modules["rich"] = None  # type: ignore[assignment] # the stub leaves this use out
    try:
        import structlog  # noqa: F401, PLC0415 - see above
    finally:
        del sys.modules["rich"]


def _import_aiohttp() -> None:
    """Import aiohttp; the authorities of the context that it makes for all its connections are loaded later."""
    from batchrun.runtime.authorities import postponed_authorities  # noqa: PLC0415 - not for help

    with postponed_authorities():
        import aiohttp  # noqa: F401, PLC0415 - see above


def _import_pydantic() -> None:
    """Import pydantic with no plugins: it would look for them in the metadata of all installed packages."""
    loader = ModuleType("pydantic.plugin._loader")
    vars(loader)["get_plugins"] = tuple
    sys.modules[loader.__name__] = loader
    import pydantic.main  # noqa: F401, PLC0415 - see above
