"""One request to the Apify API and its answer: sent, timed, and retried if it is safe to send twice.

It owns the connections, the token, the account's request rate, and what answers show of the platform: its clock, its
announced rate limits, an outage. Only the API's own answers count; any other is an outage of the way to it. It knows no
operation of the API and nothing of jobs, permits or the ledger.
"""

import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from functools import partial
from operator import ge
from time import perf_counter
from typing import TypeVar

import aiohttp
import anyio
import structlog
import yarl
from pydantic import SecretStr

from batchrun.apify import wire
from batchrun.apify.aiohttp_errors import NO_ANSWER_ERRORS, transport_error
from batchrun.apify.api_errors import foreign_answer, parse_error
from batchrun.apify.connections import (
    READ_TIMEOUT_S,
    Answer,
    Connections,
    open_socket,
    timeouts,
)
from batchrun.apify.current_token import ApiToken
from batchrun.apify.foreign_answers import is_foreign
from batchrun.apify.guarded_connector import GuardedConnector
from batchrun.apify.local_names import LocalNames
from batchrun.apify.outage import Outage
from batchrun.apify.platform_clock import PlatformClock
from batchrun.apify.proxies import proxy_for
from batchrun.apify.redirects import MAX_REDIRECTS, NearbySockets, redirect_of
from batchrun.apify.refused_token import MAX_UNCONFIRMED, SecondLook
from batchrun.apify.request_meter import NO_ANSWER, RequestMeter
from batchrun.apify.throttle import AccountRefusals, AnnouncedLimit, Throttle, rate_limit_wait_s
from batchrun.apify.user_agent import user_agent
from batchrun.errors import (
    AnswerTooLarge,
    ApiError,
    BatchrunError,
    ConfigError,
    ConnectFailed,
    ForeignAnswer,
    RateLimited,
    ServerFailed,
    TransportError,
    Unauthorized,
    UnreadableAnswer,
)
from batchrun.policy.retry import Backoff
from batchrun.policy.token_bucket import TokenBucket
from batchrun.runtime.byte_budget import Fits
from batchrun.runtime.certificate_authorities import need_authorities
from batchrun.runtime.loopback import is_loopback_host
from batchrun.version import __version__

#: Max bytes of an answer that holds one object; the largest of the API's, a month's usage, have some 100 KB.
MAX_ANSWER_BYTES = 4 << 20
#: Waits between tries of a request that got no answer or a server error.
READ_BACKOFF = Backoff(first_s=0.5, max_s=10.0)
#: Longest `Retry-After` of an answer that is not the API's that a read obeys, in seconds.
MAX_FOREIGN_WAIT_S = 60.0
#: Failures in a row after which one Run or its output counts as unreadable, while others are read: some ten seconds.
MAX_LONE_FAILURES = 6
#: The same, while no other one is read but the platform answers anything else: some five minutes.
MAX_LONELY_FAILURES = 40
#: Longest header and most headers of an answer that the session reads. It has no bound for all of them together.
_MAX_HEADER_BYTES, _MAX_HEADERS = 64 << 10, 256
#: Requests that may leave at once after a pause, in the account's token bucket.
REQUEST_BURST = 200

_log = structlog.get_logger()
T = TypeVar("T")


class Transport:
    """Sends requests to one platform in the name of one account; open it with `open_transport`.

    The session sends what `connections` cannot: streamed answers, and all requests through a proxy; `connections` is
    None then.
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        token: ApiToken,
        request_rate_per_s: float,
        connections: Connections | None = None,
    ) -> None:
        self._session = session
        self._connections = connections
        self._token = token
        self.second_look = SecondLook(token, self._is_token_refused)
        #: Whether the API has answered yet. Before, a failure that no retry mends ends a read.
        self.has_answered = False
        self.base_url = base_url.rstrip("/").removesuffix("/v2")
        self._api_url = f"{self.base_url}/v2"
        self._api_path = yarl.URL(self._api_url).raw_path
        self._origin = yarl.URL(self._api_url).origin()
        self.meter = RequestMeter()
        self.clock = PlatformClock()
        self.outage = Outage(self.base_url)
        #: The token bucket of all requests. `send` takes no token; its caller has taken one, so that it sends at once.
        self.account = Throttle(TokenBucket(rate_per_s=request_rate_per_s, burst=REQUEST_BURST))
        self._account_refusals = AccountRefusals(self.account)
        #: The last failure of each read that is being retried, by path.
        self.failed_reads: dict[str, BatchrunError] = {}

    async def read(
        self,
        path: str,
        parse: Callable[[Answer], T],
        *,
        query: Mapping[str, str] | None = None,
        silence_s: float = READ_TIMEOUT_S,
        method: str = "GET",
        throttle: Throttle | None = None,
        limit: AnnouncedLimit | None = None,
        gives_up: bool = False,
        max_bytes: int = MAX_ANSWER_BYTES,
        fits: Fits | None = None,
    ) -> T:
        """Send a request that is safe to send twice, until it gets a readable answer.

        `throttle` is the token bucket of a rate limit that several resources share, beside the account's. `fits` is
        asked whether the body may grow to a size; without it, a body above `max_bytes` is not the API's. `parse`
        raises ValueError for an answer that it cannot read. With `gives_up`, one resource that alone stays unreadable
        is not retried for ever. A poll that the server holds open is not retried after a failure: the next one might
        wait as long.

        Raises:
            AnswerTooLarge: `fits` said no.
            ServerFailed, TransportError: with `gives_up`, this one resource stays unreadable while the platform answers
                others; or the request was held.
            ConnectFailed: no retry mends it, and the API has not answered yet.
            ApiError: any but RateLimited and ServerFailed, which are retried as a missing answer is; Unauthorized
                with status 401 only after a second look.
        """
        failures = refusals = unconfirmed = 0
        try:
            while True:
                if throttle is not None:
                    await throttle.take_token()
                await self.account.take_token()
                sent_with = self._token.version
                try:
                    value = await self.send(
                        method,
                        path,
                        parse,
                        query=query,
                        silence_s=silence_s,
                        limit=limit,
                        max_bytes=max_bytes,
                        fits=fits,
                    )
                except RateLimited as error:
                    refusals += 1
                    self.failed_reads[path] = error
                    if throttle is not None:
                        throttle.refused(error.retry_after_s)  # the next turn waits
                    else:
                        # The limit is this one resource's, which others read too: no other request has to wait.
                        await anyio.sleep(rate_limit_wait_s(refusals, error.retry_after_s))
                except (TransportError, ServerFailed) as error:
                    failures += 1
                    self.failed_reads[path] = error
                    is_held = _is_held(method, query)
                    await self._back_off(method, path, failures, error, gives_up=gives_up, is_held=is_held)
                except Unauthorized as error:
                    unconfirmed += 1
                    self.failed_reads[path] = error
                    if unconfirmed > MAX_UNCONFIRMED or await self.second_look.is_confirmed(error, sent_with):
                        raise
                    await self._back_off(method, path, unconfirmed, error)
                else:
                    if throttle is not None:
                        throttle.passed()
                    return value
        finally:
            self.failed_reads.pop(path, None)

    async def read_tail(self, path: str, max_bytes: int) -> bytes:
        """Read the last whole lines of a text, as `read` does; it is streamed, and only the tail is held."""
        failures = 0
        try:
            while True:
                await self.account.take_token()
                try:
                    return await self._stream_tail(path, max_bytes)
                except (RateLimited, ServerFailed, TransportError) as error:
                    failures += 1
                    self.failed_reads[path] = error
                    await self._back_off("GET", path, failures, error)
        finally:
            self.failed_reads.pop(path, None)

    async def send(
        self,
        method: str,
        path: str,
        parse: Callable[[Answer], T],
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float = READ_TIMEOUT_S,
        limit: AnnouncedLimit | None = None,
        max_bytes: int = MAX_ANSWER_BYTES,
        fits: Fits | None = None,
        may_send: Callable[[], bool] | None = None,
    ) -> T:
        """Send one request, once and without a wait; `max_bytes` and `fits` are as for `read`.

        `may_send` is asked when there is a connection; the request is not sent if it says no.

        Raises:
            AnswerTooLarge: `fits` said no.
            ConnectFailed: the request was not sent.
            TransportError: the request may have been sent; there is no answer of the API that can be read.
            ApiError: the API's answer is no 2xx.
        """
        target = f"{path}?{wire.query_text(query)}" if query else path
        is_held = _is_held(method, query)
        timeout = timeouts(silence_s)
        began_s = perf_counter()
        redirected_to = ""
        has_room = fits if fits is not None else partial(ge, max_bytes)
        try:
            answer, redirected_to = await self._exchange(method, target, body, headers, timeout, has_room, may_send)
        except AnswerTooLarge as error:
            if fits is not None or error.size <= max_bytes:
                raise
            self.meter.note(method, path, NO_ANSWER, perf_counter() - began_s, is_held=is_held)
            raise self._endless(method, path, max_bytes) from error
        except NO_ANSWER_ERRORS as error:
            self.meter.note(method, path, NO_ANSWER, perf_counter() - began_s, is_held=is_held)
            failure = self._no_answer(error, method, path)
            self.outage.note_failure(str(failure), method, path)
            raise failure from error
        self.meter.note(method, path, answer.status, perf_counter() - began_s, is_held=is_held)
        if not 200 <= answer.status < 300:
            refusal = self._refusal(answer, method, path, redirected_to)
            if limit is not None and isinstance(refusal, ApiError):
                limit.note(answer.headers.get("X-RateLimit-Limit"))
            raise refusal
        try:
            value = parse(answer)
        except MemoryError as error:
            raise AnswerTooLarge(len(answer.body)) from error
        except ValueError as error:  # orjson's errors are ValueErrors too
            raise self._unreadable(answer, method, path, redirected_to, error) from error
        self._note_answer(answer, method, path, redirected_to)
        if limit is not None:
            limit.note(answer.headers.get("X-RateLimit-Limit"))
        self._account_refusals.note_passed()
        return value

    @property
    def token_version(self) -> int:
        """The version of the token that requests carry now."""
        return self._token.version

    def _is_unreadable_alone(self, method: str, path: str, failures: int) -> bool:
        """Whether one resource has failed for long enough while the platform answered requests for others."""
        by_all = failures >= MAX_LONELY_FAILURES
        return failures >= MAX_LONE_FAILURES and self.outage.is_answered_elsewhere(
            method, path, failures, by_all=by_all
        )

    async def _is_token_refused(self) -> bool:
        if await self._token.refresh():
            if self._connections is not None:
                self._connections.add_headers(self._token.headers)
            return False
        await self.account.take_token()
        try:
            await self.send("GET", "/users/me", lambda answer: wire.parse_data(answer.body))
        except Unauthorized as error:
            return error.status == 401
        except (ApiError, TransportError):
            return False  # unknown, and so not confirmed
        return False

    def _note_answer(self, answer: Answer, method: str, path: str, redirected_to: str = "") -> None:
        """Note what an answer of the API shows beside its content."""
        self.has_answered = True
        self.outage.note_answer(method, path)
        if not redirected_to:  # the other host has another clock
            self.clock.note_date(answer.headers.get("Date"))

    async def _exchange(
        self,
        method: str,
        target: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,
        fits: Fits,
        may_send: Callable[[], bool] | None = None,
    ) -> tuple[Answer, str]:
        """Return the answer, and the other address that it came from; "" without a redirect."""
        if self._connections is None:  # aiohttp sends by itself once the proxy has a connection
            answer = await self._send_by_session(method, self._url(target), body, headers, timeout, fits)
        else:
            answer = await self._connections.send(
                method,
                f"{self._api_path}{target}",
                timeout=timeout,
                headers=headers,
                body=body,
                fits=fits,
                may_send=may_send,
            )
        if method != "GET" or not 300 <= answer.status < 400:  # a redirected POST would be sent a second time
            return answer, ""
        return await self._followed(
            answer, target, lambda url: self._read_elsewhere(url, headers, timeout=timeout, fits=fits)
        )

    async def _followed(
        self, answer: Answer, target: str, read: Callable[[yarl.URL], Awaitable[Answer]]
    ) -> tuple[Answer, str]:
        """Follow the redirects of a read; return the last answer, and the address that it came from if that differs."""
        url = self._url(target)
        for _ in range(MAX_REDIRECTS):
            if (moved := redirect_of(url, answer.status, answer.headers)) is None:
                break
            url = moved
            answer = await read(url)
        return answer, "" if self._is_platform(url) else str(url.origin())

    async def _read_elsewhere(
        self, url: yarl.URL, headers: Mapping[str, str] | None, *, timeout: aiohttp.ClientTimeout, fits: Fits
    ) -> Answer:
        """Read what a redirect leads to; the token goes to the platform alone."""
        if self._connections is None:
            return await self._send_by_session("GET", url, None, headers, timeout, fits)
        if self._is_platform(url):
            return await self._connections.send("GET", url.raw_path_qs, timeout=timeout, headers=headers, fits=fits)
        await need_authorities()
        with closing(self._connections.elsewhere(url)) as there:
            return await there.send("GET", url.raw_path_qs, timeout=timeout, headers=headers, fits=fits)

    async def _send_by_session(
        self,
        method: str,
        url: yarl.URL,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        timeout: aiohttp.ClientTimeout,
        fits: Fits,
    ) -> Answer:
        await need_authorities()
        async with self._session.request(
            method,
            url,
            data=body,
            headers={**self._token_for(url), **(headers or {})},
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            return Answer(response.status, response.headers, await _body_of(response.content, fits))

    async def _stream_tail(self, path: str, max_bytes: int) -> bytes:
        began_s = perf_counter()
        await need_authorities()
        try:
            answer, redirected_to = await self._followed(
                await self._tail_at(self._url(path), max_bytes), path, lambda url: self._tail_at(url, max_bytes)
            )
        except NO_ANSWER_ERRORS as error:
            self.meter.note("GET", path, NO_ANSWER, perf_counter() - began_s)
            failure = self._no_answer(error, "GET", path)
            self.outage.note_failure(str(failure), "GET", path)
            raise failure from error
        self.meter.note("GET", path, answer.status, perf_counter() - began_s)
        if answer.status != 200:
            raise self._refusal(answer, "GET", path, redirected_to)
        if answer.headers.get("Content-Type", "").startswith("text/html"):  # a log is plain text
            raise self._foreign(answer, "GET", path, redirected_to)
        self._note_answer(answer, "GET", path, redirected_to)
        return self._token.masked(answer.body)

    async def _tail_at(self, url: yarl.URL, max_bytes: int) -> Answer:
        async with self._session.get(
            url, headers=self._token_for(url), timeout=timeouts(READ_TIMEOUT_S), allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await _tail_of(response.content, max_bytes))

    async def _back_off(
        self,
        method: str,
        path: str,
        failures: int,
        error: BatchrunError,
        *,
        gives_up: bool = False,
        is_held: bool = False,
    ) -> None:
        """Wait before the next try of a read; raise the error if no retry mends it, before the API has ever answered.

        Later on it is an outage like any other: a login page's certificate, say. But with `gives_up`, one resource
        that keeps failing, and alone, is given up. A held poll is not sent again: it might wait as long.
        """
        if is_held or (gives_up and self._is_unreadable_alone(method, path, failures)):
            raise error
        if isinstance(error, ConnectFailed) and error.is_lasting and not self.has_answered:
            raise error
        _log.debug("read_failed", method=method, path=path, failures=failures, error=str(error))
        wait_s = READ_BACKOFF.wait_s(failures, random.random())  # noqa: S311 - spread, not secrecy
        if isinstance(error, ForeignAnswer) and error.retry_after_s is not None:
            wait_s = max(wait_s, min(error.retry_after_s, MAX_FOREIGN_WAIT_S))
        await anyio.sleep(wait_s)

    def _url(self, target: str) -> yarl.URL:
        # `target` is encoded by wire.py; yarl would look through all of it once more.
        return yarl.URL(f"{self._api_url}{target}", encoded=True)

    def _is_platform(self, url: yarl.URL) -> bool:
        return url.origin() == self._origin

    def _token_for(self, url: yarl.URL) -> Mapping[str, str]:
        """Return the header with the token; none for another address than the platform's."""
        return self._token.headers if self._is_platform(url) else {}

    def _no_answer(self, error: BaseException, method: str, path: str) -> TransportError:
        return transport_error(error, host=yarl.URL(self._api_url).host, request=f"{method} {path}")

    def _refusal(self, answer: Answer, method: str, path: str, redirected_to: str) -> ApiError | ForeignAnswer:
        """Return the error for an answer that is no 2xx, and note what it shows of the platform."""
        answer = self._masked(answer)
        error = parse_error(answer, method=method, path=path, now=self.clock.now.middle)
        if isinstance(error, ForeignAnswer) or redirected_to:
            return self._foreign(answer, method, path, redirected_to)
        if error.status >= 500 and isinstance(error, ServerFailed):
            self.outage.note_failure(str(error), method, path)
        else:
            self._note_answer(answer, method, path)
        if isinstance(error, RateLimited):
            self._account_refusals.note_refused(path, error.retry_after_s)
        return error

    def without_token(self, parse: Callable[[Answer], T]) -> Callable[[Answer], T]:
        """Return what parses an answer without the token, which an Actor or a gateway may repeat."""
        return lambda answer: parse(self._masked(answer))

    def _masked(self, answer: Answer) -> Answer:
        body = self._token.masked(answer.body)
        return answer if body is answer.body else Answer(answer.status, answer.headers, body)

    def _unreadable(
        self, answer: Answer, method: str, path: str, redirected_to: str, error: ValueError
    ) -> TransportError:
        if redirected_to or is_foreign(answer):
            return self._foreign(answer, method, path, redirected_to)
        self._note_answer(answer, method, path)
        return UnreadableAnswer(f"{method} {path}: the answer is not understood: {error}")

    def _endless(self, method: str, path: str, max_bytes: int) -> TransportError:
        error = TransportError(
            f"{method} {path}: an answer of more than {max_bytes:,} bytes, which is not from the API; is api.base_url"
            f" {self.base_url} right?"
        )
        self.outage.note_failure(str(error), method, path)
        return error

    def _foreign(self, answer: Answer, method: str, path: str, redirected_to: str) -> ForeignAnswer:
        answer, now = self._masked(answer), self.clock.now.middle
        error = foreign_answer(answer, method=method, path=path, now=now, redirected_to=redirected_to)
        self.outage.note_failure(str(error), method, path)
        return error


def _is_held(method: str, query: Mapping[str, str] | None) -> bool:
    """Whether the server is asked to wait before it answers."""
    return method == "GET" and query is not None and "waitForFinish" in query


async def _body_of(content: aiohttp.StreamReader, fits: Fits) -> bytes:
    """Return a whole body, or raise AnswerTooLarge as soon as it does not fit."""
    pieces, size = list[bytes](), 0
    async for piece in content.iter_any():
        size += len(piece)
        if not fits(size):
            raise AnswerTooLarge(size)
        pieces.append(piece)
    return b"".join(pieces)


async def _tail_of(content: aiohttp.StreamReader, max_bytes: int) -> bytes:
    """Return the end of a stream; if it is cut off, from the start of a line."""
    tail, is_cut = bytearray(), False
    async for piece in content.iter_any():
        tail += piece
        if len(tail) > 2 * max_bytes:
            del tail[:-max_bytes]
            is_cut = True
    if len(tail) > max_bytes:
        del tail[:-max_bytes]
        is_cut = True
    return bytes(tail[tail.find(b"\n") + 1 :] if is_cut else tail)


def _refuse_plain_http(base_url: str) -> None:
    address = yarl.URL(base_url)
    if address.scheme == "http" and not is_loopback_host(address.host or ""):
        raise ConfigError(
            f"{address.origin()} is plain http to another machine: everyone on the way could read the API token. Use"
            " https, or set api.allow_plain_http = true where the network is yours",
            key="api.base_url",
        )


@asynccontextmanager
async def open_transport(
    base_url: str,
    token: SecretStr | None,
    *,
    request_rate_per_s: float,
    read_token_again: Callable[[], SecretStr | None] | None = None,
    allow_plain_http: bool = False,
) -> AsyncIterator[Transport]:
    """Open a transport; its connections close with the context.

    Args:
        base_url: address of the API, with or without /v2.
        token: goes into the Authorization header and nowhere else.
        request_rate_per_s: most requests per second, of all kinds together.
        read_token_again: reads the token from where it came, once the API refuses it; None: it cannot change.
        allow_plain_http: whether the token may go to another machine without TLS.

    Raises:
        ConfigError: the token would be readable on the way, or the environment names a proxy that cannot be used.
    """
    if token is not None and not allow_plain_http:
        _refuse_plain_http(base_url)
    api_token = ApiToken(token, read_token_again)
    headers = {"User-Agent": user_agent(__version__), "Accept": "*/*"}
    # Looked up once: aiohttp's own `trust_env` reads files and environment again for every request.
    proxy = proxy_for(base_url, os.environ, has_token=token is not None)
    sockets = NearbySockets().open_socket
    if yarl.URL(base_url).scheme == "https":
        await need_authorities()
        sockets = open_socket
    # No limit here: permits and `max_open_polls` bound the open connections, and a second bound would hide waits.
    connector = GuardedConnector(limit=0, ttl_dns_cache=60, socket_factory=sockets, resolver=LocalNames())
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        # Unset: a limit on the whole request would end a poll that the server holds open.
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("Content-Type",),
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        max_headers=_MAX_HEADERS,
        proxy=proxy,
    ) as session:
        with closing(Connections(connector, yarl.URL(base_url), headers)) as connections:
            connections.add_headers(api_token.headers)
            yield Transport(
                session,
                base_url,
                token=api_token,
                request_rate_per_s=request_rate_per_s,
                connections=connections if proxy is None else None,
            )
