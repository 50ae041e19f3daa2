"""The server's database: groups of operations, and the write-ahead log."""

import gc
import resource
import threading
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from sqlite3 import Connection

import anyio
import anyio.to_thread
import pytest

from batchrun.errors import OutputError
from batchrun.server.store import database as server_database
from batchrun.server.store.database import Database, open_database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """A new database."""
    async with open_database(tmp_path / "server.sqlite3") as database:
        yield database


def put(connection: Connection, name: str) -> None:
    """Keep a name; refuse "bad" after it was written."""
    connection.execute("INSERT INTO account VALUES (?, 'x')", (name,))
    if name == "bad":
        raise ValueError(name)


def names(connection: Connection) -> list[str]:
    """Return what is kept."""
    return [name for (name,) in connection.execute("SELECT name FROM account ORDER BY name")]


async def test_what_follows_a_write_runs_in_the_context_that_the_database_was_opened_in(tmp_path: Path) -> None:
    """Tasks are started there: where sniffio is installed, only the context tells which library runs the loop."""
    library = ContextVar("library", default="none")
    library.set("asyncio")
    seen: list[str] = []
    async with open_database(tmp_path / "server.sqlite3") as database:
        await database.write(put, "a", then=lambda _: seen.append(library.get()))
    assert seen == ["asyncio"]


async def test_a_file_that_is_no_database_is_named_and_not_touched(tmp_path: Path) -> None:
    """It may be one that was damaged: a person restores it."""
    file = tmp_path / "server.sqlite3"
    file.write_bytes(b"no database at all" * 500)
    with pytest.raises(OutputError, match=r"server\.sqlite3 cannot be used: file is not a database"):
        async with open_database(file):
            pass
    assert file.read_bytes() == b"no database at all" * 500


async def test_a_file_that_cannot_be_written_is_no_damaged_one(tmp_path: Path) -> None:
    """Whoever restored a copy where the disk is full would lose what is stored."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        with pytest.raises(OutputError, match="Nothing is lost: fix that, and start the server again"):
            async with open_database(tmp_path / "server.sqlite3"):
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_an_operation_that_fails_takes_nothing_of_its_group_with_it(database: Database) -> None:
    """It leaves nothing behind; those that were submitted with it are kept, once."""
    results: dict[str, str] = {}

    async def write(name: str) -> None:
        try:
            await database.write(put, name, then=lambda _: results.__setitem__(name, "kept"))
        except ValueError:
            results[name] = "refused"

    async with anyio.create_task_group() as children:
        for name in ("a", "bad", "c"):
            children.start_soon(write, name)
    assert results == {"a": "kept", "bad": "refused", "c": "kept"}
    assert await database.read(names) == ["a", "c"]


class Large:
    """What a read returns, or a write is given."""


async def test_nothing_that_was_read_with_a_failing_operation_is_kept(database: Database) -> None:
    """Not even until the next collection of garbage: it may be megabytes, and an open file."""
    read: list[weakref.ref[Large]] = []
    goes_on = threading.Event()

    def read_large(_: Connection) -> Large:
        return Large()

    def fail(_: Connection) -> None:
        raise ValueError("no such thing")

    async def read_beside() -> None:
        read.append(weakref.ref(await database.read(read_large)))

    async def fail_beside() -> None:
        with pytest.raises(ValueError, match="no such thing"):
            await database.read(fail)

    gc.disable()
    try:
        async with anyio.create_task_group() as children:
            children.start_soon(database.read, lambda _: goes_on.wait(60))
            await anyio.wait_all_tasks_blocked()
            children.start_soon(read_beside)
            children.start_soon(fail_beside)
            await anyio.wait_all_tasks_blocked()
            goes_on.set()
        assert read[0]() is None
    finally:
        gc.enable()


async def test_nothing_is_read_for_a_caller_that_has_left(database: Database) -> None:
    """Thousands of slow reads that were given up would hold up all others, and the end; a write is carried out."""
    goes_on = threading.Event()
    seen: list[str] = []

    def read(_connection: Connection, name: str) -> None:
        seen.append(name)

    async with anyio.create_task_group() as children:
        children.start_soon(database.read, lambda _: goes_on.wait(60))
        children.start_soon(database.write, lambda _: goes_on.wait(60))
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as given_up:
            given_up.start_soon(database.read, read, "given up")
            given_up.start_soon(database.write, put, "written")
            await anyio.wait_all_tasks_blocked()
            given_up.cancel_scope.cancel()
        children.start_soon(database.read, read, "awaited")
        await anyio.wait_all_tasks_blocked()
        goes_on.set()
    assert seen == ["awaited"]
    await database.write(lambda _: None)  # behind the one that nobody waits for
    assert await database.read(names) == ["written"]


@pytest.mark.parametrize("count", [1, 3])
async def test_what_an_operation_was_given_is_freed_when_it_fails(database: Database, count: int) -> None:
    """At once, not at a collection of cycles, which may be hours away: a refused body has megabytes."""
    given: list[weakref.ref[Large]] = []

    def refuse(_connection: Connection, _body: Large) -> None:
        raise ValueError

    async def send() -> None:
        body = Large()
        given.append(weakref.ref(body))
        await database.write(refuse, body)

    async def send_in_vain() -> None:
        with suppress(ValueError):
            await send()

    gc.disable()
    try:
        async with anyio.create_task_group() as children:
            for _ in range(count):
                children.start_soon(send_in_vain)
        await database.write(put, "after")
        assert [each() for each in given] == [None] * count
    finally:
        gc.enable()


async def test_the_write_ahead_log_is_begun_anew(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written without a pause, it is moved into the file again and again, and nothing is lost by that."""
    monkeypatch.setattr(server_database, "_MAX_LOG_BYTES", 100_000)
    log = tmp_path / "server.sqlite3-wal"
    written = times_cut = length = 0
    with anyio.fail_after(60):
        while times_cut < 3:
            await database.write(put, f"{written:05}" + "x" * 4000)
            before, length = length, await anyio.to_thread.run_sync(lambda: log.stat().st_size)
            written, times_cut = written + 1, times_cut + (length < before)
    assert len(await database.read(names)) == written


async def test_what_fails_after_a_commit_is_the_trouble_of_its_caller_alone(database: Database) -> None:
    """Those that were committed with it get their results."""
    results: dict[str, str] = {}

    def refuse_bad(name: str) -> None:
        if name == "odd":
            raise LookupError(name)

    async def write(name: str) -> None:
        try:
            await database.write(put, name, then=lambda _: refuse_bad(name))
            results[name] = "kept"
        except LookupError:
            results[name] = "failed"

    with anyio.fail_after(60):
        async with anyio.create_task_group() as children:
            for name in ("a", "odd", "c"):
                children.start_soon(write, name)
    assert results == {"a": "kept", "odd": "failed", "c": "kept"}
