"""The accounts as they are kept: ids, times and limits outlive restarts, names and tokens come from the settings."""

import orjson

from batchrun.errors import ConfigError
from batchrun.model import JsonObject
from batchrun.server.accounts import Account, Accounts
from batchrun.server.database import Database
from batchrun.server.ids import new_id, now_ms
from batchrun.server.room import Room
from batchrun.server.settings import AccountSettings, ServerSettings
from batchrun.server.tables import account


async def read_accounts(database: Database, settings: ServerSettings, token: str) -> Accounts:
    """Return the accounts of the settings, each with the id it has had before; `token` is the first one's.

    Raises:
        ConfigError: two have the same name or token.
    """
    first = AccountSettings(
        username=settings.username,
        token=token,
        max_total_memory_mb=settings.max_total_memory_mb,
        max_concurrent_runs=settings.max_concurrent_runs,
        max_tasks=settings.max_tasks,
    )
    given = [first, *settings.accounts]
    if len({one.username.lower() for one in given}) < len(given) or len({one.token for one in given}) < len(given):
        raise ConfigError("every account of the server needs a username and a token of its own")
    # The first account may change its name and stays the same.
    suffixes = ["", *(f" {one.username.lower()}" for one in settings.accounts)]
    return Accounts([await _read(database, one, suffix) for one, suffix in zip(given, suffixes, strict=True)])


async def _read(database: Database, given: AccountSettings, suffix: str) -> Account:
    user_id = await database.write(account.read_or_set, f"user_id{suffix}", new_id())
    created_ms = await database.write(account.read_or_set, f"created_ms{suffix}", str(now_ms()))
    limits: JsonObject = orjson.loads(await database.write(account.read_or_set, f"limits {user_id}", "{}"))
    return Account(
        id=user_id,
        username=given.username,
        token=given.token,
        created_ms=int(created_ms),
        max_tasks=given.max_tasks,
        room=Room(given.max_total_memory_mb, given.max_concurrent_runs),
        limits=limits,
    )


async def change_limits(database: Database, of: Account, changes: JsonObject) -> None:
    """Keep limits that the user sets."""
    of.limits.update(changes)
    await database.write(account.put, f"limits {of.id}", orjson.dumps(of.limits).decode())
