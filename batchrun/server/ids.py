"""Ids, names, keys and times in the platform's formats. Pure except for randomness and the wall clock."""

import hashlib
import os
import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from batchrun.server.error_answers import record_key_invalid, value_invalid

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
#: Maps each byte to a character. Eight characters are a little more frequent, which costs 0.04 of 77 bits.
_BYTE_TO_CHARACTER = bytes(_ALPHABET[byte % 62] for byte in range(256))

#: Characters of an id. Source: the platform's own ids.
ID_LENGTH = 17
#: Characters of an id's prefix, and the low bits of the time in ms that it leaves out. The prefix sorts like the time:
#: ids made at about the same time are close together in an index, so that a commit writes few pages. It repeats after
#: about 21 days, which is harmless.
_PREFIX_LENGTH, _PREFIX_BITS = 4, 7
_PREFIX_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_LENGTH = ID_LENGTH - _PREFIX_LENGTH
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC, whose offset the API writes as a Z
#: Max characters of a name. Source: the API reference.
MAX_NAME_LENGTH = 63
#: Ids are made on several threads: popping and extending a list is atomic.
_SPARE_IDS: list[str] = []
_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?")
_RECORD_KEY = re.compile(r"[a-zA-Z0-9!\-_.'()]{1,256}")


def new_id() -> str:
    """Return a new id of 17 characters. It cannot be guessed: ids of Runs and storages are credentials."""
    while True:
        try:
            return _SPARE_IDS.pop()
        except IndexError:
            # Random bytes for 100 ids at once: the system call costs more than the rest of an id.
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
    """Return the id that follows from `name`; for Actors, whose ids are public and outlive restarts."""
    return hashlib.sha256(name.encode()).digest()[:ID_LENGTH].translate(_BYTE_TO_CHARACTER).decode()


def check_name(name: object, what: str, *, min_length: int = 1) -> str:
    """Return `name` if it is valid: DNS-safe and at most 63 characters long."""
    if not isinstance(name, str) or not min_length <= len(name) <= MAX_NAME_LENGTH or not _NAME.fullmatch(name):
        raise value_invalid(
            f"{what} name is not valid: it must have {min_length} to {MAX_NAME_LENGTH} characters, only letters, "
            "digits and hyphens, and neither begin nor end with a hyphen"
        )
    return name


def check_record_key(key: str) -> str:
    """Return `key` if it may name a record of a key-value store."""
    if not _RECORD_KEY.fullmatch(key):
        raise record_key_invalid("it must have 1 to 256 characters out of a-zA-Z0-9!-_.'()")
    return key


def now_ms() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)


def iso(at_ms: int) -> str:
    """Return a wall time as the API writes it: `2026-01-31T12:00:00.000Z`."""
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds") + "Z"


def parse_iso(text: str, parameter: str) -> int:
    """Return the wall milliseconds of an ISO 8601 time. Without a zone it is UTC."""
    try:
        at = datetime.fromisoformat(text)
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise value_invalid(f"Parameter {parameter} must be a date and time in ISO 8601") from None
