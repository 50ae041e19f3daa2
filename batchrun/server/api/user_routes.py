"""Endpoints of the account."""

from aiohttp import web

from batchrun.model import JsonObject
from batchrun.server.accounts.callers import Caller
from batchrun.server.error_answers import thing_missing
from batchrun.server.ids import iso
from batchrun.server.routing.call import Call, data_answer
from batchrun.server.routing.route_table import RouteTable

_FEATURES = (
    "ACTORS", "STORAGE", "SCHEDULER", "PROXY", "PROXY_EXTERNAL_ACCESS", "PROXY_RESIDENTIAL", "PROXY_SERPS",
    "WEBHOOKS", "ACTORS_PUBLIC_ALL", "ACTORS_PUBLIC_DEVELOPER",
)  # fmt: skip
_SERVED_FEATURES = frozenset({"ACTORS", "STORAGE", "WEBHOOKS", "ACTORS_PUBLIC_ALL"})


def add_routes(table: RouteTable) -> None:
    table.add("GET", "/v2/users/me", get_me)
    table.add("GET", "/v2/users/{user}", get_public, needs_token=False)


async def get_public(call: Call) -> web.Response:
    """Show what everybody may see of an account, or of the publisher of a bundled Actor."""
    address, accounts = call.path["user"], call.backend.accounts
    account = accounts.named(address)
    publishers = {actor.username for actor in call.backend.catalog}
    known = {name for name in publishers if address.lower() == name.lower() or address == accounts.owner_id_of(name)}
    username = account.username if account is not None else next(iter(known), None)
    if username is None:
        raise thing_missing("User")
    return data_answer({"username": username, "profile": {"name": username}})


async def get_me(call: Call) -> web.Response:
    """Show the account. A live Run sees less of it."""
    user = call.user
    doc: JsonObject = {
        "id": user.id,
        "username": user.username,
        "proxy": {"password": _proxy_password(call), "groups": []},
        "effectivePlatformFeatures": {name: _feature(name) for name in _FEATURES},
        "createdAt": iso(user.created_ms),
        "isPaying": False,
    }
    if call.caller is Caller.ACCOUNT:
        doc |= {"profile": {"name": user.username}, "email": f"{user.username}@example.com"}
        doc["plan"] = {
            "id": "LOCAL",
            "description": "This machine",
            "isEnabled": True,
            "maxConcurrentActorRuns": user.quota.max_concurrent_runs,
            "maxActorMemoryGbytes": user.quota.max_total_memory_mb / 1024,
            "maxActorTaskCount": user.max_tasks,
            "availableProxyGroups": {},
        }
    return data_answer(doc)


def _proxy_password(call: Call) -> str:
    """Return the password of Apify Proxy, if the server was given one. It is the first account's."""
    return (call.backend.settings.proxy_password or "") if call.user is call.backend.accounts.first else ""


def _feature(name: str) -> JsonObject:
    is_enabled = name in _SERVED_FEATURES
    reason = None if is_enabled else "The embedded server does not offer this"
    doc = {"isEnabled": is_enabled, "disabledReason": reason, "disabledReasonType": None}
    return doc | {"isTrial": False, "trialExpirationAt": None}
