"""Files and directories for this process's user only."""

import errno
import os
from pathlib import Path


def private_opener(path: str, flags: int) -> int:
    """Open a file, as an `opener` of `open`: mode 0600, a symbolic link is an error.

    A file that exists with a wider mode is narrowed, if it is opened for writing.
    """
    try:
        descriptor = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed here", path) from None
        raise
    if flags & (os.O_WRONLY | os.O_RDWR) and hasattr(os, "fchmod"):
        os.fchmod(descriptor, 0o600)
    return descriptor


def make_private_directory(directory: Path) -> None:
    """Create a directory with mode 0700, or narrow one that exists.

    Raises:
        OSError: it cannot be created, or is open to others and not this user's to close.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_mode & 0o077:
        try:
            directory.chmod(0o700)
        except PermissionError as error:
            reason = "it is open to other users, and not yours to close; name a directory inside it"
            raise PermissionError(error.errno, reason, str(directory)) from None
