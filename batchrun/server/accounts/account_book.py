"""The stored accounts. Ids, creation times and limits are in the database; names and tokens come from the settings."""

import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson

from batchrun.errors import ConfigError, OutputError
from batchrun.model import JsonObject
from batchrun.runtime.private_files import names_of_others, private_opener, refuse_anothers
from batchrun.server.accounts.accounts import Accounts, ServerAccount
from batchrun.server.accounts.run_quota import RunQuota
from batchrun.server.ids import new_id, now_ms
from batchrun.server.settings import AccountSettings, ServerSettings
from batchrun.server.store import account_table
from batchrun.server.store.database import Database

#: How tokens begin that a server has made.
MADE_TOKEN = "batchrun_api_"  # noqa: S105 - not a token
#: The database, which each server has.
STATE = "server.sqlite3"
#: Its address's, for the next server on the same state.
PORT = "port"
#: Patterns of the names that a server's files have.
OWN_NAMES = (f"{STATE}*", PORT, "lock", "server.log*", "token", "token.*")
_USERNAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")


def is_username(name: str) -> bool:
    """True for what can be an account's name, which is part of addresses (name~task) and of its token's file name."""
    return _USERNAME.fullmatch(name) is not None


def with_tokens(settings: ServerSettings) -> list[AccountSettings]:
    """Return all accounts, the first one first, each with a token: given, stored earlier, or made now. Blocks.

    Raises:
        ConfigError: a username is invalid, or two accounts share a name or a token.
        OutputError: a kept token cannot be read or written.
    """
    first = AccountSettings(
        username=settings.username,
        token=settings.token,
        max_total_memory_mb=settings.max_total_memory_mb,
        max_concurrent_runs=settings.max_concurrent_runs,
        max_tasks=settings.max_tasks,
        is_restricted=settings.is_restricted,
    )
    given = [first, *settings.accounts]
    for one in given:
        if not is_username(one.username):
            raise ConfigError(f"{one.username!r} cannot be an account's name: use letters, digits, dots, - and _")
    files = [token_file(settings.data_dir), *(token_file(settings.data_dir, one.username) for one in settings.accounts)]
    tokens = [one.token or _kept_token(file) for one, file in zip(given, files, strict=True)]
    if len({one.username.lower() for one in given}) < len(given) or len(set(tokens)) < len(given):
        raise ConfigError("each account of the server needs its own username and its own token")
    return [replace(one, token=token) for one, token in zip(given, tokens, strict=True)]


def token_file(data_dir: Path, username: str = "") -> Path:
    """Return where the token is kept that a server made for an account; without a name, for its first one."""
    return data_dir / (f"token.{username.lower()}" if username else "token")


def refuse_anothers_directory(data_dir: Path, flag: str = "--data") -> None:
    """Refuse a directory of something else, which a server would close to other users, for its state. Blocks.

    Args:
        data_dir: of a server.
        flag: that names it, or the directory it is in.

    Raises:
        ConfigError: it is no server's, and neither new nor empty.
        OutputError: it cannot be read.
    """
    try:
        if (data_dir / STATE).exists():
            return
        # A server that was killed before it had a state may have left something.
        others = names_of_others(data_dir, OWN_NAMES) or [
            file.name for file in sorted(data_dir.glob("token*")) if not _is_made(file)
        ]
    except OSError as error:
        raise OutputError(f"the server's data directory {data_dir} cannot be read: {error.strerror}") from error
    if others:
        raise ConfigError(
            f"{data_dir} is no server's: it holds {others[0]}. A server would close it to other users, and take a file"
            f" called token in it for its own; choose another {flag}"
        )


def _is_made(file: Path) -> bool:
    """True for a token's file as a server makes it; a person may have a file called token, too."""
    with open(file, "rb", opener=private_opener) as opened:
        return opened.read(len(MADE_TOKEN)) in (b"", MADE_TOKEN.encode())


def _kept_token(file: Path) -> str:
    try:
        with open(file, "a+", encoding="utf-8", opener=private_opener) as opened:
            refuse_anothers(file, os.fstat(opened.fileno()))
            opened.seek(0)
            if not (token := opened.read().strip()):
                token = f"{MADE_TOKEN}{secrets.token_urlsafe(24)}"
                opened.write(token + "\n")
            return token
    except OSError as error:
        raise OutputError(f"the token in {file} cannot be used: {error.strerror}") from error


async def read_accounts(database: Database, given: Sequence[AccountSettings]) -> Accounts:
    """Return the accounts with their stored ids. The settings must hold a token for each."""
    # The first account is stored without its name, so that it can be renamed.
    suffixes = ["", *(f" {one.username.lower()}" for one in given[1:])]
    return Accounts([await _read(database, one, suffix) for one, suffix in zip(given, suffixes, strict=True)])


async def _read(database: Database, given: AccountSettings, suffix: str) -> ServerAccount:
    user_id = await database.write(account_table.read_or_set, f"user_id{suffix}", new_id())
    created_ms = await database.write(account_table.read_or_set, f"created_ms{suffix}", str(now_ms()))
    limits: JsonObject = orjson.loads(await database.write(account_table.read_or_set, f"limits {user_id}", "{}"))
    return ServerAccount(
        id=user_id,
        username=given.username,
        token=given.token or "",
        created_ms=int(created_ms),
        max_tasks=given.max_tasks,
        quota=RunQuota(given.max_total_memory_mb, given.max_concurrent_runs),
        is_restricted=given.is_restricted,
        limits=limits,
    )


async def change_limits(database: Database, of: ServerAccount, changes: JsonObject) -> None:
    of.limits.update(changes)
    await database.write(account_table.put, f"limits {of.id}", orjson.dumps(of.limits).decode())
