"""A shared log in a directory that several machines mount: a file an entry."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from batchrun.errors import ConfigError, LedgerError, LogUnreachable
from batchrun.ledger.shared_log.object_names import (
    MAX_READ_ENTRY_BYTES,
    MAX_READ_OBJECT_BYTES,
    entry_name,
    object_name,
)
from batchrun.runtime.held_directory import IS_NO_DIRECTORY, UNFINISHED, HeldDirectory, held
from batchrun.runtime.shell_command import shell_command

_FOLDERS = ("log", "objects")
#: Age in seconds after which a file that a killed process has left is removed.
_LEFT_AFTER_S = 3600.0
#: Errors of a directory, a link or a device in the place of a file: somebody has put it there, and no wait mends it.
_NO_FILE = (errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENXIO)


class DirectoryStore:
    """The files of one log. An entry appears whole, under its number, or not at all.

    Others may write to the directory: no symbolic link in it is followed, and each call opens it again, since its mount
    may be gone or back.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """Create the folders, and remove what killed processes have left.

        The directory itself must exist. Where its mount is missing, a new one would look like a batch that is new.
        """
        for folder in _FOLDERS:
            with (
                _explaining(self._directory, folder),
                held(self._directory, follows_link=False) as place,
                place.within(folder, makes=True) as opened,
            ):
                os.fsync(place.descriptor)
                _remove_left(opened.descriptor)

    def append(self, number: int, entry: bytes) -> bool:
        return self._create(entry_name(number), entry)

    def read(self, number: int) -> bytes | None:
        return self._read(entry_name(number), MAX_READ_ENTRY_BYTES)

    def read_from(self, number: int) -> Iterator[bytes]:
        while (entry := self.read(number)) is not None:
            yield entry
            number += 1

    def put_object(self, name: str, content: bytes) -> None:
        self._create(object_name(name), content)

    def get_object(self, name: str) -> bytes | None:
        return self._read(object_name(name), MAX_READ_OBJECT_BYTES)

    def has_later(self, number: int) -> bool:
        with self._within(entry_name(number)) as (log, this):
            names = os.listdir(log.descriptor)  # noqa: PTH208 - of an open directory
        return any(name > this and not name.startswith(".") for name in names)

    def caution(self) -> str:
        return ""

    def _create(self, path: str, content: bytes) -> bool:
        with self._within(path) as (folder, name):
            return folder.create(name, content)

    def _read(self, path: str, max_bytes: int) -> bytes | None:
        with self._within(path) as (folder, name):
            try:
                return folder.read(name, max_bytes)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno in _NO_FILE:
                    return b""
                raise

    @contextmanager
    def _within(self, path: str) -> Iterator[tuple[HeldDirectory, str]]:
        """Hold the folder of an entry or object, and give its name there. A folder that is gone is no empty one."""
        folder, name = path.split("/")
        with (
            _explaining(self._directory, path),
            held(self._directory, follows_link=False) as place,
            place.within(folder) as opened,
        ):
            yield opened, name


def _remove_left(folder: int) -> None:
    for name in os.listdir(folder):
        if name.startswith(UNFINISHED):
            with suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if found.st_mtime < time.time() - _LEFT_AFTER_S:  # noqa: TID251 - as files are stamped
                    os.unlink(name, dir_fd=folder)


@contextmanager
def _explaining(directory: Path, path: str) -> Iterator[None]:
    """Explain errors of a path in a directory: where somebody has put a link, no wait mends it."""
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno in IS_NO_DIRECTORY:
            raise LedgerError(f"{directory / str(error.filename)}: {what}") from error
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            what += "; the file system must have hard links"
        raise LogUnreachable(f"{directory / path}: {what}") from error


@contextmanager
def open_directory_store(url: str) -> Iterator[DirectoryStore]:
    """Open the directory that a file:// URL names.

    Raises:
        ConfigError: The URL is not file:///absolute/path.
        LogUnreachable: The directory does not exist, or cannot be written.
        LedgerError: It, or a folder in it, is a symbolic link, which others could lead elsewhere.
    """
    path = _existing(url)
    if path.is_symlink():
        raise LedgerError(
            f"{path}: it is a symbolic link; remove it if you did not put it there, or name the directory itself"
        )
    store = DirectoryStore(path)
    store.prepare()
    yield store


def make_part(url: str, part: str) -> None:
    """Create a directory for a log within a place, which exists.

    Raises:
        ConfigError, LogUnreachable, LedgerError: as `open_directory_store` does.
    """
    directory = _existing(url)
    with _explaining(directory, part), held(directory) as place, place.within(part, makes=True):
        os.fsync(place.descriptor)


def _existing(url: str) -> Path:
    parts = urlsplit(url)
    path = Path(unquote(parts.path))
    if parts.netloc or not path.is_absolute() or path == Path("/"):
        raise ConfigError(f"replica.url: {url!r} must be like file:///mnt/shared/batches/shop")
    if not path.is_dir():
        raise LogUnreachable(
            f"{path}: there is no such directory. Is it mounted? At its first use, create it once, on one machine:"
            f" {shell_command('mkdir', path)}"
        )
    return path
