"""A shared log in a bucket with conditional puts (S3, GCS, Azure, R2, MinIO): an object an entry."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import ObjectStore, from_url

from batchrun.errors import ConfigError, LogUnreachable
from batchrun.ledger.shared_log.object_names import (
    MAX_READ_ENTRY_BYTES,
    MAX_READ_OBJECT_BYTES,
    entry_name,
    object_name,
)
from batchrun.ledger.shared_log.read_ahead import read_up_to_the_end

#: Seconds for one request.
_REQUEST_S = 10.0
#: Retries within obstore, and the seconds they may take.
_MAX_RETRIES = 2
_RETRY_S = 10.0


#: What obstore says of an object that cannot be read for good, whoever has put it there: its headers are no text or no
#: HTTP, or it is in an archive.
_SIGNS_OF_DAMAGE = re.compile(r"contained non UTF-8 characters|Parse\(\s*Header\(|<Code>InvalidObjectState</Code>")

#: Of an address in an error, as AWS_ENDPOINT may have it.
_USER_INFO = re.compile(r"//\S*@")
#: Variables that hold the address of a store. obstore ends the process with a traceback for an address that is none.
_OF_S3 = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_OF_AZURE = ("AZURE_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
#: Those that are read, by the scheme of a URL.
_ENDPOINTS = {"s3": _OF_S3, "gs": ()} | dict.fromkeys(("az", "azure", "abfs", "abfss"), _OF_AZURE)
_ADDRESS = re.compile(r"""https?://(?:(?!["<>\\^`{|}])[!-~])+""", re.IGNORECASE)

#: What obstore raises; ValueError of an answer with a date that is none.
_ERRORS = (BaseError, OSError, ValueError)
#: An object that is there to be created once.
_PROBE = "objects/created-once"


class BucketStore:
    """The objects of one log."""

    def __init__(self, store: ObjectStore, url: str) -> None:
        self._store = store
        self._url = url
        #: True once it is known.
        self._refuses_overwriting = False

    def append(self, number: int, entry: bytes) -> bool:
        if not self._refuses_overwriting:
            self._refuse_overwriting()
        return self._create(entry_name(number), entry)

    def read(self, number: int) -> bytes | None:
        return self._get(entry_name(number), MAX_READ_ENTRY_BYTES)

    def read_from(self, number: int) -> Iterator[bytes]:
        return read_up_to_the_end(self.read, number)

    def put_object(self, name: str, content: bytes) -> None:
        self._create(object_name(name), content)

    def get_object(self, name: str) -> bytes | None:
        return self._get(object_name(name), MAX_READ_OBJECT_BYTES)

    def _refuse_overwriting(self) -> None:
        """Check that the bucket refuses to create an object twice: some vendors ignore the condition of a put.

        Raises:
            ConfigError: It does not.
        """
        if self._create(_PROBE, secrets.token_bytes(8)) and self._create(_PROBE, secrets.token_bytes(8)):
            raise ConfigError(
                f"{self._url}: this bucket overwrites objects that a conditional put (If-None-Match) must not, so that"
                " two machines could own the batch. Choose a store that has conditional puts"
            )
        self._refuses_overwriting = True

    def has_later(self, number: int) -> bool:
        this = entry_name(number)
        try:
            later = obstore.list(self._store, "log", offset=this, chunk_size=1)
            return any(each["path"] > this for each in next(iter(later), ()))
        except _ERRORS as error:
            raise self._unreachable(error) from error

    def caution(self) -> str:
        return ""

    def _create(self, path: str, content: bytes) -> bool:
        try:
            obstore.put(self._store, path, content, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        except _ERRORS as error:
            raise self._unreachable(error) from error
        return True

    def _get(self, path: str, max_bytes: int) -> bytes | None:
        try:
            found = obstore.get(self._store, path)
            return bytes(found.bytes()) if found.meta["size"] <= max_bytes else b""
        except (NotFoundError, FileNotFoundError):
            return None
        except _ERRORS as error:
            if _SIGNS_OF_DAMAGE.search(str(error)):
                return b""
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> LogUnreachable:
        first_line = str(error).strip().partition("\n")[0]
        return LogUnreachable(f"{self._url}: {_USER_INFO.sub('//***@', first_line)}")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        is_whole = parts.hostname and "%" not in parts.hostname and parts.port != 0 and _ADDRESS.fullmatch(text)
        # It stands in errors: no key may be in it.
        return bool(is_whole) and not (parts.query or parts.fragment)
    except ValueError:
        return False


@contextmanager
def open_bucket_store(url: str) -> Iterator[BucketStore]:
    """Open the bucket and prefix that a URL names; credentials come from the environment, as the vendors' tools do.

    Raises:
        ConfigError: The URL names no bucket, or the environment no address.
    """
    for name in _ENDPOINTS[urlsplit(url).scheme]:
        if name in os.environ and not _is_address(os.environ[name]):
            raise ConfigError(
                f"{name} is no address like https://host:9000, without ? and #. In a password, write what is no letter"
                " or digit as % and two digits, / as %2F; if the vendor's own address is meant, unset it"
            )
    try:
        store = from_url(
            url,
            # Plain http is used only where AWS_ENDPOINT or the like names such an address.
            client_options={"timeout": timedelta(seconds=_REQUEST_S), "allow_http": True},
            retry_config={"max_retries": _MAX_RETRIES, "retry_timeout": timedelta(seconds=_RETRY_S)},
        )
    except (BaseError, ValueError) as error:
        raise ConfigError(f"replica.url: {str(error).partition(chr(10))[0]}") from error
    yield BucketStore(store, url)
