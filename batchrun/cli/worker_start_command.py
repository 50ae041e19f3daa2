"""`batchrun worker start`: run a worker until a signal stops it."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from batchrun.cli.event_loop import run_async
from batchrun.cli.exit_codes import ExitCode
from batchrun.cli.secret_warning import warn_of_readers
from batchrun.cli.stop_signals import draining_words
from batchrun.cli.terminal import answer, say, say_text
from batchrun.config import read_token
from batchrun.config.worker_config import FILE_NAME, WorkerConfig, load_worker_config
from batchrun.errors import ConfigError, LedgerError, LogUnreachable, OutputError
from batchrun.output.atomic_write import replace_text
from batchrun.output.sink import explaining
from batchrun.runtime.logs import logging_to
from batchrun.runtime.loopback import is_loopback_host
from batchrun.runtime.private_files import is_absent, read_private
from batchrun.words.number_words import counted
from batchrun.worker.batch_deletion import retain
from batchrun.worker.batch_list import list_rows
from batchrun.worker.data_directory import open_data_directory
from batchrun.worker.fleet_duty import leave_fleet, serve_fleet, set_all_aside
from batchrun.worker.http import PageAccess, open_http
from batchrun.worker.status_views import worker_view
from batchrun.worker.systemd_notify import SystemdNotifier
from batchrun.worker.token_file import read_or_make_token
from batchrun.worker.trace_setup import open_tracing
from batchrun.worker.worker import Worker, open_worker

#: Seconds that the end of a worker waits for its fleet's store.
LEAVE_LIMIT_S = 5.0


def start_worker(data: Path, flags: dict[str, Any]) -> ExitCode:
    """Run the batches of a data directory, and submitted ones, until a signal stops it."""
    return run_async(_start, data, flags)


class _ConfigReader:
    """Reads a worker's configuration, at its start and at reloads."""

    def __init__(self, data: Path, flags: dict[str, Any]) -> None:
        self._data, self._flags = data, flags
        self._had_file = False

    def read(self) -> WorkerConfig:
        """Read it; blocks.

        Raises:
            ConfigError: it is wrong; or its file is gone, perhaps while somebody replaces it.
        """
        file = self._data / FILE_NAME
        has_file = not is_absent(file)
        if self._had_file and not has_file:
            raise ConfigError("is gone; put it back, or restart the worker, which then has the defaults", file=file)
        self._had_file = has_file
        return load_worker_config(self._data, flags=self._flags)


async def _start(data: Path, flags: dict[str, Any]) -> ExitCode:
    if await anyio.to_thread.run_sync(is_absent, data):  # none is made for a worker that could only stop
        config = await anyio.to_thread.run_sync(partial(load_worker_config, None, flags=flags))
        await anyio.to_thread.run_sync(read_token, config.api, os.environ)
    async with open_data_directory(data) as directory:
        reader = _ConfigReader(data, flags)
        config = await anyio.to_thread.run_sync(reader.read)
        if config.api.token_file is not None:
            await anyio.to_thread.run_sync(warn_of_readers, config.api.token_file)
        # Before the worker listens and says that it is ready: without a token it could only stop.
        await anyio.to_thread.run_sync(read_token, config.api, os.environ)
        async with open_worker(directory, config, os.environ) as worker:
            await _serve(worker, reader)
    return ExitCode.SUCCEEDED


async def _serve(worker: Worker, reader: _ConfigReader) -> None:
    service = worker.config.worker
    with logging_to(worker.directory.log, level=service.log_level, file_of=worker.log_file):
        token = await anyio.to_thread.run_sync(read_or_make_token, worker.directory.token)
        page = PageAccess()
        async with (
            open_tracing(service.traces, os.environ) as trace,
            open_http(worker, token, page) as address,
        ):
            if worker.fleet is not None:
                worker.fleet.join_as(address)
            worker.trace = trace
            # Before the address is known: its readers may send signals.
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
                async with _noted(address, worker.directory.address):
                    _show_opening(worker, address, page)
                    await _work(worker, reader, signals)


@asynccontextmanager
async def _noted(address: str, file: Path) -> AsyncIterator[None]:
    """Note the address in a file for as long as the worker listens there.

    Raises:
        OutputError: it cannot be written, or is a file of this name that no worker has left.
    """
    await anyio.to_thread.run_sync(_refuse_no_address, file)
    await anyio.to_thread.run_sync(replace_text, file, f"{address}\n")
    try:
        yield
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.Path(file).unlink(missing_ok=True)


def _refuse_no_address(file: Path) -> None:
    with explaining(file), suppress(FileNotFoundError):
        if not read_private(file).startswith(b"http://"):
            raise OutputError(f"{file}: no worker has written it; move it away, or choose another --data")


def _show_opening(worker: Worker, address: str, page: PageAccess) -> None:
    host = worker.config.worker.host
    if not is_loopback_host(host):
        say(f"WARNING: the worker listens at {host}: other machines can reach it, over plain HTTP, with its token")
    # The only line on stdout: scripts read the address from it.
    answer(address, flush=True)
    if sys.stderr.isatty():  # a log file must not contain the key
        say(f"page     {page.link(address)}")
    say(f"token    {worker.directory.token}")
    say(f"spool    {worker.directory.spool}")
    if worker.fleet is not None:
        say(f"fleet    {worker.fleet.url}, as {worker.fleet.member.id}")
    say(f"platform {worker.config.api.base_url}")
    say(f"log      {worker.directory.log}")


def _status(worker: Worker) -> str:
    view = worker_view(worker, list_rows(worker))
    under_way = sum(count for state, count in view.batches.items() if state.is_under_way)
    trouble = f"; the platform cannot be reached: {view.outage}" if view.outage else ""
    return f"{counted(under_way, 'batch')} under way, {counted(view.live_runs, 'live Run')}{trouble}"


async def _work(worker: Worker, reader: _ConfigReader, signals: AsyncIterator[signal.Signals]) -> None:
    """Run until a signal: SIGTERM and Ctrl-C drain, a second one exits at once, SIGHUP reloads worker.toml."""
    systemd = SystemdNotifier(os.environ)
    async with anyio.create_task_group() as children:
        children.start_soon(worker.run)
        children.start_soon(retain, worker)
        if worker.fleet is not None:
            children.start_soon(serve_fleet, worker, worker.fleet)
        children.start_soon(systemd.send_status, partial(_status, worker))
        systemd.ready()
        async for number in signals:
            if number == signal.SIGHUP:
                systemd.reloading()
                await _reload(worker, reader)
                systemd.ready()
            elif worker.is_draining:
                worker.let_go()
            else:
                systemd.stopping()
                live = worker.drain()
                drain_s = worker.config.worker.drain_s
                if worker.fleet is not None and worker.hands_over:
                    set_all_aside(worker, worker.fleet)
                    say(f"The other workers of the fleet go on with the batches and {counted(live, 'live Run')}.")
                    children.start_soon(_leave_when_drained, worker, 0.0, children.cancel_scope)
                    continue
                say_text(f"stopping: {draining_words(live, drain_s, number)}")
                children.start_soon(_leave_when_drained, worker, drain_s, children.cancel_scope)


async def _leave_when_drained(worker: Worker, drain_s: float, scope: anyio.CancelScope) -> None:
    with anyio.move_on_after(drain_s):
        await worker.wait_until_drained()
    worker.let_go()
    await worker.wait_until_drained()
    if worker.fleet is not None:
        with suppress(LogUnreachable, LedgerError), anyio.move_on_after(LEAVE_LIMIT_S):
            await leave_fleet(worker, worker.fleet)
    under_way = sum(each.state.is_under_way for each in worker.store)
    say(f"stopped; the next start on {worker.directory.path} resumes {counted(under_way, 'batch')}")
    scope.cancel()


async def _reload(worker: Worker, reader: _ConfigReader) -> None:
    """Apply the current worker.toml and retry stopped batches; a bad file changes nothing."""
    try:
        config = await anyio.to_thread.run_sync(reader.read)
        later = await worker.reload(config)
    except ConfigError as error:
        say_text(f"{FILE_NAME} was not reloaded: {error}")
        return
    say(
        f"{FILE_NAME} was reloaded"
        + (f"; {', '.join(later)}: a change takes effect with the next start" if later else "")
    )
