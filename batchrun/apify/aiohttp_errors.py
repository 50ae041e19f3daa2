"""aiohttp's exceptions as ours, with a reason that a person can read."""

import os
import re
from http import HTTPStatus

import aiohttp

from batchrun.errors import ConnectFailed, TransportError

#: What sending a request can raise in place of an answer.
NO_ANSWER_ERRORS = (aiohttp.ClientError, TimeoutError, OSError, ValueError)
#: Raised only while connecting. Any other error may come after the request was sent.
_CONNECT_ERRORS = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)


def transport_error(error: BaseException, *, host: str | None, request: str) -> TransportError:
    """Return our error for one of `NO_ANSWER_ERRORS`; `request` is its method and path, without the query."""
    if isinstance(error, _CONNECT_ERRORS):
        return ConnectFailed(f"no connection to {host}: {reason_of(error)}", is_lasting=_is_lasting(error))
    return TransportError(f"{request}: no answer: {reason_of(error)}")


def _is_lasting(error: BaseException) -> bool:
    """Whether retrying cannot mend it: a certificate, TLS as such, a proxy that wants a password."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return error.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED
    return isinstance(error, aiohttp.ClientSSLError)


def reason_of(error: BaseException) -> str:
    """Return the reason of an error, in words, with the next step where there is one; never with a proxy's password."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return _proxy_reason(error)
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _certificate_reason(error)
    if isinstance(error, aiohttp.ClientSSLError):
        return f"TLS failed ({_cause(error)}); if the server speaks no TLS, its address begins with http://"
    if isinstance(error, aiohttp.ClientConnectorError):
        return _connect_reason(error)
    if isinstance(error, aiohttp.ClientResponseError):  # its text has the URL: a proxy's, with its password
        return f"{error.status}, {error.message}"
    return str(error) or type(error).__name__


def _connect_reason(error: aiohttp.ClientConnectorError) -> str:
    code = error.errno or 0
    # A name that cannot be resolved has a code below zero, which `os.strerror` does not know.
    words = os.strerror(code) if code > 0 else error.strerror or "no connection"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {error.host}:{error.port}: {words}"
    return words


def _proxy_reason(error: aiohttp.ClientHttpProxyError) -> str:
    if error.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return (
            "the proxy does not accept the user and password, or wants them (407);"
            " write them into HTTPS_PROXY as http://user:password@host:port"
        )
    return f"the proxy does not connect to it: {error.status} {error.message}"


def _certificate_reason(error: aiohttp.ClientConnectorCertificateError) -> str:
    reason = f"its certificate is not accepted ({_cause(error)})"
    if file := os.environ.get("SSL_CERT_FILE", ""):
        return (
            f"{reason}; if a private CA has signed it, {file} (SSL_CERT_FILE) must exist and hold that CA's certificate"
        )
    return f"{reason}; if a private CA has signed it, set SSL_CERT_FILE to a file with that CA's certificate"


def _cause(error: BaseException) -> str:
    """Return OpenSSL's words, without its name and the place in its source."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    words = getattr(cause, "verify_message", "") or str(cause)
    return re.sub(r"^\[[^\]]*\] |\s*\(_ssl\.c:\d+\)$", "", words)
