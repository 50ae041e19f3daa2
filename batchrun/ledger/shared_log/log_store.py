"""What a shared log needs of a store, and the stores by their URLs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol
from urllib.parse import SplitResult, urlsplit, urlunsplit

from batchrun.errors import ConfigError


class LogStore(Protocol):
    """Numbered entries and named objects of one batch. Methods block; several threads may call them.

    What is larger than anything that a batchrun writes, or can never be read, is read as empty, and so as damaged.

    Raises:
        LogUnreachable: The store did not answer, or refused. An entry may have been appended all the same.
        LedgerError: Somebody has put something else in the store's place.
    """

    def append(self, number: int, entry: bytes) -> bool:
        """Append an entry under its number, durably; return False if there is an entry with that number.

        Raises:
            ConfigError: The store would overwrite that, so that two machines could own the batch.
        """

    def read(self, number: int) -> bytes | None:
        """Return an entry; None: there is none yet."""

    def read_from(self, number: int) -> Iterator[bytes]:
        """Yield the entries from one on, in order, up to the last one that there is."""

    def put_object(self, name: str, content: bytes) -> None:
        """Store an object, durably. Its name is made from its content, so the same may be stored again."""

    def get_object(self, name: str) -> bytes | None:
        """Return an object; None: there is none."""

    def has_later(self, number: int) -> bool:
        """Return True if there is an entry with a higher number; False also where the store itself refuses a gap."""

    def caution(self) -> str:
        """Return in words how this store can lose entries; empty: no way is known. Takes a second or two."""


def open_store(url: str) -> AbstractContextManager[LogStore]:
    """Open the store that a URL names. No two batches may have the same URL.

    Raises:
        ConfigError: The URL names no kind of store that there is, or a package for it is not installed.
        LogUnreachable: The store does not answer.
        LedgerError: Somebody has put something else in its place.
    """
    scheme = split_url(url).scheme
    if scheme == "file":
        from batchrun.ledger.shared_log.directory_store import open_directory_store  # noqa: PLC0415 - it needs this module

        return open_directory_store(url)
    if scheme == "nats":
        return _nats(url)
    if scheme in ("s3", "gs", "az", "azure", "abfs", "abfss"):
        return _bucket(url)
    raise ConfigError(
        f"replica.url: {scheme or 'nothing'!r} is no kind of store; there are s3://, gs://, az://, nats:// and file://"
    )


def split_url(url: str) -> SplitResult:
    """Return the parts of a store's URL.

    Raises:
        ConfigError: It is none.
    """
    try:
        return urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"replica.url: {error}; write it like s3://bucket/path or nats://host:4222/name") from None


def part_url(url: str, part: str) -> str:
    """Return the URL of a log within a place that has several: `part` is of letters, digits and -.

    Raises:
        ConfigError: as `split_url` does.
    """
    parts = split_url(url)
    between = "-" if parts.scheme == "nats" else "/"  # a stream's name has no levels
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}{between}{part}"))


def open_part(url: str, part: str) -> AbstractContextManager[LogStore]:
    """Open the log `part_url` of a place, and create it if it is missing.

    Raises:
        ConfigError, LogUnreachable, LedgerError: as `open_store` does, of the place or of the log.
    """
    if split_url(url).scheme == "file":
        from batchrun.ledger.shared_log.directory_store import make_part  # noqa: PLC0415 - it needs this module

        make_part(url, part)
    return open_store(part_url(url, part))


def _nats(url: str) -> AbstractContextManager[LogStore]:
    try:
        from batchrun.ledger.shared_log.nats_store import open_nats_store  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError("replica.url: nats:// needs the extra [nats] of batchrun: pip install '.[nats]'") from error
    return open_nats_store(url)


def _bucket(url: str) -> AbstractContextManager[LogStore]:
    parts = split_url(url)
    names_container = parts.scheme.startswith("abfs")  # abfss://container@account…
    if parts.query or parts.password is not None or (parts.username is not None and not names_container):
        raise ConfigError("replica.url: is noted in files, so it must hold no key. Set the store's variables")
    try:
        from batchrun.ledger.shared_log.bucket_store import open_bucket_store  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            "replica.url: buckets need the extra [bucket] of batchrun: pip install '.[bucket]'"
        ) from error
    return open_bucket_store(url)
