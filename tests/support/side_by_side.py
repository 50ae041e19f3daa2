"""Test files side by side, in processes that are forked once all tests are collected.

    pytest -n 4

Collecting takes as long as two thousand unit tests, and the processes of pytest-xdist do it each for themselves. A file
stays whole, for what its tests share.
"""

import contextlib
import multiprocessing.connection
import os
from collections import deque
from collections.abc import Iterator
from itertools import groupby
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

#: The tests of one file: their places among all tests.
_File = range


class _Worker:
    """A process that runs one file after the other, as its parent sees it."""

    def __init__(self, session: pytest.Session, number: int, others: list["_Worker"]) -> None:
        self.connection, its_end = multiprocessing.Pipe()
        self.test = "no test yet"
        # A child that kept the ends of others would keep them waiting after their parent's death.
        kept = [*(other.connection for other in others), self.connection]
        fork = multiprocessing.get_context("fork")
        self.process = fork.Process(target=_work, args=(session, number, its_end, kept))
        self.process.start()
        its_end.close()

    def end(self) -> str:
        """Wait for its end; return what was wrong with it."""
        self.process.join()
        code = self.process.exitcode
        return f"the process that ran {self.test} has died: exit code {code}" if code else ""


class _Sender:
    """Hands what becomes of each test to the parent."""

    def __init__(self, config: pytest.Config, parent: Connection) -> None:
        self._config, self._parent = config, parent

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._parent.send(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._parent.send(self._config.hook.pytest_report_to_serializable(config=self._config, report=report))

    def next_file(self) -> _File:
        """Return the next file to run; it is empty once all have been given out."""
        self._parent.send(None)
        given: _File = self._parent.recv()
        return given


def run_forked(session: pytest.Session, count: int) -> None:
    """Run the collected tests in so many processes; what they report is reported here.

    Raises:
        pytest.Session.Failed: enough tests have failed, or a process has ended before its tests.
        pytest.Session.Interrupted: a plugin has asked for the end.
    """
    files = _files(session.items)
    # Each process keeps its files in a directory of its own below this one, which goes once all is well.
    session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    reporter.showfspath = False
    workers: list[_Worker] = []
    try:
        for number in range(min(count, len(files))):
            workers.append(_Worker(session, number, workers))
        _listen(session, workers, files)
    finally:
        for worker in workers:
            worker.connection.close()
        for worker in workers:
            worker.process.join()


def _files(items: list[pytest.Item]) -> deque[_File]:
    files: deque[_File] = deque()
    for _, tests in groupby(items, key=lambda item: item.path):
        begin = files[-1].stop if files else 0
        files.append(range(begin, begin + len(list(tests))))
    return files


def _listen(session: pytest.Session, workers: list[_Worker], files: deque[_File]) -> None:
    """Give out files and take in reports until all processes have ended."""
    by_connection = {worker.connection: worker for worker in workers}
    unfinished = len(session.items)
    while by_connection:
        for ready in multiprocessing.connection.wait(list(by_connection)):
            assert isinstance(ready, Connection)
            worker = by_connection[ready]
            try:
                message: str | dict[str, Any] | None = ready.recv()
            except EOFError:
                session.shouldfail = worker.end() or session.shouldfail
                del by_connection[ready]
                continue
            if message is None:
                ready.send(files.popleft() if files else range(0))
            elif isinstance(message, str):
                worker.test = message
            else:
                unfinished -= _report(session, message)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
    if unfinished:
        session.shouldfail = f"{unfinished} tests were not run to their ends"
        raise session.Failed(session.shouldfail)


def _report(session: pytest.Session, message: dict[str, Any]) -> bool:
    """Report here what a process has reported; return whether that was the end of a test."""
    hook = session.config.hook
    report = hook.pytest_report_from_serializable(config=session.config, data=message)
    hook.pytest_runtest_logreport(report=report)
    return bool(report.when == "teardown")


def _work(session: pytest.Session, number: int, parent: Connection, others: list[Connection]) -> None:
    """Be a process that runs files."""
    for each in others:
        each.close()
    config = session.config
    # What this process prints is captured in files of its own; what it reports, it does not print.
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    capture.stop_global_capturing()
    capture.start_global_capturing()
    config.get_terminal_writer()._file = Path(os.devnull).open("w")  # noqa: SIM115 - up to the end of this process
    factory = config._tmp_path_factory  # type: ignore[attr-defined]
    factory._basetemp = factory.getbasetemp() / f"process-{number}"
    factory._basetemp.mkdir(mode=0o700)
    sender = _Sender(config, parent)
    config.pluginmanager.register(sender)
    try:
        # The parent is gone, or has had enough, or somebody has pressed Ctrl-C.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, EOFError, KeyboardInterrupt):
            for item, following in _pairs(session.items, sender):
                config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    finally:
        session._setupstate.teardown_exact(None)
        config._ensure_unconfigure()


def _pairs(items: list[pytest.Item], sender: _Sender) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    """Yield each test to run with the one after it, which decides on the fixtures that stay."""
    file = sender.next_file()
    while file:
        for place in file[:-1]:
            yield items[place], items[place + 1]
        last, file = file[-1], sender.next_file()
        yield items[last], items[file[0]] if file else None
