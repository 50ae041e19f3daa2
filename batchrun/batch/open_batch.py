"""Open a batch, new or begun earlier: connect -> preflight -> resume, then build its engine."""

import os
import types
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import structlog

from batchrun.account.connected_task import connect
from batchrun.batch.shared_job_file import JobFileComparison, open_job_copy, refuse_partial_copy
from batchrun.batch.slow_opening import note_slow_opening
from batchrun.config import Config, read_token
from batchrun.config.job_format_builder import is_here
from batchrun.engine.limits.batch_priorities import EQUAL, BatchPriority
from batchrun.errors import ConfigError, OutputError
from batchrun.ledger.sqlite.job_file_copy import JobFileCopy
from batchrun.ledger.sqlite.journal import open_journal
from batchrun.model import Command, JsonObject, Summary
from batchrun.notify.delivery import BatchNotifier, Notifier, delivering, open_channels
from batchrun.notify.delivery_queue import Channel
from batchrun.notify.outbox import Outbox
from batchrun.output.layout import BATCH_LOG, OUTBOX, is_own_name
from batchrun.output.lock import enter_lock
from batchrun.output.sink import Sink, explaining, sync_directory
from batchrun.preflight.job_file_head import check_before_start
from batchrun.runtime.children import open_children, plain_errors
from batchrun.runtime.late_imports import need_module
from batchrun.runtime.logs import logging_to
from batchrun.runtime.private_files import make_private_directory

if TYPE_CHECKING:
    from batchrun.account.account import Account
    from batchrun.batch.running_batch import Batch
    from batchrun.ledger.shared_log.owned_log import Membership, OwnedLog
    from batchrun.ledger.shared_log.standby import Standby
    from batchrun.server import InlineActor


@asynccontextmanager
async def open_batch(
    config: Config,
    *,
    environ: Mapping[str, str] | None = None,
    inline_actors: "Mapping[str, InlineActor]" = types.MappingProxyType({}),
    command: Command | None = None,
    account: "Account | None" = None,
    priority: BatchPriority = EQUAL,
    on_standby: "Callable[[Standby], None] | None" = None,
    on_copy: Callable[[int, int], None] | None = None,
    notifier: BatchNotifier | None = None,
    membership: "Membership | None" = None,
) -> "AsyncIterator[Batch]":
    """Open a batch, new or begun earlier; no Run is started before the batch is run or iterated over.

    Args:
        config: what `load_config` returned.
        environ: holds the token (APIFY_TOKEN); default: the process's environment.
        inline_actors: coroutines that the embedded server runs as Actors, by full name.
        command: the command line that resumes the batch; noted for the messages of other commands.
        account: an open account with other batches, which is used instead of `config.api`. None: one is opened.
        priority: among the batches of the account.
        on_standby: called while another machine carries the batch out, when this one begins to wait for it.
        on_copy: called now and then while the job file is copied to the shared log, with the bytes that are copied and
            those of the file.
        notifier: notifies people, instead of `config.notify`. None: one is opened if that names a way to reach them.
        membership: of a fleet that carries out its batches together; None: this process is alone.

    Raises:
        ConfigError: the configuration does not match the batch that was begun, or the existing task; or there is no
            token.
        JobFileError: the job file cannot be read; or has bad lines, or inputs that the platform would refuse, and
            nothing was started yet.
        BatchRefused: the platform does not accept the token or knows no such task.
        OutputError: the output directory is in use, cannot be written, or is damaged.
    """
    out_dir = config.out_dir
    environ = os.environ if environ is None else environ
    async with plain_errors():
        if config.replica.url is None:
            config = await check_before_start(config)
        else:
            # A standby may wait for days, and the package may be another one when it takes over.
            await need_module("batchrun.batch.ready_batch")
            if is_here(config):  # checked again once it is known how the batch was begun
                await check_before_start(config)
        channels = [] if notifier is not None else await anyio.to_thread.run_sync(open_channels, config.notify, environ)
        if account is None:  # before there is a directory, and before any wait for the network
            await anyio.to_thread.run_sync(read_token, config.api, environ)
        await anyio.to_thread.run_sync(_refuse_own_file, config)
        await anyio.to_thread.run_sync(_make_directory, out_dir)
        async with enter_lock(out_dir), _log_beside(out_dir), _notifier(config, channels) as own:
            job_file = JobFileComparison(config)
            async with (
                _shared_log(config, on_standby, membership, job_file) as log,
                _open(
                    config,
                    environ,
                    inline_actors,
                    command,
                    account,
                    priority,
                    log,
                    job_file,
                    on_copy,
                    notifier or _alone(own, config),
                ) as batch,
            ):
                yield batch
            if batch.is_begun:  # after all is closed: the files show what was noted on the way out
                await batch.write_lists()
                if config.output.report:
                    await batch.write_report()
            if own is not None and not batch.is_interrupted:
                await own.wait_a_moment()
                batch.undelivered = own.undelivered


@asynccontextmanager
async def _open(
    config: Config,
    environ: Mapping[str, str],
    inline_actors: "Mapping[str, InlineActor]",
    command: Command | None,
    account: "Account | None",
    priority: BatchPriority,
    log: "OwnedLog | None",
    job_file: JobFileComparison,
    on_copy: Callable[[int, int], None] | None,
    notifier: BatchNotifier | None,
) -> "AsyncIterator[Batch]":
    """Open a batch whose output directory is locked by this process; see `open_batch`."""
    async with AsyncExitStack() as stack:
        journal = await stack.enter_async_context(open_journal(config.out_dir, log, _job_copy(config)))
        if log is not None:
            await anyio.to_thread.run_sync(job_file.refuse_other)
            await anyio.to_thread.run_sync(refuse_partial_copy, config, journal.ledger)
            config = await check_before_start(config)
        watch, answered = await stack.enter_async_context(open_children(cancels_on_leaving=True)), anyio.Event()
        watch.start_soon(note_slow_opening, config.out_dir, answered)
        weakness = _Weakness()
        watch.start_soon(weakness.look, log)
        connected = await connect(stack, config, environ, inline_actors, account, journal.ledger)
        await need_module("batchrun.batch.ready_batch")
        from batchrun.batch.ready_batch import make_ready  # noqa: PLC0415 - it imports the engine

        yield await make_ready(
            stack, config, connected, journal, answered, weakness.found, command, priority, on_copy, notifier
        )


class _Weakness:
    """How the store of a shared log can lose entries; it is asked while the batch opens, since that takes a second."""

    def __init__(self) -> None:
        self._how = ""
        self._is_known = anyio.Event()

    async def look(self, log: "OwnedLog | None") -> None:
        if log is not None:
            self._how = await anyio.to_thread.run_sync(log.caution)
        self._is_known.set()

    async def found(self) -> str:
        """Wait for it; empty: no way is known."""
        await self._is_known.wait()
        return self._how


@asynccontextmanager
async def _notifier(config: Config, channels: list[Channel]) -> AsyncIterator[Notifier | None]:
    """Open a notifier for this batch alone; None: there is no way to reach anybody."""
    if not channels:
        yield None
        return
    notifier = Notifier(config.notify, channels, Outbox(config.out_dir / OUTBOX, is_signed=True))
    async with delivering(notifier):
        yield notifier


def _alone(own: Notifier | None, config: Config) -> BatchNotifier | None:
    if own is None:
        return None
    out_dir = config.out_dir.absolute()
    batch: JsonObject = {"name": out_dir.name.removesuffix(".out"), "id": None, "dir": str(out_dir)}
    return BatchNotifier(notifier=own, batch=batch)


def _job_copy(config: Config) -> Callable[[Sink], JobFileCopy] | None:
    """Return what opens the job file for its copy in the shared log; None: there is no log, or no file to copy."""
    if config.replica.url is None or str(config.jobs.file) == "-" or not is_here(config):
        return None
    return partial(open_job_copy, config)


@asynccontextmanager
async def _shared_log(
    config: Config,
    on_standby: "Callable[[Standby], None] | None",
    membership: "Membership | None",
    job_file: JobFileComparison,
) -> "AsyncIterator[OwnedLog | None]":
    """Own the batch's shared log; None: it has none."""
    replica = config.replica
    if replica.url is None:
        yield None
        return
    from batchrun.ledger.shared_log.claim import claimed_log  # noqa: PLC0415 - most batches have none

    async with claimed_log(
        replica.url,
        replica.lease_s,
        config.out_dir,
        may_wait=replica.standby,
        on_standby=on_standby,
        membership=membership,
        check=job_file.refuse_other,
    ) as log:
        yield log


@asynccontextmanager
async def _log_beside(out_dir: Path) -> AsyncIterator[None]:
    """Log into the output directory, unless the program has configured structlog already."""
    if structlog.is_configured():
        yield
        return
    with ExitStack() as stack:
        stack.enter_context(logging_to(out_dir / BATCH_LOG))
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(stack.close)


def _refuse_own_file(config: Config) -> None:
    """Refuse a job file to which the batch itself would write: its own log, say, would have jobs without an end."""
    file, is_there = config.jobs.file, False
    with suppress(OSError):  # there is no such directory yet
        is_there = file.parent.samefile(config.out_dir)
    if is_there and is_own_name(file.name):
        raise ConfigError(
            f"{file}: the batch itself writes a file of this name; give it another one, or choose another --out",
            key="jobs.file",
        )


def _make_directory(directory: Path) -> None:
    with explaining(directory):
        new = [each for each in (directory, *directory.parents) if not each.exists()]
        try:
            make_private_directory(directory)
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputError(
                f"{directory}: a file is in its way; name another directory (output.dir, --out)"
            ) from error
        for each in new:
            sync_directory(each.parent)


async def run_batch(
    config: Config,
    *,
    environ: Mapping[str, str] | None = None,
    inline_actors: "Mapping[str, InlineActor]" = types.MappingProxyType({}),
) -> Summary:
    """Open a batch and run it to its end; see `open_batch` and `Batch.run` for errors."""
    async with open_batch(config, environ=environ, inline_actors=inline_actors) as batch:
        return await batch.run()
