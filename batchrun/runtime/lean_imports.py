"""Imports structlog and aiohttp without the parts that no command uses: a fifth of the time to the first request."""

import sys
from typing import Any


def import_leanly() -> None:
    """Import structlog and aiohttp; called before anything else imports them."""
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        _import_structlog()
    if "aiohttp" not in sys.modules:
        _import_aiohttp()


def _import_structlog() -> None:
    """Import structlog as if rich, which prints tracebacks on a terminal, were not installed: the log is JSON lines."""
    # An import of a module whose entry is None fails with ModuleNotFoundError. Source: Python's import system, 5.3.1.
    sys.modules["rich"] = None  # type: ignore[assignment] # the stub leaves this use out
    try:
        import structlog  # noqa: F401, PLC0415 - see above
    finally:
        del sys.modules["rich"]


def _import_aiohttp() -> None:
    """Import aiohttp without loading the authorities' certificates into its context that verifies no certificate."""
    import ssl  # noqa: PLC0415 - not for help

    load = ssl.SSLContext.set_default_verify_paths

    def load_where_verified(context: Any) -> None:
        if context.verify_mode is not ssl.CERT_NONE:
            load(context)

    ssl.SSLContext.set_default_verify_paths = load_where_verified  # type: ignore[assignment, method-assign]
    try:
        import aiohttp  # noqa: F401, PLC0415 - see above
    finally:
        del ssl.SSLContext.set_default_verify_paths  # that of the base class is found again
