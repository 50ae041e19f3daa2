"""Composes the server: opens its parts in order and closes them in reverse order."""

import fcntl
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, closing, contextmanager, suppress
from dataclasses import field
from pathlib import Path
from typing import IO

import anyio
import anyio.abc
import anyio.to_thread
import structlog
from aiohttp import web

from batchrun.errors import OutputError
from batchrun.runtime.byte_budget import ByteBudget
from batchrun.runtime.children import open_children
from batchrun.runtime.fair_turns import FairTurns
from batchrun.runtime.fast_dataclasses import dataclass
from batchrun.runtime.free_space import FreeSpace
from batchrun.runtime.listening_sockets import listening_socket
from batchrun.runtime.loopback import at_page_host, hold_loopback, reachable
from batchrun.runtime.open_files import connections_within_limit
from batchrun.runtime.private_files import (
    keep_out_of_git,
    kept_in_place,
    open_closed_directory,
    private_opener,
    read_private,
    refuse_special,
)
from batchrun.server.accounts.account_book import OWN_NAMES, PORT, STATE, read_accounts, with_tokens
from batchrun.server.accounts.accounts import Accounts
from batchrun.server.accounts.callers import CallerTokens
from batchrun.server.accounts.rate_limits import RateLimits
from batchrun.server.backend import Backend
from batchrun.server.catalog.actor_catalog import Catalog, load_catalog
from batchrun.server.catalog.changed_actors import ChangedActors
from batchrun.server.catalog.task_book import TaskBook
from batchrun.server.content.demo_pages import DemoSite, open_demo_site
from batchrun.server.http.connection_cap import KEEP_ALIVE_S, LINGER_S, LOGGER, ConnectionCap
from batchrun.server.http.exposure import is_loopback
from batchrun.server.http.forward_proxy import STATUS_HOST, serve_forward_proxy
from batchrun.server.http.handler import make_handler
from batchrun.server.runs.final_usage import FinalUsage
from batchrun.server.runs.hosted_run import ActorProxy, HostedRun, RunEnd
from batchrun.server.runs.lifecycle import Runs
from batchrun.server.runs.migration import announce_migration, end_orphans, migrate, note_time
from batchrun.server.runs.process_groups import hide_own_environment
from batchrun.server.runs.run_limits import RunCounts
from batchrun.server.settings import ServerSettings
from batchrun.server.store import account_table, task_table
from batchrun.server.store.database import Database, open_database
from batchrun.server.store.deleted_storages import keep_removing
from batchrun.server.webhooks.webhook_book import WebhookBook

_log = structlog.get_logger()

#: Max connections that wait to be accepted, so that a batch may open all its connections at once.
_BACKLOG = 1024
#: Seconds for open answers when the server closes. Polls are cut: their clients ask again.
_SHUTDOWN_S = 0.1
#: Max connections open at once; a batch opens up to 1,000 polls.
_MAX_CONNECTIONS = 16_384
#: Max megabytes of large bodies that are parsed, and of their values; one alone may take more.
_BODIES_MB = 256
#: Max threads that show pages of items at once.
_SHOWN_AT_ONCE = 2
#: Max bodies that are decompressed at once.
_UNPACKED_AT_ONCE = 2
#: Max large reads at once, each some 100 MB at most. All others go through the one reading thread between them.
_LARGE_READS_AT_ONCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    #: For example `http://127.0.0.1:34567`; without `/v2`.
    base_url: str
    #: Of the page: at a loopback address by a name that no other server's page had.
    page_url: str
    token: str = field(repr=False)
    _backend: Backend = field(repr=False)

    @property
    def tokens(self) -> Mapping[str, str]:
        """The API token of each account, by username."""
        return {account.username: account.token for account in self._backend.accounts}

    @property
    def page_link(self) -> str:
        """The page's address with a token for it, which ends with this server."""
        tokens, account = self._backend.tokens, self._backend.accounts.first
        return f"{self.page_url}/#token={tokens.of_page(account.id)}"

    @property
    def actors(self) -> Sequence[str]:
        """The full names of the Actors that it offers now."""
        return sorted(actor.full_name for actor in self._backend.catalog)

    @property
    def broken_actors(self) -> Mapping[Path, str]:
        """The Actor directories that are left out, and why."""
        return self._backend.catalog.broken

    @property
    def counts(self) -> RunCounts:
        """The server's own counts since it was opened."""
        return self._backend.runs.counts

    @property
    def live_runs(self) -> int:
        """Runs that have not ended."""
        return self._backend.runs.live_count

    @property
    def peak_live_runs(self) -> int:
        """The highest number of Runs live at once."""
        return self.counts.peak_live

    @property
    def runs_started(self) -> int:
        """Starts accepted, not counting migrations."""
        return self.counts.started

    @property
    def start_times(self) -> Sequence[float]:
        """The loop times at which the last 100,000 starts were accepted."""
        return self.counts.start_times


@asynccontextmanager
async def open_server(settings: ServerSettings) -> AsyncIterator[Server]:
    """Open the server on its data directory; the live Runs of the previous process start again.

    On leaving, the processes of Runs are killed. Their Runs stay live: when the data directory is opened again they
    start again under their ids, as the platform migrates Runs between its hosts.

    Raises:
        ConfigError: an Actor directory or an account is invalid.
        OutputError: the data directory is not usable or in use by another server, or the port is taken.
    """
    hide_own_environment()  # from what Actors of an earlier server may have left
    with ExitStack() as stack:
        await anyio.to_thread.run_sync(stack.enter_context, _locked(settings.data_dir, settings.follows_link))
        catalog = await anyio.to_thread.run_sync(load_catalog, settings)
        given = await anyio.to_thread.run_sync(with_tokens, settings)
        # SQLite gives the files beside the database its mode.
        (await anyio.to_thread.run_sync(_open_database_file, settings.data_dir / STATE)).close()
        with ExitStack() as bound:
            listener, *_ = map(bound.enter_context, await anyio.to_thread.run_sync(_bind_again, settings))
            async with (
                open_database(settings.data_dir / STATE) as database,
                open_demo_site() as demo,
                open_children(cancels_on_leaving=True) as children,
            ):
                accounts = await read_accounts(database, given)
                base_url = _base_url(listener)
                proxy = await anyio.create_tcp_listener(local_host="127.0.0.1")
                bound.enter_context(proxy.extra(anyio.abc.SocketAttribute.raw_socket).dup())  # noqa: S610 - not Django's
                actor_proxy = _actor_proxy(settings, proxy.extra(anyio.abc.SocketAttribute.local_port))  # noqa: S610 - not Django's
                backend = await _compose(settings, database, catalog, accounts, demo, children, base_url, actor_proxy)
                children.start_soon(serve_forward_proxy, proxy, backend.runs.admit_to_proxy)
                await end_orphans(database, backend.tokens.of_orphan)
                await database.write(account_table.put, "process", backend.tokens.process)  # before any Run starts
                await backend.webhooks.load()
                await backend.builds.take_in_all()
                await backend.final_usage.load()
                # Before any request: one that aborts, changes or deletes a live Run must find it live.
                taken_over = await migrate(database, catalog, backend.runs)
                async with _listen(backend, listener, children), _alive(backend, children, taken_over):
                    _log.info("server_opened", base_url=base_url)
                    page_url = at_page_host(base_url, backend.tokens.page_host)
                    if not is_loopback(settings.host):
                        _log.warning("server_exposed", host=settings.host, has_own_token=settings.token is not None)
                        page_url = base_url
                    yield Server(base_url=base_url, page_url=page_url, token=accounts.first.token, _backend=backend)


async def _compose(
    settings: ServerSettings,
    database: Database,
    catalog: Catalog,
    accounts: Accounts,
    demo: DemoSite,
    children: anyio.abc.TaskGroup,
    base_url: str,
    actor_proxy: ActorProxy,
) -> Backend:
    secret = await database.write(account_table.read_or_set, "secret", secrets.token_hex(32))
    tokens = CallerTokens(accounts, secret, await database.write(account_table.read_or_set, "process", ""))
    final_usage = FinalUsage(database, settings.usage_settle_s)
    webhook_book = WebhookBook(database)
    runs = Runs(
        settings,
        database,
        catalog,
        children,
        base_url=base_url,
        accounts=accounts,
        final_usage=final_usage,
        webhook_book=webhook_book,
        token_of=tokens.of_run,
        token_of_webhook=tokens.of_webhook,
        events_key_of=tokens.events_key_of,
        actor_proxy=actor_proxy,
    )
    return Backend(
        settings=settings,
        base_url=base_url,
        accounts=accounts,
        created_ms=accounts.first.created_ms,
        database=database,
        catalog=catalog,
        builds=ChangedActors(
            settings, database, catalog, accounts, webhook_book=webhook_book, expect=runs.delivery.expect
        ),
        tasks=TaskBook(database, catalog, await database.read(task_table.load)),
        runs=runs,
        tokens=tokens,
        rate_limits=RateLimits(anyio.current_time, is_enforced=settings.is_rate_limited),
        final_usage=final_usage,
        webhooks=webhook_book,
        demo=demo,
        space=FreeSpace(settings.data_dir),
        bodies=ByteBudget.of_megabytes(_BODIES_MB),
        showing=FairTurns(_SHOWN_AT_ONCE),
        unpacking=FairTurns(_UNPACKED_AT_ONCE),
        reading_much=FairTurns(_LARGE_READS_AT_ONCE),
        searching=FairTurns(_LARGE_READS_AT_ONCE),
    )


@asynccontextmanager
async def _alive(
    backend: Backend, children: anyio.abc.TaskGroup, taken_over: Sequence[tuple[HostedRun, RunEnd | None]]
) -> AsyncIterator[None]:
    """Go on with the previous process's Runs, and run the background work; at the end, announce the next migration."""
    database, runs = backend.database, backend.runs
    children.start_soon(runs.watch_memory)
    for live, ending in taken_over:
        runs.go_on(live, ending)
    children.start_soon(note_time, database, runs)
    children.start_soon(keep_removing, database)
    children.start_soon(backend.final_usage.run, runs.show_final)
    children.start_soon(runs.delivery.run)
    children.start_soon(backend.builds.watch)
    try:
        yield
    finally:
        await announce_migration(database, runs, backend.settings.migration_notice_s)


def _actor_proxy(settings: ServerSettings, port: int) -> ActorProxy:
    """Return the proxy that Actors use: Apify Proxy if its password is known, else the server's own."""
    if settings.proxy_password:
        return ActorProxy(hostname=STATUS_HOST, port=8000, password=settings.proxy_password)
    return ActorProxy(hostname="127.0.0.1", port=port, password=None)


@asynccontextmanager
async def _listen(backend: Backend, listener: socket.socket, children: anyio.abc.TaskGroup) -> AsyncIterator[None]:
    with closing(listener):
        cap = ConnectionCap(connections_within_limit(_MAX_CONNECTIONS, eighths=5))
        server = web.Server(
            make_handler(backend, children, cap),
            access_log=None,
            auto_decompress=False,
            handler_cancellation=True,
            keepalive_timeout=KEEP_ALIVE_S,
            lingering_time=LINGER_S,
            logger=LOGGER,
        )
        cap.watch(server)
        runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=_SHUTDOWN_S)
        await runner.setup()
        try:
            await web.SockSite(runner, listener, backlog=_BACKLOG).start()
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await runner.cleanup()


def _bind_again(settings: ServerSettings) -> list[socket.socket]:
    """Return what `_bind` does; of a server that may have any port, at its last one if that is free.

    A Run that goes on after a restart finds the URLs of this server as they were, and so does no page of it twice.
    """
    if settings.port:
        return _bind(settings.host, settings.port)
    file = settings.data_dir / PORT
    with suppress(OSError, ValueError, OutputError):
        if 0 < (last := int(read_private(file))) < 1 << 16:
            return _bind(settings.host, last)
    bound = _bind(settings.host, 0)
    with suppress(OSError), open(file, "w", opener=private_opener) as noted:
        noted.write(str(bound[0].getsockname()[1]))
    return bound


def _bind(host: str, port: int, tries: int = 10) -> list[socket.socket]:
    """Return the socket that listens, and those that keep other programs from the page's name."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with ExitStack() as bound:
        try:
            listener = bound.enter_context(listening_socket(family, (host, port), backlog=_BACKLOG))
            # It outlives the Actors: who has the port a moment before they end gets their calls, with their tokens.
            kept = bound.enter_context(listener.dup())
            address, taken = listener.getsockname()[:2]
            # At all addresses of IPv6, it listens at those of IPv4 too.
            held = hold_loopback([address, "0.0.0.0"] if address == "::" else [address], taken)  # noqa: S104 - not bound here
        except OSError as error:
            if not port and tries:
                return _bind(host, port, tries - 1)
            raise OutputError(f"the server cannot listen on {host}:{port}: {error.strerror or error}") from error
        bound.pop_all()
    return [listener, kept, *held]


def _base_url(listener: socket.socket) -> str:
    # The address, not a name for it: who answers for the name could lead the calls of Actors and webhooks elsewhere.
    # Actors on this machine reach a server that listens on all addresses by the loopback.
    host, port = listener.getsockname()[:2]
    return f"http://{reachable(host)}:{port}"


@contextmanager
def _locked(directory: Path, follows_link: bool) -> Iterator[None]:
    """Make the directory private and lock it; the kernel frees the lock when this process dies."""
    with ExitStack() as stack:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = open_closed_directory(directory, follows_link=follows_link)
            stack.callback(os.close, descriptor)
            stack.enter_context(kept_in_place(directory, descriptor))
            keep_out_of_git(directory, OWN_NAMES)
        except OSError as error:
            raise OutputError(f"the server's data directory {directory} cannot be used: {error.strerror}") from error
        lock = stack.enter_context(_open_private(directory / "lock"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"another server uses the data directory {directory}") from None
        yield


def _open_database_file(file: Path) -> IO[bytes]:
    try:
        refuse_special(file)
    except OSError as error:
        raise OutputError(f"the server's file {error.filename} cannot be used: {error.strerror}") from error
    return _open_private(file)


def _open_private(file: Path) -> IO[bytes]:
    try:
        return open(file, "ab", opener=private_opener)
    except OSError as error:
        raise OutputError(f"the server's file {file} cannot be used: {error.strerror}") from error
