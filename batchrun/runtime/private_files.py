"""Files and directories for this process's user only: the one place that knows how they are made and closed to others.

A directory has mode 0700, a file 0600. What exists already loses the rights of other users. No symbolic link is
followed from inside a directory; the directory itself may be reached by one.
"""

import errno
import os
from contextlib import suppress
from pathlib import Path
from stat import S_IMODE, S_ISDIR, S_ISLNK, S_ISVTX, S_IWOTH

_FOR_OTHERS = 0o077
_IS_ANOTHERS_TO_CLOSE = (
    "it is open to other users, and not yours to close; run this as its owner, or name a directory inside it"
)
_IS_ANOTHERS = "it belongs to another user; make it yours (chown), or remove it if you did not put it there"


def private_opener(path: str, flags: int) -> int:
    """Open a file, as an `opener` of `open`: mode 0600, a symbolic link is an error.

    A file that exists with a wider mode is narrowed, if it is opened for writing.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            refuse_link(Path(path))
        raise
    try:
        if flags & (os.O_WRONLY | os.O_RDWR):
            _narrow(descriptor, os.fstat(descriptor), path, _IS_ANOTHERS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def make_private_file(file: Path) -> None:
    """Create an empty file, or narrow one that exists, for a library that opens it by its path.

    An existing file is not opened: closing it would drop the locks that this process has on it.
    """
    try:
        os.close(private_opener(str(file), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        refuse_link(file)
        _narrow(file, file.lstat(), str(file), _IS_ANOTHERS)


def refuse_link(path: Path) -> None:
    """Raise OSError if a path is a symbolic link: it could lead anywhere, and its owner can change where."""
    if path.is_symlink():
        raise OSError(
            errno.ELOOP, "it is a symbolic link, which is not followed here; put the file itself in its place"
        )


def refuse_anothers(file: Path) -> None:
    """Raise OSError if a file that exists is a link, or another user's: he knows the secret in it.

    Its directory is closed to others by now. The directory's owner may own it: root works in directories of others.
    """
    refuse_link(file)
    if file.lstat().st_uid not in (os.geteuid(), file.parent.stat().st_uid):
        raise PermissionError(errno.EPERM, _IS_ANOTHERS, str(file))


def make_private_directory(directory: Path) -> None:
    """Create a directory with mode 0700, or narrow one that exists.

    Raises:
        OSError: it cannot be created, is another user's, or is shared by all users, as `/tmp` is.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    close_directory(directory)


def close_directory(directory: Path) -> None:
    """Narrow a directory; see `make_private_directory`."""
    found = directory.stat()
    is_shared = found.st_mode & S_ISVTX and found.st_mode & S_IWOTH
    if is_shared or os.path.samestat(found, (directory / "..").stat()):
        raise PermissionError(errno.EPERM, "all users share it; name a directory inside it", str(directory))
    _narrow(
        directory,
        found,
        str(directory),
        _IS_ANOTHERS_TO_CLOSE,
    )


def close_to_others(path: Path) -> None:
    """Narrow what an earlier version left open: a file, or a directory with all in it.

    A closed directory is not looked into: others do not get past it. Links and what cannot be changed are left alone.
    """
    with suppress(OSError):
        found = path.lstat()
        if not S_ISLNK(found.st_mode) and found.st_mode & _FOR_OTHERS:
            path.chmod(S_IMODE(found.st_mode) & ~_FOR_OTHERS)
            for each in path.iterdir() if S_ISDIR(found.st_mode) else ():
                close_to_others(each)


def _narrow(file: Path | int, found: os.stat_result, path: str, refusal: str) -> None:
    if not found.st_mode & _FOR_OTHERS:
        return
    try:
        os.chmod(file, S_IMODE(found.st_mode) & ~_FOR_OTHERS)  # noqa: PTH101 - of a descriptor, too
    except PermissionError as error:
        if found.st_uid != os.geteuid():
            raise PermissionError(error.errno, refusal, path) from None
        # A file system without modes: all its files look alike.
