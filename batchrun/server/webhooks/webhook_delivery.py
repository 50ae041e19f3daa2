"""Delivers dispatches over HTTP: at once, then with exponential backoff.

Delivery is at least once, as on the platform ("may be called more than once", webhook actions): a dispatch is committed
together with the event that triggers it, and each try when it is answered, so that a restart loses none. A server that
dies between the receiver's 2xx and that commit repeats the call. A receiver that must not act twice can compare the
header X-Apify-Webhook-Dispatch-Id, which stays the same.
"""

import errno
import socket
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import structlog

from batchrun.model import JsonObject
from batchrun.runtime.certificate_authorities import need_authorities
from batchrun.runtime.error_containment import contained
from batchrun.runtime.loopback import is_public
from batchrun.runtime.name_lookups import NameLookups
from batchrun.server.error_answers import ErrorAnswer
from batchrun.server.ids import iso, now_ms
from batchrun.server.store import build_table, webhook_table
from batchrun.server.store.database import Database
from batchrun.server.webhooks.waiting_dispatches import WaitingDispatches
from batchrun.server.webhooks.webhook_templates import DEFAULT_PAYLOAD, PayloadTooLarge, render, render_headers

_log = structlog.get_logger()

#: Max retries of a call. Source: webhook actions.
_MAX_RETRIES = 11
#: Timeout for one call, in seconds. Source: webhook actions.
_CALL_TIMEOUT_S = 30
#: Max calls of one account at once, so that a few slow receivers do not delay the others.
_MAX_OPEN_CALLS = 16
#: Calls of an account that wait, from which on no test is called: those of Runs' events are as many as its Runs.
_MAX_ASKED_FOR = 1000
#: Seconds until a dispatch is read again after an unexpected error.
_READ_AGAIN_S = 60
#: Max bytes stored of a receiver's answer.
_MAX_KEPT_BODY = 4096
_DELETED: JsonObject = {"errorMessage": "The webhook was deleted"}
#: Headers that a template cannot change. Source: webhook actions.
_FIXED = ("host", "content-type", "content-length", "transfer-encoding", "connection")


class WebhookDelivery:
    def __init__(
        self,
        database: Database,
        read_run: Callable[[str], Awaitable[JsonObject]],
        *,
        retry_s: float,
        base_url: str,
        token_of: Callable[[str], str],
        allow_private_addresses: bool,
    ) -> None:
        self._database, self._read_run, self._retry_s = database, read_run, retry_s
        self._base_url, self._token_of = base_url, token_of
        self._allow_private_addresses = allow_private_addresses
        own = urlsplit(base_url)
        #: Host and port of this server, which webhooks may call.
        self._own_address = own.hostname, own.port
        #: By account id. One account's slow receivers delay no other's calls.
        self._queues: dict[str, WaitingDispatches] = {}
        #: Starts to serve a queue; None: `run` has not begun, and serves those that there are.
        self._serve_too: Callable[[WaitingDispatches], None] | None = None

    def expect(self, dispatches: Iterable[JsonObject]) -> None:
        for doc in dispatches:
            self._queue_of(doc["userId"]).push(doc["id"], 0)

    def is_behind(self, user_id: str) -> bool:
        """True if so many calls of an account wait that nobody may ask for another one."""
        return user_id in self._queues and len(self._queues[user_id]) >= _MAX_ASKED_FOR

    def _queue_of(self, user_id: str) -> WaitingDispatches:
        if (queue := self._queues.get(user_id)) is None:
            queue = self._queues[user_id] = WaitingDispatches()
            if self._serve_too is not None:
                self._serve_too(queue)
        return queue

    async def run(self) -> None:
        """Deliver dispatches; runs until cancelled."""
        now = now_ms()
        for dispatch_id, user_id, next_ms in await self._database.read(webhook_table.due):
            self._queue_of(user_id).push(dispatch_id, max(next_ms - now, 0) / 1000)
        async with anyio.create_task_group() as queues:

            def serve(queue: WaitingDispatches) -> None:
                queues.start_soon(self._serve, queue)

            self._serve_too = serve
            for queue in self._queues.values():
                serve(queue)
            await anyio.sleep_forever()

    async def _serve(self, queue: WaitingDispatches) -> None:
        limit = anyio.CapacityLimiter(_MAX_OPEN_CALLS)
        timeout = aiohttp.ClientTimeout(total=_CALL_TIMEOUT_S)
        # Without aiohttp's cache of names, which goes on with the look-up of a call that has ended.
        connector = aiohttp.TCPConnector(
            limit=0, use_dns_cache=False, socket_factory=self._open_socket, resolver=NameLookups()
        )
        async with (
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as session,
            anyio.create_task_group() as calls,
        ):
            while True:
                dispatch_id = await queue.next()
                # Waits here while _MAX_OPEN_CALLS are open; a slow receiver takes one of them.
                await limit.acquire_on_behalf_of(dispatch_id)
                calls.start_soon(self._deliver, session, queue, limit, dispatch_id)

    def _open_socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """Return a socket for a resolved address, unless a webhook may not reach it."""
        family, kind, protocol, _, (host, port, *_) = address
        if not (self._allow_private_addresses or is_public(str(host)) or (host, port) == self._own_address):
            reason = f"{host} is not a public address; the server's allow_private_addresses permits it"
            raise PermissionError(errno.EACCES, reason)
        return socket.socket(family, kind, protocol)

    async def _deliver(
        self, session: aiohttp.ClientSession, queue: WaitingDispatches, limit: anyio.CapacityLimiter, dispatch_id: str
    ) -> None:
        after_s: float | None = _READ_AGAIN_S
        try:
            with contained("webhook_broken", dispatch_id=dispatch_id):
                doc = await self._database.read(webhook_table.read_dispatch, dispatch_id)
                after_s = await self._try(session, doc) if doc is not None and doc["status"] == "ACTIVE" else None
        finally:
            limit.release_on_behalf_of(dispatch_id)
            queue.forget(dispatch_id)
        if after_s is not None:
            queue.push(dispatch_id, after_s)

    async def _try(self, session: aiohttp.ClientSession, doc: JsonObject) -> float | None:
        """Make a call and store its result; return the seconds until the retry, None without one."""
        webhook = await self._database.read(webhook_table.read, doc["webhookId"])
        started_at = iso(now_ms())
        is_too_large = False
        try:
            answer = _DELETED if webhook is None else await self._call(session, webhook, doc)
        except PayloadTooLarge as error:
            is_too_large, answer = True, {"errorMessage": str(error)}
        except Exception as error:  # noqa: BLE001 - one webhook's trouble is no other's
            _log.exception("webhook_not_called", dispatch_id=doc["id"])
            answer = {"errorMessage": f"There was an unexpected error on the server: {type(error).__name__}"}
        doc["calls"].append({"startedAt": started_at, "finishedAt": iso(now_ms()), **answer})
        is_success = 200 <= answer.get("responseStatus", 0) < 300
        is_last = webhook is None or is_too_large or webhook["doNotRetry"] or len(doc["calls"]) > _MAX_RETRIES
        after_s = None if is_success or is_last else self._retry_s * 2 ** (len(doc["calls"]) - 1)
        if after_s is None:
            doc["status"], doc["finishedAt"] = "SUCCEEDED" if is_success else "FAILED", iso(now_ms())
        # The receiver has the call, so the result is stored even while the server closes.
        with anyio.CancelScope(shield=True):
            next_ms = None if after_s is None else now_ms() + round(after_s * 1000)
            await self._database.write(webhook_table.note_call, doc, next_ms)
        _log.info("webhook_called", dispatch_id=doc["id"], event_type=doc["eventType"], status=doc["status"])
        return after_s

    async def _call(self, session: aiohttp.ClientSession, webhook: JsonObject, doc: JsonObject) -> JsonObject:
        """Make one call; return the answer or the error, in the format of a dispatch.

        Raises:
            PayloadTooLarge: nothing is sent, and no retry would be.
        """
        variables = await self._variables(doc)
        template = webhook.get("payloadTemplate") or DEFAULT_PAYLOAD
        interpolates = bool(webhook.get("shouldInterpolateStrings"))
        await need_authorities()
        payload = render(template, variables, interpolates_strings=interpolates).encode(errors="replace")
        try:
            async with session.post(
                webhook["requestUrl"],
                data=payload,
                headers=self._headers(webhook, doc, variables),
                ssl=not webhook.get("ignoreSslErrors"),
                allow_redirects=False,
            ) as response:
                body = await response.content.read(_MAX_KEPT_BODY)
                return {"responseStatus": response.status, "responseBody": body.decode(errors="replace")}
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            return {"errorMessage": f"{type(error).__name__}: {error}"}

    async def _variables(self, doc: JsonObject) -> dict[str, Any]:
        now = datetime.now(UTC)
        return {
            **{name: doc[name] for name in ("userId", "createdAt", "eventType", "eventData")},
            "resource": await self._resource(doc),
            "globals": {"dateISO": now.isoformat(), "dateUnix": int(now.timestamp())},
        }

    async def _resource(self, doc: JsonObject) -> JsonObject | None:
        if (build_id := doc["eventData"].get("actorBuildId")) is not None:
            return await self._database.read(build_table.read, build_id)
        run_id = doc["eventData"].get("actorRunId")
        try:
            return await self._read_run(run_id) if run_id is not None else None
        except ErrorAnswer:
            return None

    def _headers(self, webhook: JsonObject, doc: JsonObject, variables: dict[str, Any]) -> dict[str, str]:
        added = render_headers(webhook, variables)
        headers = {name: value for name, value in added.items() if name.lower() not in _FIXED}
        headers = {name: value for name, value in headers.items() if not name.lower().startswith("x-apify-")}
        headers |= {
            "Content-Type": "application/json; charset=utf-8",
            "X-Apify-Webhook": webhook["id"],
            "X-Apify-Webhook-Dispatch-Id": doc["id"],
            "X-Apify-Request-Origin": "WEBHOOK",
        }
        # A call to this server acts for the webhook's account.
        is_to_this_server = webhook["requestUrl"].startswith(f"{self._base_url}/")
        return headers | ({"Authorization": f"Bearer {self._token_of(webhook['userId'])}"} if is_to_this_server else {})
