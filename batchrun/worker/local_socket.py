"""The Unix socket in a worker's data directory, by which the commands on this machine talk to it.

Only its owner can enter the directory, so both ends know whom they talk to: no token is sent, which another program
would get that has taken the port of a worker that is gone.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from batchrun.errors import OutputError
from batchrun.runtime.private_files import held_own_directory, refuse_anothers

#: Max bytes of a socket's path: 108 in Linux, 104 in BSD and macOS, with a closing zero.
MAX_PATH_BYTES = 100
_OPEN_FILES = Path("/proc/self/fd")


@contextmanager
def short_path(file: Path) -> Iterator[str]:
    """Yield a path of a socket that is short enough: its own, or one that leads through its directory, held open.

    Raises:
        OutputError: it is too long, and this system has no other.
        OSError: its directory cannot be opened.
    """
    if len(os.fsencode(file)) <= MAX_PATH_BYTES:
        yield str(file)
        return
    if not _OPEN_FILES.is_dir():
        most = MAX_PATH_BYTES - len(os.fsencode(f"/{file.name}"))
        raise OutputError(f"{file}: is too long for a socket's path; use a --data of at most {most} bytes")
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield str(_OPEN_FILES / str(directory) / file.name)
    finally:
        os.close(directory)


@contextmanager
def path_of_own(file: Path) -> Iterator[str]:
    """Yield a path of a socket that no other user can have made. It leads through its directory, held open.

    By its own path, as on systems that have no other, another directory could be meant once this one was looked at.

    Raises:
        OutputError: as `short_path`.
        OSError: another user may have made it, or its directory cannot be opened.
    """
    with held_own_directory(file.parent) as directory:
        with suppress(FileNotFoundError):
            refuse_anothers(file, os.stat(file.name, dir_fd=directory, follow_symlinks=False))
        if _OPEN_FILES.is_dir():
            yield str(_OPEN_FILES / str(directory) / file.name)
        else:
            with short_path(file) as path:
                yield path


def bind_local_socket(file: Path) -> socket.socket:
    """Return a socket at a path, for its owner only; one of a killed worker is replaced.

    This process holds the lock of the directory.

    Raises:
        OutputError: the path is too long.
        OSError: the file system has no sockets, or another file has the name.
    """
    if file.is_socket():
        file.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short_path(file) as path:
            listener.bind(path)
        file.chmod(0o600)  # nobody can connect before it listens
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener
