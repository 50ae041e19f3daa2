"""aiohttp's exceptions as ours, with a reason that a person can read."""

import os

import aiohttp

from batchrun.errors import ConnectFailed, TransportError

#: What sending a request can raise in place of an answer.
NO_ANSWER_ERRORS = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
#: Raised only while connecting. Any other error may come after the request was sent.
_CONNECT_ERRORS = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)


def transport_error(error: BaseException, *, host: str | None, request: str) -> TransportError:
    """Return our error for one of `NO_ANSWER_ERRORS`.

    Args:
        error: as it was caught.
        host: where the request was to go.
        request: its method and path, without the query.
    """
    if isinstance(error, _CONNECT_ERRORS):
        return ConnectFailed(f"no connection to {host}: {reason_of(error)}")
    return TransportError(f"{request}: no answer: {reason_of(error)}")


def reason_of(error: BaseException) -> str:
    """Return the reason of an error, in words; of a refused connection, without asyncio's list of calls."""
    if not isinstance(error, aiohttp.ClientConnectorError) or isinstance(error, aiohttp.ClientSSLError):
        return str(error) or type(error).__name__
    code = error.errno or 0
    # A name that cannot be resolved has a code below zero, which `os.strerror` does not know.
    words = os.strerror(code) if code > 0 else error.strerror or "no connection"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {error.host}:{error.port}: {words}"
    return words
