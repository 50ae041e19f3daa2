"""Executes coroutine Actors on the server's event loop, without HTTP or a process."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NoReturn

import orjson
import structlog

from batchrun.server.names import check_record_key
from batchrun.server.runs.hosted_run import EXIT_RAISED, HostedRun, RunEnd, append_log, ending_of, store_live
from batchrun.server.settings import InlineActor
from batchrun.server.store import item_table, stored_value_table
from batchrun.server.store.database import Database

_log = structlog.get_logger()


class _Failed(Exception):
    def __init__(self, exit_code: int, message: str | None) -> None:
        self.exit_code, self.message = exit_code, message


class _Context:
    def __init__(self, database: Database, live: HostedRun) -> None:
        self._database, self._live = database, live

    @property
    def run_id(self) -> str:
        return self._live.id

    @property
    def input(self) -> Any:
        body = self._live.input_body
        if not body:
            return None
        # An Actor without an input schema accepts any body, also text and bytes.
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(body)
        with suppress(UnicodeDecodeError):
            return body.decode()
        return body

    async def push_items(self, new_items: Sequence[Any]) -> None:
        bodies = [orjson.dumps(item) for item in new_items]
        clean_count = sum(1 for item in new_items if item)
        await self._database.write(
            item_table.append, self._live.doc["defaultDatasetId"], self._live.doc["userId"], bodies, clean_count
        )

    async def set_value(self, key: str, value: Any) -> None:
        store_id, user_id = self._live.doc["defaultKeyValueStoreId"], self._live.doc["userId"]
        await self._database.write(stored_value_table.put, store_id, user_id, check_record_key(key), *_encode(value))

    async def set_status_message(self, message: str, *, is_terminal: bool = False) -> None:
        self._live.change({"statusMessage": message, "isStatusMessageTerminal": is_terminal})
        await store_live(self._database, self._live)

    async def log(self, text: str) -> None:
        await append_log(self._database, self._live, text)

    def fail(self, exit_code: int = 1, message: str | None = None) -> NoReturn:
        raise _Failed(exit_code, message)


def _encode(value: Any) -> tuple[str, bytes]:
    if isinstance(value, bytes):
        return "application/octet-stream", value
    if isinstance(value, str):
        return "text/plain; charset=utf-8", value.encode()
    return "application/json; charset=utf-8", orjson.dumps(value)


async def run_inline(database: Database, live: HostedRun, actor: InlineActor) -> RunEnd:
    """Execute a Run's coroutine within its time limit."""
    live.scope.deadline = live.deadline
    try:
        await actor(_Context(database, live))
    except _Failed as failure:
        ending = ending_of(failure.exit_code or 1)
        return ending if failure.message is None else replace(ending, message=failure.message)
    except Exception as error:  # noqa: BLE001 - an Actor may raise anything; only its Run fails
        _log.info("inline_actor_raised", run_id=live.id, error=repr(error))
        await append_log(database, live, f"ERROR {type(error).__name__}: {error}")
        return ending_of(EXIT_RAISED)
    return ending_of(0)
