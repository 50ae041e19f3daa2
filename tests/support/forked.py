"""Processes that begin where the imports have ended: forked, with a pid, signals and a death of their own.

`python -m batchrun …` imports for half a second before it does anything, and the tests start some hundred of them.
One parent, started once for all processes of pytest, imports everything and then forks a child for each command line:

    process = start("batchrun", "run", "batch.toml", cwd=..., environ=..., stderr=file)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130

What is measured of a process (its imports, its memory, its file descriptors), how it is started (`nohup`, closed
streams, a session of its own) needs a process that is not forked: `subprocess` with `sys.executable`.
"""

import atexit
import contextlib
import fcntl
import functools
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from tests.support.patience import IMPATIENCE, Constants

ROOT = Path(__file__).parents[2]
#: A request to the parent in bytes: a command line and an environment.
MAX_REQUEST = 1 << 20
#: The first answer to it.
PID = struct.Struct("i")
_NO_CONSTANTS: Constants = {}


class Request(NamedTuple):
    """What the parent is asked for."""

    argv: list[str]
    cwd: str
    environ: dict[str, str]
    constants: dict[str, Any]


class ForkedProcess:
    """A process, as `subprocess.Popen` has it, with the methods that tests need."""

    def __init__(self, pid: int, status: int, stdout: IO[Any] | None) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        #: The end of a pipe through which the parent has sent its pid, and sends how it ended.
        self._status = status

    def poll(self) -> int | None:
        """Return how it ended: its exit code, or minus the signal; None while it lives."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return how it ended.

        Raises:
            subprocess.TimeoutExpired: it lives on.
        """
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            sent = os.read(self._status, 16)
            os.close(self._status)
            assert sent, "the parent of all processes has died"
            self.returncode = int(sent)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.stdout is not None:
            self.stdout.close()
        self.wait()


def start(
    module: str,
    *arguments: str,
    cwd: Path,
    environ: Mapping[str, str],
    stdin: int | IO[Any] = subprocess.DEVNULL,
    stdout: int | IO[Any] = subprocess.DEVNULL,
    stderr: int | IO[Any] | None = None,
    text: bool = False,
    constants: Constants = _NO_CONSTANTS,
) -> ForkedProcess:
    """Start `python -m module arguments…`, with constants of our modules changed.

    Streams are as `subprocess.Popen` has them, but only stdout may be PIPE.
    """
    with contextlib.ExitStack() as opened:
        null = opened.enter_context(Path(os.devnull).open("r+b", buffering=0))
        pipe: IO[Any] | None = None
        if stdout == subprocess.PIPE:
            read_end, write_end = os.pipe()
            opened.callback(os.close, write_end)
            pipe = os.fdopen(read_end, "r" if text else "rb")
            stdout = write_end
        streams = [_descriptor(each, null) for each in (stdin, stdout, sys.__stderr__ if stderr is None else stderr)]
        status, status_end = os.pipe()
        opened.callback(os.close, status_end)
        constants = {**IMPATIENCE, **constants}
        request = pickle.dumps(Request([module, *arguments], str(cwd), dict(environ), constants))
        assert len(request) < MAX_REQUEST
        socket.send_fds(parent(), [request], [*streams, status_end])
    answer = os.read(status, PID.size)
    assert answer, "the parent of all processes has died"
    (pid,) = PID.unpack(answer)
    return ForkedProcess(pid, status, pipe)


def run(
    module: str,
    *arguments: str,
    cwd: Path,
    environ: Mapping[str, str],
    stdin: str | None = None,
    timeout: float,
    constants: Constants = _NO_CONSTANTS,
) -> "subprocess.CompletedProcess[str]":
    """Run `python -m module arguments…` to its end; return its exit code and what it has written."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as given:
        given.write((stdin or "").encode())
        given.seek(0)
        fed = subprocess.DEVNULL if stdin is None else given
        streams: dict[str, Any] = {"stdin": fed, "stdout": out, "stderr": err}
        process = start(module, *arguments, cwd=cwd, environ=environ, constants=constants, **streams)
        try:
            process.wait(timeout)
        finally:
            process.kill()
            process.wait()
        written = []
        for file in (out, err):
            file.seek(0)
            written.append(file.read().decode())
    assert process.returncode is not None
    return subprocess.CompletedProcess([module, *arguments], process.returncode, *written)


def _descriptor(stream: int | IO[Any] | None, null: IO[bytes]) -> int:
    if stream is None or stream == subprocess.DEVNULL:
        return null.fileno()
    return stream if isinstance(stream, int) else stream.fileno()


#: The parent, if this process has started it; it may outlive us.
_STARTED = list[subprocess.Popen[bytes]]()


@functools.cache
def parent() -> socket.socket:
    """Connect to the parent of all processes, which the first of pytest's processes starts.

    It ends once none of them is connected, as its children do not.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    # Shortened, since the address of a socket has a hundred bytes.
    address = Path(os.environ.get("XDG_STATE_HOME", tempfile.gettempdir()), f"parent-{run[:8]}")
    address.parent.mkdir(parents=True, exist_ok=True)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    atexit.register(connection.close)
    with locked(address.parent):
        try:
            connection.connect(str(address))
        except FileNotFoundError:
            _start_parent(address)
            connection.connect(str(address))
    return connection


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Let no other process start the parent, or end as the parent, meanwhile."""
    opened = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _start_parent(address: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(address))
        listening.listen()
        command = [sys.executable, "-m", "tests.support.forking", str(listening.fileno())]
        _STARTED.append(subprocess.Popen(command, cwd=ROOT, pass_fds=[listening.fileno()]))
