"""Why a request had no answer, in words for people."""

import os

import aiohttp


def reason_of(error: BaseException) -> str:
    """Return a reason to put behind what failed; of a refused connection, without the calls that asyncio names."""
    if not isinstance(error, aiohttp.ClientConnectorError) or isinstance(error, aiohttp.ClientSSLError):
        return str(error) or type(error).__name__
    code = error.errno or 0
    # A name that is not found has a number of its own, below zero, and words with it.
    words = os.strerror(code) if code > 0 else error.strerror or "no connection"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {error.host}:{error.port}: {words}"
    return words
