"""A shared log in a directory that several machines mount: a file an entry."""

import errno
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from batchrun.errors import ConfigError, LogUnreachable
from batchrun.ledger.shared_log.object_names import (
    MAX_READ_ENTRY_BYTES,
    MAX_READ_OBJECT_BYTES,
    entry_name,
    object_name,
)
from batchrun.output.sink import sync_directory
from batchrun.runtime.private_files import private_opener, read_private
from batchrun.runtime.shell_command import shell_command

#: Age in seconds after which a file that a killed process has left is removed.
_LEFT_AFTER_S = 3600.0
#: Errors of a directory, a link or a device in the place of a file: somebody has put it there, and no wait mends it.
_NO_FILE = (errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENXIO)


class DirectoryStore:
    """The files of one log. An entry appears whole, under its number, or not at all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = directory / "log"
        self._objects = directory / "objects"

    def prepare(self) -> None:
        """Create the folders, and remove what killed processes have left.

        The directory itself must exist. Where its mount is missing, a new one would look like a batch that is new.
        """
        with _explaining(self._log):
            for each in (self._log, self._objects):
                each.mkdir(exist_ok=True, mode=0o700)
                sync_directory(each.parent)
                for left in each.glob(".new-*"):
                    with suppress(FileNotFoundError):
                        if left.stat().st_mtime < time.time() - _LEFT_AFTER_S:  # noqa: TID251 - as files are stamped
                            left.unlink()

    def append(self, number: int, entry: bytes) -> bool:
        return self._create(self._directory / entry_name(number), entry)

    def read(self, number: int) -> bytes | None:
        return _read(self._directory / entry_name(number), MAX_READ_ENTRY_BYTES)

    def read_from(self, number: int) -> Iterator[bytes]:
        while (entry := self.read(number)) is not None:
            yield entry
            number += 1

    def put_object(self, name: str, content: bytes) -> None:
        self._create(self._directory / object_name(name), content)

    def get_object(self, name: str) -> bytes | None:
        return _read(self._directory / object_name(name), MAX_READ_OBJECT_BYTES)

    def has_later(self, number: int) -> bool:
        this = self._directory / entry_name(number)
        with _explaining(self._log):
            return any(file.name > this.name and not file.name.startswith(".") for file in self._log.iterdir())

    def caution(self) -> str:
        return ""

    def _create(self, file: Path, content: bytes) -> bool:
        """Write a temporary file and link it under its name; `link` fails if the name exists, atomically on NFS too."""
        beside = file.parent / f".new-{secrets.token_hex(8)}"
        with _explaining(file):
            try:
                with open(beside, "xb", opener=private_opener) as opened:
                    opened.write(content)
                    opened.flush()
                    os.fsync(opened.fileno())
                try:
                    os.link(beside, file)
                except FileExistsError:
                    return False
                sync_directory(file.parent)
            finally:
                beside.unlink(missing_ok=True)
        return True


def _read(file: Path, max_bytes: int) -> bytes | None:
    with _explaining(file):
        try:
            return read_private(file, max_bytes)
        except FileNotFoundError:
            # If the mount is gone, so is this folder: report that, not an empty log.
            if not file.parent.exists():
                raise
            return None
        except OSError as error:
            if error.errno in _NO_FILE:
                return b""
            raise


@contextmanager
def _explaining(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = error.strerror or str(error)
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            what += "; the file system must have hard links"
        raise LogUnreachable(f"{file}: {what}") from error


@contextmanager
def open_directory_store(url: str) -> Iterator[DirectoryStore]:
    """Open the directory that a file:// URL names.

    Raises:
        ConfigError: The URL is not file:///absolute/path.
        LogUnreachable: The directory does not exist, or cannot be written.
    """
    store = DirectoryStore(_existing(url))
    store.prepare()
    yield store


def make_part(url: str, part: str) -> None:
    """Create a directory for a log within a place, which exists.

    Raises:
        ConfigError, LogUnreachable: as `open_directory_store` does.
    """
    path = _existing(url) / part
    with _explaining(path):
        path.mkdir(exist_ok=True, mode=0o700)
        sync_directory(path.parent)


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
