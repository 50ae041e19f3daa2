"""A directory that is held open: work in it goes on there, whatever others put in its place or in that of its parts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

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

    def take(self, name: str, source: Self) -> None:
        """Move a file from another directory into this one."""
        os.replace(name, name, src_dir_fd=source.descriptor, dst_dir_fd=self.descriptor)


@contextmanager
def held(directory: Path) -> Iterator[HeldDirectory]:
    """Hold a directory, to which a symbolic link may lead.

    Raises:
        OSError: it cannot be opened.
    """
    with _opened(str(directory)) as descriptor:
        yield HeldDirectory(descriptor)


@contextmanager
def _opened(name: str, flags: int = 0, within: int | None = None) -> Iterator[int]:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | flags, dir_fd=within)
    except NotADirectoryError as error:  # Linux says that of a link, too
        raise OSError(error.errno, _IS_NO_DIRECTORY, name) from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)
