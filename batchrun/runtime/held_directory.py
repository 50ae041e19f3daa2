"""A directory that is held open: work in it goes on there, whatever others put in its place or in that of its parts."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Self

from batchrun.runtime.private_files import private_opener, read_private, refuse_exchanged

#: How the names of files begin that are not whole yet.
UNFINISHED = ".new-"
#: Errors of a symbolic link or a file in the place of a directory: Linux says both of a link.
IS_NO_DIRECTORY = (errno.ENOTDIR, errno.ELOOP)
_IS_NO_DIRECTORY = "it is a symbolic link or a file; remove it if you did not put it there"


class HeldDirectory:
    """An open directory, in which no symbolic link is followed. Its methods raise OSError."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @contextmanager
    def within(self, name: str, *, makes: bool = False) -> Iterator[Self]:
        """Hold a directory in this one; `makes` one with mode 0700 if there is none."""
        if makes:
            with suppress(FileExistsError):
                os.mkdir(name, mode=0o700, dir_fd=self.descriptor)
        with _opened(name, os.O_NOFOLLOW, self.descriptor) as descriptor:
            yield type(self)(descriptor)

    def replace(self, name: str, content: bytes, *, is_durable: bool = False) -> None:
        """Write a whole file with mode 0600; on an error no part of it is left.

        If it is durable, it is found after a loss of power, too.
        """
        beside = f".{name}.new"
        with suppress(FileNotFoundError):
            os.unlink(beside, dir_fd=self.descriptor)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            with os.fdopen(os.open(beside, flags, 0o600, dir_fd=self.descriptor), "wb") as file:
                file.write(content)
                if is_durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(beside, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        except OSError:
            with suppress(OSError):
                os.unlink(beside, dir_fd=self.descriptor)
            raise
        if is_durable:
            os.fsync(self.descriptor)

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return what `read_private` does of a file in this directory."""
        return read_private(Path(name), max_bytes, within=self.descriptor)

    def create(self, name: str, content: bytes) -> bool:
        """Write a new file, whole and durably; False: there is one of this name.

        It is written beside it first, and linked: `link` fails if the name exists, atomically on NFS too.
        """
        beside = f"{UNFINISHED}{secrets.token_hex(8)}"
        try:
            with open(beside, "xb", opener=partial(private_opener, within=self.descriptor)) as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            try:
                os.link(beside, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor, follow_symlinks=False)
            except FileExistsError:
                return False
            os.fsync(self.descriptor)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(beside, dir_fd=self.descriptor)
        return True

    def has(self, name: str) -> bool:
        """Return whether there is anything of this name, a link that leads nowhere included."""
        try:
            os.lstat(name, dir_fd=self.descriptor)
        except FileNotFoundError:
            return False
        return True

    def take(self, name: str, source: Self, new_name: str) -> None:
        """Move a file from another directory into this one."""
        os.replace(name, new_name, src_dir_fd=source.descriptor, dst_dir_fd=self.descriptor)


@contextmanager
def held(directory: Path, *, follows_link: bool = True) -> Iterator[HeldDirectory]:
    """Hold a directory, to which a symbolic link may lead if it is followed.

    Raises:
        OSError: it cannot be opened.
    """
    with _opened(str(directory), 0 if follows_link else os.O_NOFOLLOW) as descriptor:
        refuse_exchanged(descriptor, str(directory))
        yield HeldDirectory(descriptor)


@contextmanager
def _opened(name: str, flags: int, within: int | None = None) -> Iterator[int]:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags, dir_fd=within)
    except OSError as error:
        if error.errno in IS_NO_DIRECTORY:
            raise OSError(error.errno, _IS_NO_DIRECTORY, name) from None
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)
