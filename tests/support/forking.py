"""The parent of the processes that `tests.support.forked` starts: imports and builds everything, then forks on request.

    python -m tests.support.forking SOCKET

SOCKET is the number of a descriptor, at which the processes of pytest connect.
A request is a packet, `Request`, and four descriptors: the three standard
streams, and a pipe that gets its pid, and then how it ended.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import os
import pickle
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from pydantic import BaseModel

import batchrun
from batchrun.cli.main import app
from batchrun.runtime import crash_points, fast_dataclasses
from batchrun.server.http.handler import make_table
from tests.support.forked import MAX_REQUEST, PID, Request, locked

#: A bundled Actor, or an entry point, is a program, not a module to import.
_PROGRAMS = ("batchrun.__main__", "batchrun.server.actors")
#: What other packages import once they use it.
_LATE_IMPORTS = (
    *("anyio._backends._asyncio", "anyio._core._fileio", "anyio._core._resources", "anyio._core._signals"),
    *("anyio._core._sockets", "anyio._core._streams", "anyio._core._subprocesses", "anyio.abc", "anyio.streams.tls"),
    *("encodings.idna", "encodings.utf_8_sig", "importlib.readers"),
    *("rich._emoji_codes", "typer._adapters", "typer._click._textwrap", "typer._click.decorators", "typer.rich_utils"),
    "uvloop",
)

_get_command = functools.cache(typer.main.get_command)


def _import_everything() -> None:
    for each in pkgutil.walk_packages(batchrun.__path__, "batchrun."):
        if not each.name.startswith(_PROGRAMS):
            importlib.import_module(each.name)
    for name in _LATE_IMPORTS:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _build_everything() -> None:
    """Build once what each command builds: models, options, the server's routes, the methods that make values."""
    for model in _models(BaseModel):
        if model.__module__.startswith("batchrun."):
            model.model_rebuild()
    typer.main.get_command = _get_command
    _get_command(app)
    make_table()
    for value_class in _value_classes():
        with contextlib.suppress(TypeError):  # the first call compiles the method, which then misses its arguments
            value_class.__init__(object.__new__(value_class))
    # What a child's garbage collector looks at, it copies: let it not look at what is shared.
    gc.collect()
    gc.freeze()


def _value_classes() -> Iterator[Any]:
    """Yield the classes whose `__init__` is compiled as their first object is made."""
    for name, module in tuple(sys.modules.items()):
        if name.startswith("batchrun."):
            for each in vars(module).values():
                made_by = vars(each).get("__init__") if isinstance(each, type) else None
                if getattr(made_by, "__module__", None) == fast_dataclasses.__name__:
                    yield each


def _models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from _models(model)


def _serve(listening: socket.socket) -> list[str] | None:
    """Fork on request until nobody is connected; return None then, and in a child its command line."""
    waiting, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    statuses: dict[int, int] = {}
    clients = list[socket.socket]()
    while clients or not _has_ended(listening):
        watched: list[int | socket.socket] = [waiting, listening, *clients]
        ready, _, _ = select.select(watched, [], [])
        if waiting in ready:
            os.read(waiting, 4096)
            _report_ends(statuses)
        if listening in ready:
            clients.append(listening.accept()[0])
        for client in [each for each in clients if each in ready]:
            packet, descriptors, _, _ = socket.recv_fds(client, MAX_REQUEST, 4)
            if not packet:
                clients.remove(client)
                client.close()
                continue
            *streams, status = descriptors
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for descriptor in (waiting, wake, status, *statuses.values()):
                    os.close(descriptor)
                for each in (listening, *clients):
                    each.close()
                return _become(pickle.loads(packet), streams)
            statuses[pid] = status
            with contextlib.suppress(BrokenPipeError):
                os.write(status, PID.pack(pid))
            for descriptor in streams:
                os.close(descriptor)
    return None


def _has_ended(listening: socket.socket) -> bool:
    """Return False if somebody connects after all; else nobody can any more."""
    address = Path(listening.getsockname())
    with contextlib.suppress(FileNotFoundError), locked(address.parent):
        if select.select([listening], [], [], 0)[0]:
            return False
        address.unlink()
    return True


def _report_ends(statuses: dict[int, int]) -> None:
    while statuses:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = statuses.pop(pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(pipe, str(os.waitstatus_to_exitcode(status)).encode())
        os.close(pipe)


def _become(request: Request, streams: list[int]) -> list[str]:
    """Be the process that is asked for, as far as a fork can."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request.cwd)
    os.environ.clear()
    os.environ.update(request.environ)
    if any(name.startswith("_TYPER_") for name in request.environ):
        _get_command.cache_clear()  # Typer reads them as it builds
    for name, value in request.constants.items():
        module, _, constant = name.rpartition(".")
        assert hasattr(sys.modules[module], constant), name
        setattr(sys.modules[module], constant, value)
    importlib.reload(crash_points)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return request.argv


def _run(argv: list[str]) -> int:
    """Be `python -m`, up to the end of all threads and the last flush; return the exit code.

    The interpreter is not taken down: every module would be copied for that.
    """
    sys.argv = argv
    code = 0
    try:
        runpy.run_module(argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except Exception:  # noqa: BLE001 - the interpreter, too, prints whatever comes
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter calls it
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return code


if __name__ == "__main__":
    # What the terminal sends to all is for the children; the parent ends when its sockets close.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _import_everything()
    _build_everything()
    argv = _serve(socket.socket(fileno=int(sys.argv[1])))
    if argv is not None:
        os._exit(_run(argv))
