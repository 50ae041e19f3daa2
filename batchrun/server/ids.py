"""Ids, names, keys and times as the platform spells them. Pure but for randomness and the wall clock."""

import hashlib
import os
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from batchrun.server.error_answers import ErrorAnswer, value_invalid

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
#: Every byte to a character; eight characters come a little more often, which costs 0.04 of 77 bits.
_BYTE_TO_CHARACTER = bytes(_ALPHABET[byte % 62] for byte in range(256))

ID_LENGTH = 17
#: An id begins with the time, in eighths of a second, in characters whose order is that of their bytes: ids made at
#: about the same time lie close together in an index, so that a commit writes few of its pages. They come round again
#: after 21 days, which does no harm.
_PREFIX_LENGTH, _PREFIX_BITS = 4, 7
_PREFIX_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_LENGTH = ID_LENGTH - _PREFIX_LENGTH
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, whose offset the API writes as a Z
MAX_NAME_LENGTH = 63
#: Popping and extending a list is atomic: ids are made on several threads.
_SPARE_IDS: list[str] = []
_ID = re.compile(r"[a-zA-Z0-9]{17}")
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?")
_RECORD_KEY = re.compile(r"[a-zA-Z0-9!\-_.'()]{1,256}")


def new_id() -> str:
    """Return a fresh id of 17 characters that nobody can guess: ids of Runs and storages are credentials."""
    while True:
        try:
            return _SPARE_IDS.pop()
        except IndexError:
            # The system is asked for a hundred at once: a call costs more than all else about an id.
            characters = os.urandom(_RANDOM_LENGTH * 100).translate(_BYTE_TO_CHARACTER).decode()
            prefix = _time_prefix(now_ms())
            _SPARE_IDS.extend(
                prefix + characters[at : at + _RANDOM_LENGTH] for at in range(0, len(characters), _RANDOM_LENGTH)
            )


def _time_prefix(at_ms: int) -> str:
    rest, prefix = at_ms >> _PREFIX_BITS, ""
    for _ in range(_PREFIX_LENGTH):
        rest, digit = divmod(rest, len(_PREFIX_ALPHABET))
        prefix = _PREFIX_ALPHABET[digit] + prefix
    return prefix


@lru_cache(maxsize=1024)
def derived_id(name: str) -> str:
    """Return the id that always belongs to `name`; for Actors, whose ids are public and must outlive restarts."""
    return hashlib.sha256(name.encode()).digest()[:ID_LENGTH].translate(_BYTE_TO_CHARACTER).decode()


def is_id(text: str) -> bool:
    """Whether `text` has the form of an id."""
    return _ID.fullmatch(text) is not None


def check_name(name: object, what: str, *, min_length: int = 1) -> str:
    """Return `name` if it is a legal name.

    Raises:
        ErrorAnswer: 400 `invalid-value`; names are DNS-safe and at most 63 characters long.
    """
    if not isinstance(name, str) or not min_length <= len(name) <= MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise value_invalid(
            f"{what} name is not valid: it must have {min_length} to {MAX_NAME_LENGTH} characters, only letters, "
            "digits and hyphens, and neither begin nor end with a hyphen"
        )
    return name


def check_record_key(key: str) -> str:
    """Return `key` if it may name a record of a key-value store.

    Raises:
        ErrorAnswer: 400 `invalid-record-key`.
    """
    if not _RECORD_KEY.fullmatch(key):
        raise ErrorAnswer(
            400,
            "invalid-record-key",
            "Record key is not valid: it must have 1 to 256 characters out of a-zA-Z0-9!-_.'()",
        )
    return key


def now_ms() -> int:
    """Return the wall time in milliseconds since the epoch."""
    return int(datetime.now(UTC).timestamp() * 1000)


def iso(at_ms: int) -> str:
    """Return a wall time as the API writes it: `2026-01-31T12:00:00.000Z`."""
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds") + "Z"


def parse_iso(text: str, parameter: str) -> int:
    """Return the milliseconds of an ISO 8601 time; one without a zone is UTC.

    Raises:
        ErrorAnswer: 400 when `text` is no such time.
    """
    try:
        at = datetime.fromisoformat(text)
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise value_invalid(f"Parameter {parameter} must be a date and time in ISO 8601") from None
