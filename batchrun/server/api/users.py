"""Endpoints of the account."""

from datetime import UTC, datetime

from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.auth import Caller
from batchrun.server.call import Call, data_answer
from batchrun.server.ids import iso
from batchrun.server.route_table import RouteTable

#: Limits that this server does not have; any number that no batch reaches will do.
_PLENTY = 1_000_000
_FEATURES = (
    "ACTORS", "STORAGE", "SCHEDULER", "PROXY", "PROXY_EXTERNAL_ACCESS", "PROXY_RESIDENTIAL", "PROXY_SERPS",
    "WEBHOOKS", "ACTORS_PUBLIC_ALL", "ACTORS_PUBLIC_DEVELOPER",
)  # fmt: skip
_SERVED_FEATURES = frozenset({"ACTORS", "STORAGE", "ACTORS_PUBLIC_ALL"})


def add_routes(table: RouteTable) -> None:
    """Serve `/v2/users/me`."""
    table.add("GET", "/v2/users/me", get_me)
    table.add("GET", "/v2/users/me/limits", get_limits)


async def get_me(call: Call) -> web.Response:
    """Show the account; an Actor at work sees less of it."""
    settings = call.platform.settings
    doc: JsonObject = {
        "id": call.platform.user_id,
        "username": settings.username,
        "proxy": {"password": "", "groups": []},
        "effectivePlatformFeatures": {name: _feature(name) for name in _FEATURES},
        "createdAt": iso(call.platform.created_ms),
        "isPaying": False,
    }
    if call.caller is not Caller.RUN:
        doc |= {"profile": {"name": settings.username}, "email": f"{settings.username}@example.com"}
        doc["plan"] = {
            "id": "LOCAL",
            "description": "This machine",
            "isEnabled": True,
            "maxConcurrentActorRuns": settings.max_concurrent_runs,
            "maxActorMemoryGbytes": settings.max_total_memory_mb / 1024,
            "maxActorTaskCount": settings.max_tasks,
            "availableProxyGroups": {},
        }
    return data_answer(doc)


def _feature(name: str) -> JsonObject:
    is_enabled = name in _SERVED_FEATURES
    reason = None if is_enabled else "The embedded server does not offer this"
    doc = {"isEnabled": is_enabled, "disabledReason": reason, "disabledReasonType": None}
    return doc | {"isTrial": False, "trialExpirationAt": None}


async def get_limits(call: Call) -> web.Response:
    """Show the account's limits and what of them is used right now."""
    settings, room = call.platform.settings, call.platform.room
    start_at, end_at = _month()
    limits = {
        "maxMonthlyUsageUsd": _PLENTY,
        "maxMonthlyActorComputeUnits": _PLENTY,
        "maxMonthlyExternalDataTransferGbytes": _PLENTY,
        "maxMonthlyProxySerps": 0,
        "maxMonthlyResidentialProxyGbytes": 0,
        "maxActorMemoryGbytes": settings.max_total_memory_mb / 1024,
        "maxActorCount": _PLENTY,
        "maxActorTaskCount": settings.max_tasks,
        "maxConcurrentActorJobs": settings.max_concurrent_runs,
        "maxTeamAccountSeatCount": 1,
        "dataRetentionDays": 36500,
        "maxScheduleCount": 0,
    }
    current = {
        "monthlyUsageUsd": 0,
        "monthlyActorComputeUnits": 0,
        "monthlyExternalDataTransferGbytes": 0,
        "monthlyProxySerps": 0,
        "monthlyResidentialProxyGbytes": 0,
        "actorMemoryGbytes": room.memory_mb / 1024,
        "actorCount": sum(1 for _ in call.platform.catalog),
        "actorTaskCount": len(call.platform.tasks),
        "activeActorJobCount": room.runs,
        "teamAccountSeatCount": 1,
        "scheduleCount": 0,
    }
    cycle = {"startAt": start_at, "endAt": end_at}
    return data_answer({"monthlyUsageCycle": cycle, "limits": limits, "current": current})


def _month() -> tuple[str, str]:
    now = datetime.now(UTC)
    start = datetime(now.year, now.month, 1, tzinfo=UTC)
    following = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
    return iso(int(start.timestamp() * 1000)), iso(int(following.timestamp() * 1000) - 1)
