"""The websocket that sends events to the Actor of a live Run.

The Run's id in the path is the credential, as on the platform, unless access is restricted. The address that its Actor
gets has a signature beside it. After close code 1008 a client does not reconnect.
"""

import contextlib
import hmac
import os

import anyio
from aiohttp import WSCloseCode, web
from anyio.streams.memory import MemoryObjectReceiveStream

from batchrun.model import JsonObject, RunStatus
from batchrun.server.api.access_rights import may_follow
from batchrun.server.error_answers import request_invalid
from batchrun.server.ids import iso, now_ms
from batchrun.server.routing.call import Call
from batchrun.server.routing.route_table import RouteTable
from batchrun.server.runs.actor_events import TooManyFollowers, event_message
from batchrun.server.runs.hosted_run import HostedRun

#: Seconds between two usage events. Source: system events.
_USAGE_EVERY_S = 1
#: Seconds between two requests to save the Actor's state. Source: system events.
_PERSIST_EVERY_S = 60
#: Seconds between two pings; a client that does not answer is disconnected.
_HEARTBEAT_S = 30
#: Max bytes of a client's message. Clients have nothing to send here.
_MAX_MESSAGE_BYTES = 1024
#: Percent of all cores from which on the CPU counts as overloaded.
_OVERLOAD = 95


def add_routes(table: RouteTable) -> None:
    table.add("GET", "/events/{run}", follow_events, needs_token=False)


async def follow_events(call: Call) -> web.StreamResponse:
    """Send a live Run's events until either side closes, or the caller may read no more of it."""
    socket = web.WebSocketResponse(heartbeat=_HEARTBEAT_S, max_msg_size=_MAX_MESSAGE_BYTES)
    if not socket.can_prepare(call.request):
        raise request_invalid("This address takes websockets only")
    await socket.prepare(call.request)
    live = call.backend.runs.find_live(call.path["run"])
    is_own = live is not None and (_has_key(call, live) or call.is_by(live.doc["userId"]))
    if live is None or not live.is_process or not _is_permitted(call, live):
        await _refuse(socket, b"No such Actor run is live")
        return socket
    try:
        with live.events.follow(is_own=is_own) as events:
            await _attend(call, socket, live, events)
    except TooManyFollowers:
        await _refuse(socket, b"Too many connections for this Actor run")
    return socket


async def _refuse(socket: web.WebSocketResponse, reason: bytes) -> None:
    await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=reason)


def _is_permitted(call: Call, live: HostedRun) -> bool:
    return _has_key(call, live) or may_follow(call, live)


def _has_key(call: Call, live: HostedRun) -> bool:
    given = call.query.text("signature") or ""
    key = call.backend.tokens.events_key_of(live.id, live.resurrections)
    return hmac.compare_digest(given.encode(errors="replace"), key.encode())


async def _attend(
    call: Call, socket: web.WebSocketResponse, live: HostedRun, events: MemoryObjectReceiveStream[str]
) -> None:
    async with anyio.create_task_group() as children:
        children.start_soon(_send_events, call, socket, live, events)
        if live.status is RunStatus.ABORTING:
            live.announce_abort()
        async for _ in socket:
            pass
        children.cancel_scope.cancel()


async def _send_events(
    call: Call, socket: web.WebSocketResponse, live: HostedRun, events: MemoryObjectReceiveStream[str]
) -> None:
    persist_at = anyio.current_time() + _PERSIST_EVERY_S
    with contextlib.suppress(ConnectionError, anyio.EndOfStream):
        while True:
            event = None
            with anyio.move_on_after(_USAGE_EVERY_S):
                event = await events.receive()
            if not _is_permitted(call, live):
                await _refuse(socket, b"The token has ended, or access was restricted")
                return
            for message in [event] if event is not None else _usage(live):
                await socket.send_str(message)
            if anyio.current_time() >= persist_at:
                persist_at += _PERSIST_EVERY_S
                await socket.send_str(event_message("persistState", {"isMigrating": False}))
    await socket.close()


def _usage(live: HostedRun) -> list[str]:
    is_overloaded = live.cpu_usage > _OVERLOAD * (os.cpu_count() or 1)
    measured = live.measured(live.duration_s())
    usage: JsonObject = {name: measured[name] for name in measured if name.startswith(("mem", "cpu"))}
    usage |= {"isCpuOverloaded": is_overloaded, "createdAt": iso(now_ms())}
    return [event_message("systemInfo", usage), event_message("cpuInfo", {"isCpuOverloaded": is_overloaded})]
