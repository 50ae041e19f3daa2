"""Fetches one page within limits."""

import gzip
import http.client
import os
import re
import socket
import time
import urllib.error
import urllib.request
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.loopback import is_public

#: Max bytes of a page. A longer page is cut, and its item says so.
MAX_PAGE_BYTES = 10 * 1024 * 1024
_USER_AGENT = "batchrun-page-scraper/1.0"
#: Characters that no name and no address of a host has.
_NO_HOST = re.compile(r"[^\w.:-]")


@dataclass(frozen=True)
class Fetched:
    """A page as it was received."""

    url: str
    status: int
    content_type: str
    body: bytes
    is_cut: bool
    duration_s: float


class FetchFailed(Exception):
    """A page could not be fetched; the message says why."""


def fetch(url: str, timeout_s: float) -> Fetched:
    """Fetch one page. An HTTP error status is a page too.

    Raises:
        FetchFailed: there was no answer, or the URL is not an http or https URL, or one of the server's API.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise FetchFailed(f"{url} is not an http or https URL")
    began = time.perf_counter()
    try:
        request = urllib.request.Request(url, headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "gzip"})  # noqa: S310
        with _open(request, timeout_s) as response:
            body = _read(response)
            return Fetched(
                url=response.geturl(),
                status=response.status,
                content_type=response.headers.get("Content-Type", ""),
                body=body[:MAX_PAGE_BYTES],
                is_cut=len(body) > MAX_PAGE_BYTES,
                duration_s=time.perf_counter() - began,
            )
    except (OSError, ValueError, EOFError, http.client.HTTPException) as error:
        raise FetchFailed(f"{url} could not be fetched: {error}") from error


def _open(request: urllib.request.Request, timeout_s: float) -> Any:
    try:
        return _OPENER.open(request, timeout=timeout_s)
    except urllib.error.HTTPError as answer:
        return answer


def _connect(address: tuple[str, int], timeout: float, _source: object = None) -> socket.socket:
    """Connect to the first address of a host that may be reached and answers."""
    failure = OSError(f"{address[0]} has no address")
    for *_, target in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
        try:
            _check(address, str(target[0]))
            return socket.create_connection((str(target[0]), address[1]), timeout)
        except OSError as error:
            failure = error
    raise failure


def _check(address: tuple[str, int], resolved: str) -> None:
    if "BATCHRUN_ALLOW_PRIVATE_ADDRESSES" in os.environ or address in (_own_server(), *_proxies()):
        return
    if not is_public(resolved):
        raise PermissionError(f"{resolved} is not a public address; the server's allow_private_addresses permits it")


def _proxies() -> list[tuple[str | None, int]]:
    return [
        _address(url if "//" in url else f"//{url}")
        for name, url in urllib.request.getproxies().items()
        if name != "no"
    ]


def _own_server() -> tuple[str | None, int]:
    return _address(os.environ["APIFY_API_BASE_URL"])


def _address(url: str) -> tuple[str | None, int]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or 80


def _connection(kind: type[http.client.HTTPConnection], *args: Any, **options: Any) -> http.client.HTTPConnection:
    connection = kind(*args, **options)
    connection._create_connection = _connect  # type: ignore[attr-defined]  # noqa: SLF001 - resolves and checks once
    return connection


class _TargetHandler(urllib.request.BaseHandler):
    """Looks at each URL, those of redirects too.

    A host before a proxy is asked for it: this machine and its network may be open to the proxy. The server's API: a
    call from here is counted in no chain of webhooks. A proxy itself: many answer with a page of their own.
    """

    def http_request(self, request: urllib.request.Request) -> urllib.request.Request:
        # As urllib sends it: it decodes %2e in the URL.
        target = urlsplit(f"//{request.host}")
        host = target.hostname or ""
        address = host, target.port or (443 if request.type == "https" else 80)
        if address == _own_server() and request.selector.lstrip("/").startswith("v2/"):
            raise PermissionError("it is of the server's API; page-scraper is for pages")
        if address in _proxies() and "BATCHRUN_ALLOW_PRIVATE_ADDRESSES" not in os.environ:
            raise PermissionError("it is not a site but the proxy of the environment")
        if request.type in urllib.request.getproxies() and not urllib.request.proxy_bypass(host):
            if _NO_HOST.search(host) or host.endswith("."):
                raise PermissionError(f"{host!r} is not the name of a host")
            with suppress(socket.gaierror):  # a name that only the proxy knows
                for *_, resolved in socket.getaddrinfo(*address, type=socket.SOCK_STREAM):
                    _check(address, str(resolved[0]))
        return request

    https_request = http_request


class _HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPConnection), request)


class _HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPSConnection), request)


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener of http and https alone: `build_opener` follows a redirect to ftp, too, past `_check`."""
    opener = urllib.request.OpenerDirector()
    for kind in (
        _TargetHandler,
        _HttpHandler,
        _HttpsHandler,
        urllib.request.ProxyHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(kind())
    return opener


_OPENER = _opener()


def _read(response: Any) -> bytes:
    stream = gzip.GzipFile(fileobj=response) if response.headers.get("Content-Encoding") == "gzip" else response
    body: bytes = stream.read(MAX_PAGE_BYTES + 1)
    return body
