"""Loads the certificate authorities that TLS trusts once they are needed: it takes 50 ms of CPU time.

aiohttp would load them into two contexts when it is imported, and plain http, to this machine, needs neither. Until
they are loaded no certificate is accepted: for a caller that forgets to load them, every https request fails.
"""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import anyio

#: Contexts that verify certificates and have no authorities yet.
_postponed: list[ssl.SSLContext] = []
_loading = threading.Lock()


@contextmanager
def postponed_authorities() -> Iterator[None]:
    """Postpone the loading of authorities into the contexts that are made meanwhile; enter it on one thread only."""

    def postpone(context: ssl.SSLContext) -> None:
        if context.verify_mode is not ssl.CERT_NONE:
            _postponed.append(context)

    ssl.SSLContext.set_default_verify_paths = postpone  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths  # that of the base class is found again


@contextmanager
def loading_authorities(base_url: str) -> Iterator[None]:
    """Load them on a thread meanwhile, if an address is https: OpenSSL does not hold Python up."""
    if urlsplit(base_url).scheme != "https":
        yield
        return
    thread = threading.Thread(target=_load_postponed, name="authorities")
    thread.start()
    try:
        yield
    finally:
        thread.join()


async def need_authorities() -> None:
    """Load them unless they are loaded; called before a certificate may have to be verified."""
    if _postponed:
        await anyio.to_thread.run_sync(_load_postponed)


def _load_postponed() -> None:
    with _loading:
        while _postponed:
            _postponed[-1].set_default_verify_paths()
            _postponed.pop()
