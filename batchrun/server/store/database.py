"""One SQLite file with one writing and one reading thread; the event loop never waits for the disk.

Owns connections, transactions and the hand-over between threads and the loop. Knows nothing of the tables: callers pass
functions over a connection.

Each thread takes *all* waiting operations (up to a limit), carries them out in one transaction and wakes the waiters
with one call: the hop between threads is paid per group, not per operation. If one of them fails, the group is rolled
back and carried out again with a savepoint around each operation, so that only the failing one is undone.

A third thread moves the write-ahead log into the file, since that waits for the disk: 10 ms and more, in which the
writing thread commits other groups.

`synchronous=NORMAL`: commits survive the death of this process, which the server promises. Power loss may undo the last
commits, but does not damage the file.
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
import structlog

from batchrun.errors import OutputError
from batchrun.runtime.private_files import refuse_opened_elsewhere

_log = structlog.get_logger()

T = TypeVar("T")

#: Max operations in one transaction, so that no waiter waits for thousands of others.
_MAX_GROUP = 500
#: Bytes of the write-ahead log from which on it is moved into the file: SQLite's default of 1,000 pages.
_MAX_LOG_BYTES = 1000 * 4096
#: Each step brings the file to a schema version, its `user_version`; the first one makes the tables.
_SCHEMA_STEPS = {2: "schema.sql"} | {number: f"schema_{number}.sql" for number in range(3, 8)}


@dataclass(slots=True)
class _Operation:
    function: Callable[..., Any]
    args: tuple[Any, ...]
    #: None: it has the result.
    waiter: asyncio.Future[Any] | None
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
        #: Callbacks may start children, and anyio finds the running event loop library by this context.
        self._context = contextvars.copy_context()
        self._thread.start()

    def submit(self, operation: _Operation) -> None:
        self._waiting.put(operation)

    def stop(self) -> None:
        """Finish the waiting operations, then close the connection. Blocks."""
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
            # Dropped before the wait for the next group: arguments and results may be large.
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
                    if self._is_wanted(operation):
                        operation.result = operation.function(self._connection, *operation.args)
        except Exception:  # noqa: BLE001 - carried out again one by one; the failing one raises again
            self._carry_out_apart(group)

    def _carry_out_apart(self, group: Sequence[_Operation]) -> None:
        try:
            with self._transaction():
                for operation in filter(self._is_wanted, group):
                    self._attempt(operation)
        except Exception as error:  # noqa: BLE001 - it is raised where the operations are awaited
            # The transaction itself failed (disk full, file locked), so all operations failed.
            for operation in group:
                operation.error = operation.error or error

    def _is_wanted(self, operation: _Operation) -> bool:
        """False for a read whose caller has left: many that were sent and given up would hold up all others."""
        is_write = self._log is not None
        return is_write or operation.waiter is None or not operation.waiter.cancelled()

    def _attempt(self, operation: _Operation) -> None:
        self._connection.execute("SAVEPOINT operation")
        try:
            operation.result = operation.function(self._connection, *operation.args)
        except Exception as error:
            operation.error = error
            if not self._connection.in_transaction:
                raise  # a full disk, say: SQLite has rolled the whole group back
            self._connection.execute("ROLLBACK TO operation")
        self._connection.execute("RELEASE operation")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN" if self._log is None else "BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            # Some errors have rolled the transaction back already.
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


class _Log:
    """The write-ahead log. The writing thread keeps it short, between two groups.

    Args:
        path: of the database's file.
        writing: the connection that appends to the log.
        copying: the connection that moves the log into the file, on another thread.
    """

    def __init__(self, path: Path, writing: sqlite3.Connection, copying: sqlite3.Connection) -> None:
        self._path, self._writing, self._copying = path.with_name(f"{path.name}-wal"), writing, copying
        self._thread = ThreadPoolExecutor(1, "batchrun-server-copies")
        self._copy: Future[None] | None = None

    def keep_short(self) -> None:
        """Start moving the log into the file if it is long, or finish that."""
        if self._copy is None:
            if self._length_bytes() > _MAX_LOG_BYTES:
                self._copy = self._thread.submit(_move_log, self._copying)
        elif self._copy.done():
            # Moves the pages added meanwhile: once the whole log is in the file, the next write starts it again.
            self._copy = None
            _move_log(self._writing)

    def _length_bytes(self) -> int:
        with suppress(OSError):
            return self._path.stat().st_size
        return 0

    def close(self) -> None:
        """Wait until the log is moved, if that has started. Blocks."""
        self._thread.shutdown()
        self._copying.close()


def _move_log(connection: sqlite3.Connection) -> None:
    # An error (disk full) is raised again by the next write that needs space.
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _deliver(group: list[_Operation]) -> None:
    for operation in group:
        if operation.error is None and operation.then is not None:
            try:
                operation.then(operation.result)
            except Exception as error:  # noqa: BLE001 - it is raised where the operation is awaited
                _log.exception("commit_not_followed_up")
                operation.error = error
        if operation.waiter is not None and not operation.waiter.done():
            if operation.error is not None:
                operation.waiter.set_exception(operation.error)
            else:
                operation.waiter.set_result(operation.result)
        # The traceback of its error holds an operation that has failed, and its waiter holds the error.
        operation.waiter, operation.error, operation.args = None, None, ()
    # The tracebacks of errors hold the group, too: all that was read with them, and open files, would stay in cycles.
    group.clear()


def is_of_the_file(error: Exception) -> bool:
    """True if an operation failed for the sake of the file (disk full, say), not for what it was to store."""
    return isinstance(error, sqlite3.OperationalError)


def is_of_a_full_disk(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL


class Database:
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
            function: its errors are raised here, and its writes are undone. It may be called a second time with the
                same arguments, after its first writes were undone.
            args: passed on.
            then: called on the loop with the result right after the commit, before any waiter continues, also if the
                caller was cancelled: the place for what must follow a commit.

        A submitted operation is carried out even if its caller is cancelled.
        """
        return await self._submit(self._writer, function, args, then)

    async def read(self, function: Callable[..., T], *args: Any) -> T:
        """Carry out `function(connection, *args)` on the reading thread. It sees all commits.

        Nothing is read for a caller that was cancelled before its turn.
        """
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
        try:
            return await waiter
        finally:
            # It has the error, whose traceback has this frame, and those of the whole request with its body.
            del waiter


@asynccontextmanager
async def open_database(path: Path) -> AsyncIterator[Database]:
    """Open the file; create it and its tables if missing. On leaving, finish all submitted operations."""
    writing = await anyio.to_thread.run_sync(_connect, path)
    reading = await anyio.to_thread.run_sync(_connect, path)
    log = _Log(path, writing, await anyio.to_thread.run_sync(_connect, path))
    writer = _Worker(writing, "batchrun-server-writes", log)
    reader = _Worker(reading, "batchrun-server-reads")
    try:
        yield Database(writer, reader)
    finally:
        # Without a timeout: accepted operations are written, and no thread is left with a connection.
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(reader.stop)
            await anyio.to_thread.run_sync(writer.stop)
            await anyio.to_thread.run_sync(log.close)


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file.

    Raises:
        OutputError: It is no database, is damaged, or another batchrun made it; or the disk is full, say.
    """
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        (journal_mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        # The log's file is cut when the log starts again, so that its length is the amount to move.
        connection.execute("PRAGMA journal_size_limit = 0")
        take_schema_steps(connection)
        refuse_opened_elsewhere(path, journal_mode)
    except OSError as error:
        connection.close()
        raise OutputError(f"the server's database {path} cannot be used: {error.strerror}") from error
    except sqlite3.Error as error:
        connection.close()
        if is_of_the_file(error):
            advice = "Nothing is lost: fix that, and start the server again"
        else:
            advice = "Restore a copy of it, or use another data directory"
        raise OutputError(f"the server's database {path} cannot be used: {error}. {advice}") from error
    except OutputError:
        connection.close()
        raise
    return connection


def take_schema_steps(connection: sqlite3.Connection) -> None:
    """Take the missing schema steps, each in one transaction with its record.

    Raises:
        OutputError: A newer batchrun made the tables, or one from before the first step.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > max(_SCHEMA_STEPS) or 0 < version < min(_SCHEMA_STEPS):
        age = "newer than this batchrun" if version > max(_SCHEMA_STEPS) else "from before 27 November 2026"
        raise OutputError(f"the server's database is {age}; use the one that made it, or another data directory")
    for number, name in _SCHEMA_STEPS.items():
        if number > version:
            step = resources.files(__package__).joinpath(name).read_text("utf-8")
            connection.executescript(f"BEGIN IMMEDIATE; {step} PRAGMA user_version = {number}; COMMIT;")
