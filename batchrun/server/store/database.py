"""One SQLite file, one thread that writes and one that reads; the event loop never waits for the disk.

Owns connections, transactions and the hand-over between threads and the loop. Knows nothing of what is stored: callers
pass ordinary functions over a connection.

Each thread takes *all* operations that wait, carries them out in one transaction and wakes the waiters with one call:
under load a hop between threads is paid per group, not per operation. Only when one of them fails is the group undone
and carried out again with a savepoint around each, so that the one leaves nothing behind and the others stand.

Moving the write-ahead log into the file waits for the disk: a third thread does that beside the writing one, which is
left with what was written meanwhile. Else every waiter behind would be late by a hundredth of a second and more.

`synchronous=NORMAL`: what is committed survives the death of this process, which is what the server promises. Power
loss may undo the last commits, though never damage the file.
"""

import asyncio
import contextvars
import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

#: Operations in one transaction at most, so that one waiter is not held up by thousands.
_MAX_GROUP = 500
#: Each takes the file one version further; a file is as new as the steps it has taken.
#: From this length on the write-ahead log is moved into the file; SQLite's own limit.
_MAX_LOG_BYTES = 1000 * 4096
_SCHEMA_STEPS = ("schema.sql", "schema_2.sql")


@dataclass(slots=True)
class _Operation:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    waiter: asyncio.Future[Any]
    then: Callable[[Any], None] | None
    result: Any = None
    error: BaseException | None = None


class _Worker:
    """A thread that owns one connection."""

    def __init__(self, connection: sqlite3.Connection, name: str, log: "_Log | None" = None) -> None:
        self._connection, self._log = connection, log
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        #: What is delivered may start tasks; a thread's own context does not tell them which library runs the loop.
        self._context = contextvars.copy_context()
        self._thread.start()

    def submit(self, operation: _Operation) -> None:
        self._waiting.put(operation)

    def stop(self) -> None:
        """Finish what waits, then close the connection; blocks until done."""
        self._waiting.put(None)
        self._thread.join()
        self._connection.close()

    def _serve(self) -> None:
        while True:
            group, is_last = self._take_group()
            if group:
                self._carry_out(group)
                self._loop.call_soon_threadsafe(_deliver, group, context=self._context)
                if self._log is not None:
                    self._log.keep_short()
            # Not held until the next one comes: what was written and read may be large.
            del group
            if is_last:
                return

    def _take_group(self) -> tuple[list[_Operation], bool]:
        group: list[_Operation] = []
        operation = self._waiting.get()
        while operation is not None:
            group.append(operation)
            if len(group) == _MAX_GROUP:
                return group, False
            try:
                operation = self._waiting.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _carry_out(self, group: Sequence[_Operation]) -> None:
        try:
            with self._transaction():
                for operation in group:
                    operation.result = operation.function(self._connection, *operation.args)
        except Exception:  # noqa: BLE001 - carried out apart, the one that fails meets it again
            self._carry_out_apart(group)

    def _carry_out_apart(self, group: Sequence[_Operation]) -> None:
        try:
            with self._transaction():
                for operation in group:
                    self._attempt(operation)
        except sqlite3.Error as error:
            # The transaction as a whole did not hold (disk full, file locked): nobody's operation did.
            for operation in group:
                operation.error = operation.error or error

    def _attempt(self, operation: _Operation) -> None:
        self._connection.execute("SAVEPOINT operation")
        try:
            operation.result = operation.function(self._connection, *operation.args)
        except Exception as error:  # noqa: BLE001 - it is raised where the operation is awaited
            operation.error = error
            self._connection.execute("ROLLBACK TO operation")
        self._connection.execute("RELEASE operation")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN" if self._log is None else "BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # Some errors have ended the transaction already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


class _Log:
    """The write-ahead log; kept short by the writing thread, between two groups.

    Args:
        path: of the database's file.
        writing: the connection that adds to it.
        copying: moves it into the file, on a thread of its own.
    """

    def __init__(self, path: Path, writing: sqlite3.Connection, copying: sqlite3.Connection) -> None:
        self._path, self._writing, self._copying = path.with_name(f"{path.name}-wal"), writing, copying
        self._thread = ThreadPoolExecutor(1, "batchrun-server-copies")
        self._copy: Future[None] | None = None

    def keep_short(self) -> None:
        """Begin to move it into the file when it is long, or finish that."""
        if self._copy is None:
            if self._length_bytes() > _MAX_LOG_BYTES:
                self._copy = self._thread.submit(_move_log, self._copying)
        elif self._copy.done():
            # Once all of it is in the file, the next write begins it anew.
            self._copy = None
            _move_log(self._writing)

    def _length_bytes(self) -> int:
        with suppress(OSError):
            return self._path.stat().st_size
        return 0

    def close(self) -> None:
        """Wait for what was begun; blocks."""
        self._thread.shutdown()
        self._copying.close()


def _move_log(connection: sqlite3.Connection) -> None:
    # What goes wrong with it is met, and told, by the write that finds no room.
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _deliver(group: Sequence[_Operation]) -> None:
    for operation in group:
        if operation.error is None and operation.then is not None:
            operation.then(operation.result)
        if operation.waiter.done():
            continue
        if operation.error is not None:
            operation.waiter.set_exception(operation.error)
        else:
            operation.waiter.set_result(operation.result)


class Database:
    """Where the server's state is kept."""

    def __init__(self, writer: _Worker, reader: _Worker) -> None:
        self._writer, self._reader = writer, reader
        self._loop = asyncio.get_running_loop()

    async def write(
        self,
        function: Callable[..., T],
        *args: Any,
        then: Callable[[T], None] | None = None,
    ) -> T:
        """Carry out `function(connection, *args)` on the writing thread and return its result once committed.

        Args:
            function: what it raises is raised here, and what it has written is undone. It may be called a second time
                with the same arguments, all that it wrote the first time having been undone.
            args: passed on.
            then: called on the loop with the result right after the commit, before any waiter goes on, and even if
                the caller was cancelled meanwhile: what must follow a commit belongs there.

        An operation once submitted is carried out, whether or not its caller is cancelled.
        """
        return await self._submit(self._writer, function, args, then)

    async def read(self, function: Callable[..., T], *args: Any) -> T:
        """Carry out `function(connection, *args)` on the reading thread; it sees all that is committed."""
        return await self._submit(self._reader, function, args, None)

    async def _submit(
        self,
        worker: _Worker,
        function: Callable[..., T],
        args: tuple[Any, ...],
        then: Callable[[T], None] | None,
    ) -> T:
        waiter: asyncio.Future[T] = self._loop.create_future()
        worker.submit(_Operation(function, args, waiter, then))
        return await waiter


@asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """Open the file, creating it and its tables when missing; on leaving, finish what was submitted."""
    writing = await anyio.to_thread.run_sync(_connect, path)
    reading = await anyio.to_thread.run_sync(_connect, path)
    log = _Log(path, writing, await anyio.to_thread.run_sync(_connect, path))
    writer = _Worker(writing, "batchrun-server-writes", log)
    reader = _Worker(reading, "batchrun-server-reads")
    try:
        yield Database(writer, reader)
    finally:
        # Without a limit: what was accepted is written, and a thread cannot be left behind with a connection.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(reader.stop)
            await anyio.to_thread.run_sync(writer.stop)
            await anyio.to_thread.run_sync(log.close)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    # The log is cut when it begins anew, so that its length tells how much there is to move.
    connection.execute("PRAGMA journal_size_limit = 0")
    take_schema_steps(connection)
    return connection


def take_schema_steps(connection: sqlite3.Connection) -> None:
    """Bring a database's tables up to this version of the server, each step in one transaction with its record."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, name in enumerate(_SCHEMA_STEPS[version:], start=version + 1):
        step = resources.files(__package__).joinpath(name).read_text("utf-8")
        connection.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")
